#!/bin/bash
# The slurmd of one node of slurm_up.sh, also after it was killed.
#
#     slurm_node_up.sh FOLDER NAMESPACE
set -euo pipefail
nsenter --net="/run/netns/$2" unshare --uts --mount --propagation slave \
  sh -c "hostname $2 && mount --bind '$1/hosts' /etc/hosts && exec slurmd -N $2 -f '$1/slurm.conf'"
