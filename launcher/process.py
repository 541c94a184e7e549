"""Processes: one agent per host, and under it one `deepspeed.launcher.launch`; owned, watched and reaped by us.

On this host the agent is a child in its own session, elsewhere it is behind ssh or srun; every word that crosses a
shell is quoted. An agent ends its processes when the pipe to its stdin closes, so nothing outlives the launcher.
"""

from __future__ import annotations

import base64
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

import psutil

from launcher import agent, hostfile, slurm
from launcher.probe import nobody_has
from mux.run import Cluster, Host, JobPlan, Plan, RunDirectory

FIRST_PORT, PORTS = 20_000, 10_000  # where ranks meet: below the ports that systems hand out
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 40.0  # without a beat, a remote agent takes its launcher for gone

# Keep freed memory instead of giving it back to the kernel: else page faults take up to half of a CPU step.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "1073741824", "MALLOC_TOP_PAD_": "67108864"}

# The only variables that cross to other hosts. No secret is ever among them.
FORWARDED = ("CUDA_DEVICE_MAX_CONNECTIONS", "DS_ACCELERATOR", "GLOO_SOCKET_IFNAME", "HF_HOME", "HF_HUB_OFFLINE",
             "HF_DATASETS_OFFLINE", "MUX_CACHE", "NCCL_DEBUG", "NCCL_IB_DISABLE", "NCCL_IB_HCA", "NCCL_SOCKET_IFNAME",
             "OMP_NUM_THREADS", "PYTHONPATH")

# Nobody is asked for a password or about a host key; nothing of the user's session goes along.
SSH_OPTIONS = {"BatchMode": "yes", "StrictHostKeyChecking": "yes", "ConnectTimeout": "10", "ServerAliveInterval": "5",
               "ServerAliveCountMax": "3", "ForwardAgent": "no", "ForwardX11": "no", "ClearAllForwardings": "yes",
               "PermitLocalCommand": "no", "ControlMaster": "no", "ControlPath": "none"}
SSH_NEEDS = ("HOME", "LANG", "LOGNAME", "PATH", "SSH_AUTH_SOCK", "USER")  # a user's SendEnv finds nothing else to send


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


def ssh_command(host: Host, argv: list[str], variables: dict[str, str], directory: str) -> list[str]:
    """`argv` on another host: one ssh whose remote shell sees quoted words only."""
    options = [word for name, value in SSH_OPTIONS.items() for word in ("-o", f"{name}={value}")]
    settings = [f"{name}={value}" for name, value in sorted(variables.items())]
    words = shlex.join(["env", *settings, *argv])
    return ["ssh", "-T", *options, "--", host.name, f"cd {shlex.quote(directory)} && exec {words}"]


REACH: dict[str, Callable[[Host, list[str], dict[str, str], str], list[str]]] = {
    "ssh": ssh_command,
    "srun": slurm.srun_command,
}


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


def agent_command(host: Host, peer: str | None, command: list[str]) -> list[str]:
    """The agent that starts a command on a host; a remote one also hears when its launcher falls silent."""
    silence = [] if host.local else ["--silence", f"{SILENCE_SECONDS:.0f}"]
    way = ["--peer", peer] if peer else []
    return [sys.executable, "-u", "-m", "launcher.agent", *silence, *way, "--", *command]


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
    addresses = meeting(job.hosts)
    commands = []
    for index, host in enumerate(job.hosts):
        command = node_command(plan, job, index, addresses[0], port)
        argv = agent_command(host, peer(addresses, index), command)
        commands.append(reach(plan.cluster, host, argv, variables(plan, job, host)))
    return commands


def peer(addresses: list[str], index: int) -> str | None:
    """The host to which a host finds its network: the first; of the first, the second; none if it is alone."""
    return None if len(addresses) == 1 else addresses[0 if index else 1]


