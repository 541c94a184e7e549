"""Reaching hosts: on this one a command is a child of ours, on others it is behind ssh or srun.

Every word that crosses a shell is quoted, and of our environment only what is named here goes along.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable

from mux.plan import Cluster, Host

# The only variables that cross to other hosts. No secret is ever among them.
FORWARDED = ("CUDA_DEVICE_MAX_CONNECTIONS", "DS_ACCELERATOR", "GLOO_SOCKET_IFNAME", "HF_HOME", "HF_HUB_OFFLINE",
             "HF_DATASETS_OFFLINE", "MUX_CACHE", "NCCL_DEBUG", "NCCL_IB_DISABLE", "NCCL_IB_HCA", "NCCL_SOCKET_IFNAME",
             "OMP_NUM_THREADS", "PYTHONPATH")

# Nobody is asked for a password or about a host key; nothing of the user's session goes along.
SSH_OPTIONS = {"BatchMode": "yes", "StrictHostKeyChecking": "yes", "ConnectTimeout": "10", "ServerAliveInterval": "5",
               "ServerAliveCountMax": "3", "ForwardAgent": "no", "ForwardX11": "no", "ClearAllForwardings": "yes",
               "PermitLocalCommand": "no", "ControlMaster": "no", "ControlPath": "none"}
SSH_NEEDS = ("HOME", "LANG", "LOGNAME", "PATH", "SSH_AUTH_SOCK", "USER")  # a user's SendEnv finds nothing else to send

# What a login to a node of SLURM would set, and what environment modules do.
LOGIN = ("HOME", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SHELL", "TMPDIR", "USER")

# One process on one node, beside all other steps of the job, with all that the job has of the node. Its stdin, which
# is the launcher's lease, is ours; when it fails nothing waits.
STEP = ("--nodes=1", "--ntasks=1", "--overlap", "--mem=0", "--cpu-bind=none", "--mpi=none", "--kill-on-bad-exit=1",
        "--quiet")


def reach(cluster: Cluster, host: Host, argv: list[str], variables: dict[str, str]) -> list[str]:
    """The command that runs `argv` on a host, in the directory of this process. On this host it is `argv` itself,
    to be started with `variables` in its environment."""
    if host.local:
        return argv
    forwarded = {name: os.environ[name] for name in FORWARDED if name in os.environ}
    return REACH[cluster.reach](host, argv, forwarded | variables, os.getcwd())


def environment(cluster: Cluster, host: Host, variables: dict[str, str]) -> dict[str, str]:
    """What the process that `reach` begins here finds in its environment."""
    if host.local or cluster.reach == "srun":
        return os.environ | variables
    return {name: os.environ[name] for name in SSH_NEEDS if name in os.environ}


def ssh_command(host: Host, argv: list[str], variables: dict[str, str], directory: str) -> list[str]:
    """`argv` on another host: one ssh whose remote shell sees quoted words only."""
    options = [word for name, value in SSH_OPTIONS.items() for word in ("-o", f"{name}={value}")]
    words = shlex.join(["env", *_settings(variables), *argv])
    return ["ssh", "-T", *options, "--", host.name, f"cd {shlex.quote(directory)} && exec {words}"]


def srun_command(host: Host, argv: list[str], variables: dict[str, str], directory: str) -> list[str]:
    """`argv` on another node of this SLURM job. No shell is between; of our environment only LOGIN goes along."""
    return ["srun", *STEP, f"--nodelist={host.name}", f"--export={','.join(LOGIN)}", f"--chdir={directory}",
            "env", *_settings(variables), *argv]


REACH: dict[str, Callable[[Host, list[str], dict[str, str], str], list[str]]] = {
    "ssh": ssh_command,
    "srun": srun_command,
}


def _settings(variables: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in sorted(variables.items())]
