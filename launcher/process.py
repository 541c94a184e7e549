"""Processes: one `deepspeed.launcher.launch` per host, owned, watched and reaped by us.

Locally a child in its own session, elsewhere behind ssh; every word that crosses a shell is quoted. Children die with
the launcher (PR_SET_PDEATHSIG), ranks die with their node's launcher (mux.rank).
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from mux.run import Host, JobPlan, Plan, RunDirectory

PR_SET_PDEATHSIG = 1
FIRST_PORT, PORTS = 20_000, 10_000  # where ranks meet: below the ports that systems hand out
GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL
LIBC = ctypes.CDLL(None)  # loaded before any fork

# Keep freed memory instead of giving it back to the kernel: else page faults take up to half of a CPU step.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "1073741824", "MALLOC_TOP_PAD_": "67108864"}

# The only variables that cross to other hosts. No secret is ever among them.
FORWARDED = ("CUDA_DEVICE_MAX_CONNECTIONS", "DS_ACCELERATOR", "GLOO_SOCKET_IFNAME", "HF_HOME", "HF_HUB_OFFLINE",
             "HF_DATASETS_OFFLINE", "MUX_CACHE", "NCCL_DEBUG", "NCCL_IB_DISABLE", "NCCL_IB_HCA", "NCCL_SOCKET_IFNAME",
             "OMP_NUM_THREADS", "PYTHONPATH")


def node_command(plan: Plan, job: JobPlan, host_index: int, master: str, port: int | None) -> list[str]:
    """The command that starts a host's ranks. `port` None stands for the one that is chosen at the start."""
    slots = {host.name: devices(host) for host in job.hosts}
    world = base64.urlsafe_b64encode(json.dumps(slots).encode()).decode()
    return [
        sys.executable, "-u", "-m", "deepspeed.launcher.launch", f"--world_info={world}",
        f"--node_rank={host_index}", f"--master_addr={master}", f"--master_port={port or 'PORT'}",
        "--log_level=warning", "--no_local_rank", "--module", "mux.worker", plan.directory, str(job.id),
    ]


def devices(host: Host) -> list[int] | list[str]:
    """What the host's ranks see as their devices: of this machine's, those that CUDA_VISIBLE_DEVICES leaves."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    taken = slice(host.first_slot, host.first_slot + host.slots)
    if host.local and chosen and chosen != "-1":
        return chosen.split(",")[taken]
    return list(range(taken.stop))[taken]


def remote_command(host: Host, argv: list[str], variables: dict[str, str], directory: str) -> list[str]:
    """`argv` on another host: one ssh whose remote shell sees quoted words only."""
    settings = [f"{name}={value}" for name, value in sorted(variables.items())]
    words = shlex.join(["env", *settings, *argv])
    return ["ssh", "-tt", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5",
            "-o", "ServerAliveCountMax=3", "--", host.name, f"cd {shlex.quote(directory)} && exec {words}"]


def variables(plan: Plan, job: JobPlan, host: Host) -> dict[str, str]:
    """What the ranks of a job's host find in their environment besides what is there already."""
    neighbours = sum(other.slots for beside in plan.jobs if beside.phase == job.phase
                     for other in beside.hosts if other.name == host.name)
    threads = max(1, len(os.sched_getaffinity(0)) // neighbours) if plan.cluster.device == "cpu" else 4
    own = {
        "DS_ACCELERATOR": plan.cluster.device,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        # Threads that wait give up their core soon: on a busy machine they would stand in each other's way.
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "2000"),
        "TOKENIZERS_PARALLELISM": "true",
    }
    return own | MALLOC if plan.cluster.device == "cpu" else own


def host_commands(plan: Plan, job: JobPlan, port: int | None) -> list[list[str]]:
    """The exact command per host, as it is started from here; `port` None stands for the one chosen at the start."""
    commands, master = [], master_address(job)
    for index, host in enumerate(job.hosts):
        argv = node_command(plan, job, index, master, port)
        if not host.local:
            forwarded = {name: os.environ[name] for name in FORWARDED if name in os.environ}
            argv = remote_command(host, argv, forwarded | variables(plan, job, host), os.getcwd())
        commands.append(argv)
    return commands


def master_address(job: JobPlan) -> str:
    """Where the ranks meet: on the job's first host."""
    first = job.hosts[0]
    if len(job.hosts) == 1 and first.local:
        return "127.0.0.1"
    return socket.getfqdn() if first.local else first.name


def free_port(plan: Plan, job: JobPlan) -> int:
    """A port for them, from a range that is seldom in use; where it is ours, one that nobody has.

    Jobs that run at the same time never draw the same: their ports leave different remainders.
    """
    devices = plan.cluster.devices
    while True:
        port = FIRST_PORT + devices * random.SystemRandom().randrange(max(1, PORTS // devices)) + job.first_rank
        if not job.hosts[0].local or _nobody_has(port):
            return port


def _nobody_has(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


class JobProcesses:
    """The processes of one running job."""

    def __init__(self, plan: Plan, job: JobPlan, run: RunDirectory) -> None:
        """Start them."""
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._most_ranks: dict[int, int] = {}  # by the node's process id: children seen at once
        try:
            for host, argv in zip(job.hosts, host_commands(plan, job, free_port(plan, job)), strict=True):
                log = run.node_log(host.name, job)
                environment = os.environ | variables(plan, job, host)
                self._nodes.append(start(argv, log, environment))
        except BaseException:
            self.kill()
            raise

    def poll(self) -> int | None:
        """None while all is well; the first non-zero code as soon as there is one; 0 when all have ended with 0."""
        codes = [node.poll() for node in self._nodes]
        failed = [code for code in codes if code]
        if failed:
            return failed[0]
        return 0 if all(code == 0 for code in codes) else None

    def ranks_lost(self) -> bool:
        """Whether a rank on this host is gone while its node's launcher still waits for the others."""
        for node in self._nodes:
            try:
                alive = len(psutil.Process(node.pid).children())
            except psutil.NoSuchProcess:
                continue
            self._most_ranks[node.pid] = max(alive, self._most_ranks.get(node.pid, 0))
            if alive < self._most_ranks[node.pid]:
                return True
        return False

    def end(self) -> None:
        """SIGTERM, a moment of grace, SIGKILL: to whole process groups. Nothing is left when this returns."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and any(node.poll() is None for node in self._nodes):
            time.sleep(0.05)
        self.kill()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        for node in self._nodes:
            node.wait()

    def _signal(self, number: int) -> None:
        for node in self._nodes:
            try:
                os.killpg(node.pid, number)  # the group outlives its leader: ranks may be left in it
            except ProcessLookupError:
                continue


def start(argv: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A child in its own session, so that Ctrl-C reaches the launcher alone; the kernel kills it with the launcher."""
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                env=environment, start_new_session=True,
                                preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