def meeting(hosts: tuple[Host, ...]) -> list[str]:
    """What the ranks call each host: as the hostfile does. Only this one has a name that others know it by, if that
    is localhost there: its address on the way to one of them."""
    if len(hosts) == 1:
        return ["127.0.0.1"]
    other = next(host.name for host in hosts if not host.local)
    return [agent.own_address(other) or socket.getfqdn() if host.name in hostfile.LOOPBACK else host.name
            for host in hosts]


def free_port(plan: Plan, job: JobPlan) -> int:
    """A port for them, from a range that is seldom in use; where it is ours, one that nobody has.

    Jobs that run at the same time never draw the same: their ports leave different remainders.
    """
    devices = plan.cluster.devices
    while True:
        port = FIRST_PORT + devices * random.SystemRandom().randrange(max(1, PORTS // devices)) + job.first_rank
        if not job.hosts[0].local or nobody_has(port):
            return port


class JobProcesses:
    """The processes of one running job: an agent per host."""

    def __init__(self, plan: Plan, job: JobPlan, run: RunDirectory) -> None:
        """Start them."""
        self._agents: dict[str, subprocess.Popen[bytes]] = {}  # by host name
        self._speaking = threading.Lock()
        self._over = threading.Event()
        try:
            for host, argv in zip(job.hosts, host_commands(plan, job, free_port(plan, job)), strict=True):
                with open(os.open(run.node_log(host.name, job), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)) as log:
                    around = environment(plan.cluster, host, variables(plan, job, host))
                    self._agents[host.name] = start(argv, log, around)
        except BaseException:
            self.kill()
            raise
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def codes(self) -> dict[str, int | None]:
        """What each host's agent, or the ssh to it, has ended with, by host name; None: it lives."""
        return {name: process.poll() for name, process in self._agents.items()}

    def poll(self) -> int | None:
        """None while all is well; the first non-zero code as soon as there is one; 0 when all have ended with 0."""
        codes = list(self.codes().values())
        failed = [code for code in codes if code]
        if failed:
            return failed[0]
        return 0 if all(code == 0 for code in codes) else None

    def _beat(self) -> None:
        """Show the agents that the launcher lives, also while it waits for a terminal or a disk."""
        while not self._over.wait(BEAT_SECONDS):
            with self._speaking:
                for process in self._agents.values():
                    tell(process, agent.KEEP)

    def kill(self) -> None:
        """End all at once. Nothing is left when this returns, but on hosts that are out of reach; there, nothing
        after SILENCE_SECONDS."""
        self._over.set()
        with self._speaking:
            for process in self._agents.values():
                close(process)
        self._wait(agent.REAP_SECONDS + 1.0)
        for process in self._agents.values():
            kill_tree(process)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while None in self.codes().values() and time.monotonic() < deadline:
            time.sleep(0.02)


def start(argv: list[str], output: int | IO[Any], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A child in its own session, so that Ctrl-C reaches the launcher alone; the kernel kills it with the launcher.

    Its stdin is a pipe that is never waited for.
    """
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment,
                               start_new_session=True,
                               preexec_fn=lambda: agent.LIBC.prctl(agent.PR_SET_PDEATHSIG, signal.SIGKILL))
    assert process.stdin
    os.set_blocking(process.stdin.fileno(), False)
    return process


def tell(process: subprocess.Popen[bytes], word: bytes) -> None:
    """Write to a child's stdin, if that can be done at once."""
    if process.stdin and not process.stdin.closed:
        with suppress(BrokenPipeError, BlockingIOError):  # it has ended, or the link to it is stuck
            os.write(process.stdin.fileno(), word)


def close(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe to a child's stdin, which is an agent's sign to kill all it has started."""
    with suppress(OSError):
        if process.stdin:
            process.stdin.close()


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a child that did not end when it should have, and to all below it. Of an ssh the far side ends, too:
    the agent there loses its stdin."""
    close(process)
    with suppress(psutil.NoSuchProcess):
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()
