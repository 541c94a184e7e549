#!/bin/bash
# Ends everything that lives in the namespaces of a prefix, and takes them and their bridge away.
#
#     namespaces_down.sh PREFIX
set -uo pipefail
prefix=$1
hosts() { ip netns list | cut -d' ' -f1 | grep -xE "$prefix[0-9]+"; }

for name in $(hosts); do
  for _ in $(seq 50); do  # what is being started while we look is found the next time
    living=$(ip netns pids "$name")
    [ -z "$living" ] && break
    kill -9 $living 2>/dev/null
    sleep 0.1
  done
  ip link del "${prefix}v${name#"$prefix"}" 2>/dev/null
  ip netns del "$name"
done
ip link del "${prefix}br" 2>/dev/null
for _ in $(seq 50); do  # links go a moment after their namespace
  [ -z "$(ip -o link | grep -E ": $prefix(br|v[0-9]+)[:@]")" ] && exit 0
  sleep 0.1
done
echo "links of $prefix are left" >&2
exit 1
