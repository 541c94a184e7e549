"""Processes: an agent per host, which starts the ranks there; owned, watched and reaped by us.

On this host the agent is a child in its own session, elsewhere it is behind ssh or srun (launcher.reach). An agent ends
its processes when the pipe to its stdin closes, so nothing outlives the launcher.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

import psutil

from launcher import agent, hostfile
from launcher.reach import environment, reach
from mux.plan import Host, JobPlan, Plan
from mux.run import RunDirectory

FIRST_PORT, PORTS = 20_000, 10_000  # where ranks meet: below the ports that systems hand out
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 40.0  # without a beat, a remote agent takes its launcher for gone

# Keep freed memory instead of giving it back to the kernel: else page faults take up to half of a CPU step.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "1073741824", "MALLOC_TOP_PAD_": "67108864"}


def host_commands(plan: Plan, job: JobPlan, port: int | None) -> list[list[str]]:
    """The exact command per host, as it is started from here; `port` None stands for the one chosen at the start."""
    addresses = meeting(job.hosts)
    worker = [sys.executable, "-u", "-m", "mux.worker", plan.directory, str(job.id)]
    meet = [f"--world-size={job.world_size}", f"--master={addresses[0]}", f"--port={port or 'PORT'}"]
    settings = variables_by_host(plan, job)
    commands, first = [], 0
    for index, host in enumerate(job.hosts):
        own = [f"--devices={','.join(map(str, devices(host, plan.cluster.device)))}", f"--first-rank={first}"]
        argv = agent_command(host, peer(addresses, index), worker, [*own, *meet])
        commands.append(reach(plan.cluster, host, argv, settings[host.name]))
        first += host.slots
    return commands


def agent_command(host: Host, peer: str | None, command: list[str], ranks: Sequence[str] = ()) -> list[str]:
    """The agent that starts a command on a host, as the `ranks` that it is told of; a remote one also hears when its
    launcher falls silent."""
    silence = [] if host.local else ["--silence", f"{SILENCE_SECONDS:.0f}"]
    way = ["--peer", peer] if peer else []
    return [sys.executable, "-u", "-m", "launcher.agent", *silence, *way, *ranks, "--", *command]


def devices(host: Host, kind: str) -> list[int] | list[str]:
    """What the host's ranks see as their devices: of this machine's GPUs, those that CUDA_VISIBLE_DEVICES leaves."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    taken = slice(host.first_slot, host.first_slot + host.slots)
    if kind != "cpu" and host.local and chosen and chosen != "-1":
        return chosen.split(",")[taken]
    return list(range(taken.stop))[taken]


def variables_by_host(plan: Plan, job: JobPlan) -> dict[str, dict[str, str]]:
    """What the ranks of a job find in their environment besides what is there already, by their host's name. On a CPU
    the jobs of a phase share the cores of a host."""
    on_cpu = plan.cluster.device == "cpu"
    shared = {
        "DS_ACCELERATOR": plan.cluster.device,
        # Threads that wait give up their core soon: on a busy machine they would stand in each other's way.
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "2000"),
        "TOKENIZERS_PARALLELISM": "true",
        **(MALLOC if on_cpu else {}),
    }
    ranks = Counter[str]()  # on each host, at the same time
    for beside in plan.jobs:
        if on_cpu and beside.phase == job.phase:
            ranks.update({host.name: host.slots for host in beside.hosts})
    cores = len(os.sched_getaffinity(0))
    threads = {host.name: max(1, cores // ranks[host.name]) if on_cpu else 4 for host in job.hosts}
    return {name: shared | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(count))}
            for name, count in threads.items()}


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


def draw_port(plan: Plan, job: JobPlan) -> int:
    """A port for them, from a range that is seldom in use.

    Jobs that run at the same time never draw the same: their ports leave different remainders.
    """
    devices = plan.cluster.devices
    return FIRST_PORT + devices * random.SystemRandom().randrange(max(1, PORTS // devices)) + job.first_rank


class JobProcesses:
    """The processes of one running job: an agent per host."""

    def __init__(self, plan: Plan, job: JobPlan, run: RunDirectory) -> None:
        """Start them."""
        self._plan, self._job, self._run = plan, job, run
        self._agents: dict[str, subprocess.Popen[bytes]] = {}  # by host name
        self._speaking = threading.Lock()
        self._over = threading.Event()
        self._start()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def _start(self) -> None:
        commands = host_commands(self._plan, self._job, draw_port(self._plan, self._job))
        settings = variables_by_host(self._plan, self._job)
        try:
            for host, argv in zip(self._job.hosts, commands, strict=True):
                around = environment(self._plan.cluster, host, settings[host.name])
                path = self._run.node_log(host.name, self._job)
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)) as log, self._speaking:
                    self._agents[host.name] = start(argv, log, around)
        except BaseException:
            self.kill()
            raise

    def codes(self) -> dict[str, int | None]:
        """What each host's agent, or the ssh to it, has ended with, by host name; None: it lives."""
        return {name: process.poll() for name, process in self._agents.items()}

    def poll(self) -> int | None:
        """None while all is well; the first non-zero code as soon as there is one; 0 when all have ended with 0.

        Where the first host has the port in use they are all started again, to meet at another one.
        """
        if self.codes()[self._job.hosts[0].name] == agent.PORT_TAKEN and not self._over.is_set():
            self._end()
            self._start()
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
        self._end()

    def _end(self) -> None:
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
