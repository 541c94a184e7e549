#!/bin/bash
# A SLURM cluster on top of namespaces_up.sh: slurmctld on this machine, one slurmd in each namespace.
#
#     slurm_up.sh FOLDER PREFIX SUBNET COUNT PORT       SLURM_CONF=FOLDER/slurm.conf sinfo
#
# The first four as namespaces_up.sh had them; PORT is slurmctld's. Debian: slurmctld slurmd slurm-client munge.
set -euo pipefail
folder=$1 prefix=$2 subnet=$3 count=$4 port=$5
here=$(dirname "$0")
export SLURM_CONF=$folder/slurm.conf

mkdir -p "$folder/state" "$folder/gpus"
sed "s#@FOLDER@#$folder#g; s#@HOST@#$(hostname)#g; s#@PREFIX@#$prefix#g; s#@SUBNET@#$subnet#g; s#@COUNT@#$count#g
     s#@PORT@#$port#g" "$here/slurm.conf.in" > "$SLURM_CONF"
echo "CgroupPlugin=cgroup/v1" > "$folder/cgroup.conf"
touch "$folder/gpus/0" "$folder/gpus/1"  # what SLURM takes for GPUs when it is asked for some
echo "NodeName=$prefix[1-$count] Name=gpu File=$folder/gpus/[0-1]" > "$folder/gres.conf"
# As on a real cluster, the nodes know each other by name.
{ echo "127.0.0.1 localhost"; for i in $(seq "$count"); do echo "$subnet.$i $prefix$i"; done; } > "$folder/hosts"

(umask 077; head -c 1024 /dev/urandom > "$folder/munge.key")
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
  --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
slurmctld -f "$SLURM_CONF"
for i in $(seq "$count"); do
  "$here/slurm_node_up.sh" "$folder" "$prefix$i"
done
