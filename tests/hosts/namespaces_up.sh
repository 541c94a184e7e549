#!/bin/bash
# Hosts on one machine: network namespaces behind a bridge, each with its own sshd, host key, hostname and mounts.
#
#     namespaces_up.sh FOLDER PREFIX SUBNET COUNT       namespaces_up.sh /tmp/h abc 10.77.3 2
#
# makes abc1 at 10.77.3.1 and abc2 at 10.77.3.2; this machine is 10.77.3.254 on the bridge abcbr. FOLDER gets keys,
# known_hosts, ssh_config, a hostfile with one slot a host, and bin/ssh for the front of PATH. Needs root.
set -euo pipefail
folder=$1 prefix=$2 subnet=$3 count=$4
[ ${#prefix} -le 6 ] || { echo "the prefix $prefix has more than 6 characters" >&2; exit 2; }  # interfaces have 15
"$(dirname "$0")/namespaces_down.sh" "$prefix"  # what a killed process of this number has left

mkdir -p "$folder/bin" /run/sshd
ip link add "${prefix}br" type bridge
ip addr add "$subnet.254/24" dev "${prefix}br"
ip link set "${prefix}br" up
ssh-keygen -q -t ed25519 -N '' -f "$folder/id"
cp "$folder/id.pub" "$folder/authorized_keys"
chmod 600 "$folder/authorized_keys"

for i in $(seq "$count"); do
  name=$prefix$i
  ip netns add "$name"
  ip link add "${prefix}v$i" type veth peer name eth0 netns "$name"
  ip link set "${prefix}v$i" master "${prefix}br"
  ip link set "${prefix}v$i" up
  ip -n "$name" addr add "$subnet.$i/24" dev eth0
  ip -n "$name" link set eth0 up
  ip -n "$name" link set lo up
  ssh-keygen -q -t ed25519 -N '' -f "$folder/host_key_$i"
  cat > "$folder/sshd_$i.conf" <<CONF
Port 22
ListenAddress $subnet.$i
HostKey $folder/host_key_$i
AuthorizedKeysFile $folder/authorized_keys
PidFile $folder/sshd_$i.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
MaxSessions 100
CONF
  # nsenter, since `ip netns exec` hides /sys/fs/cgroup, which slurmd wants.
  nsenter --net="/run/netns/$name" unshare --uts --mount --propagation slave \
    sh -c "hostname $name; exec /usr/sbin/sshd -f $folder/sshd_$i.conf -E $folder/sshd_$i.log"
  echo "$subnet.$i $(cut -d' ' -f1,2 "$folder/host_key_$i.pub")" >> "$folder/known_hosts"
  echo "$subnet.$i slots=1" >> "$folder/hostfile"
done

cat > "$folder/ssh_config" <<CONF
Host $subnet.*
  User root
  IdentityFile $folder/id
  IdentitiesOnly yes
  UserKnownHostsFile $folder/known_hosts
  GlobalKnownHostsFile /dev/null
CONF
printf '#!/bin/sh\nexec /usr/bin/ssh -F %s/ssh_config "$@"\n' "$folder" > "$folder/bin/ssh"
chmod +x "$folder/bin/ssh"
