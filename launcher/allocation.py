"""What a scheduler has given, or is asked for -> Cluster: the variables of SLURM, the files of PBS and LSF.

Variables are input like any other: what does not read as its scheduler writes it is refused by name.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from launcher import gpu, hostfile
from mux.plan import Cluster, Host
from mux.recipe import Problem, Recipe, Refusal
from mux.recipe.wording import printable

Variables = Mapping[str, str]
WAY_OUT = "--hostfile FILE names the hosts without the scheduler"
SCONTROL_SECONDS = 30.0  # it expands a list and asks nobody


class NodeFile(NamedTuple):
    """A scheduler's file of hosts: one line a slot."""

    scheduler: str
    variable: str
    job: str


NODE_FILES = (
    NodeFile("PBS", "PBS_NODEFILE", "PBS_JOBID"),
    NodeFile("LSF", "LSB_DJOB_HOSTFILE", "LSB_JOBID"),
)

NODE_LIST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,\[\]-]{0,99999}")
# SLURM's words for the GPUs of a node, the most exact first: what was asked for on each node ("a100:8"), how many this
# node gives, which ones. Each is the same on all nodes, or preflight says so.
GPUS: dict[str, tuple[re.Pattern[str], Callable[[str], int]]] = {
    "SLURM_GPUS_PER_NODE": (re.compile(r"([A-Za-z0-9._-]+:)?[0-9]{1,4}(,([A-Za-z0-9._-]+:)?[0-9]{1,4})*"),
                            lambda text: sum(int(part.rpartition(":")[2]) for part in text.split(","))),
    "SLURM_GPUS_ON_NODE": (re.compile(r"[0-9]{1,4}"), int),
    "SLURM_JOB_GPUS": (re.compile(r"[0-9]{1,4}(,[0-9]{1,4})*"), lambda text: len(text.split(","))),
}


def cluster(processes: int, variables: Variables = os.environ) -> Cluster | None:
    """The hosts of the allocation that this process runs in, None if there is none. `processes`: ranks of a node that
    has no GPUs. Raises Refusal naming the variable that is not as its scheduler writes it."""
    if "SLURM_JOB_ID" in variables:
        return _slurm(processes, variables)
    kind = next((kind for kind in NODE_FILES if kind.variable in variables), None)
    return _node_file(kind, variables) if kind else None


def asked_for(recipe: Recipe) -> Cluster:
    """The hosts that `--slurm` asks for; SLURM chooses which they are."""
    asked = recipe.slurm
    slots = asked.gpus_per_node or recipe.cluster.processes
    hosts = tuple(Host(name=f"node-{number}", slots=slots) for number in range(1, asked.nodes + 1))
    return Cluster(hosts=hosts, device="cuda" if asked.gpus_per_node else "cpu", source="[slurm]", reach="srun")


# --- SLURM ----------------------------------------------------------------------------------------
def _slurm(processes: int, variables: Variables) -> Cluster:
    job = _read("SLURM_JOB_ID", variables, re.compile(r"[0-9]{1,12}"))
    names = _hostnames(_read("SLURM_JOB_NODELIST", variables, NODE_LIST))
    if len(names) != int(_read("SLURM_JOB_NUM_NODES", variables, re.compile(r"[0-9]{1,6}"))):
        raise _wrong("SLURM_JOB_NODELIST", f"names {len(names)} nodes, but SLURM_JOB_NUM_NODES is "
                                           f"{variables['SLURM_JOB_NUM_NODES']}")
    gpus = _gpus(variables)
    here = [name for name in names if name == variables.get("SLURMD_NODENAME") or hostfile.is_local(name)]
    if not gpus and here and (unasked := gpu.visible()):
        raise Refusal(Problem(f"has no GPUs, but this node has {len(unasked)}", where=f"SLURM job {job}",
                              hint="ask SLURM for them with --gpus-per-node, or set CUDA_VISIBLE_DEVICES= to train on "
                                   "CPUs"))
    hosts = tuple(Host(name=name, slots=gpus or processes, local=name in here) for name in names)
    return Cluster(hosts=hosts, device="cuda" if gpus else "cpu", source=f"SLURM job {job}", reach="srun")


def _hostnames(nodes: str) -> list[str]:
    """A list such as gpu[01-04,7] in full. Only SLURM knows how to read all of them."""
    try:
        done = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=SCONTROL_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        raise _wrong("SLURM_JOB_NODELIST", "cannot be read: scontrol does not run here") from None
    names = done.stdout.split()
    bad = [name for name in names if not hostfile.NAME.fullmatch(name)]
    if done.returncode or not names or bad or len(set(names)) < len(names):
        raise _wrong("SLURM_JOB_NODELIST", f"{nodes[:80]!a} is no list of different nodes to scontrol")
    return names


def _gpus(variables: Variables) -> int:
    """How many GPUs of each node are to be used."""
    if variables.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return 0
    for name, (pattern, count) in GPUS.items():
        if name in variables:
            number = count(_read(name, variables, pattern))
            if number > hostfile.MAX_SLOTS:
                raise _wrong(name, f"says {number} GPUs, more than {hostfile.MAX_SLOTS}")
            return number
    return 0


# --- PBS, LSF -------------------------------------------------------------------------------------
def _node_file(kind: NodeFile, variables: Variables) -> Cluster:
    """The hosts of a node file in its order, with a slot for each line of theirs."""
    path = Path(variables[kind.variable])
    lines = [line.strip() for line in hostfile.text(path, kind.variable).splitlines()]
    slots = Counter(line for line in lines if line)
    for name, count in slots.items():
        if not hostfile.NAME.fullmatch(name) or count > hostfile.MAX_SLOTS:
            raise _wrong(kind.variable, f"{printable(str(path))} has {count} lines {name[:80]!a}")
    if not slots:
        raise _wrong(kind.variable, f"{printable(str(path))} names no host")
    hosts = tuple(Host(name=name, slots=count, local=hostfile.is_local(name)) for name, count in slots.items())
    job = re.sub(r"[^A-Za-z0-9._\[\]-]", "?", variables.get(kind.job, "?"))[:80]
    return Cluster(hosts=hosts, device=hostfile.device(*hosts), source=f"{kind.scheduler} job {job}")


# --- words ----------------------------------------------------------------------------------------
def _read(name: str, variables: Variables, pattern: re.Pattern[str]) -> str:
    text = variables.get(name)
    if text is None:
        raise _wrong(name, "is not set in this allocation")
    if not pattern.fullmatch(text):
        raise _wrong(name, f"is {text[:80]!a}, which is not as a scheduler writes it")
    return text


def _wrong(name: str, message: str) -> Refusal:
    return Refusal(Problem(message, where=f"${name}", hint=WAY_OUT))
