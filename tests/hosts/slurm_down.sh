#!/bin/bash
# Ends the SLURM cluster of slurm_up.sh; what lives in the namespaces goes with namespaces_down.sh.
#
#     slurm_down.sh FOLDER
set -uo pipefail
for file in "$1"/slurmd-*.pid "$1/slurmctld.pid" "$1/munged.pid"; do
  pid=$(cat "$file" 2>/dev/null) || continue
  for _ in $(seq 50); do
    kill "$pid" 2>/dev/null || continue 2
    sleep 0.1
  done
  kill -9 "$pid"
done
exit 0
