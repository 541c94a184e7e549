"""The agent: our process on every host, which starts a job's ranks there, watches them, and ends all of them.

    python -m launcher.agent [--silence SECONDS] [--peer HOST] [--devices 0,1,.. ...] -- COMMAND...

With --devices the command is started once per device, as that many ranks of a job; their environment holds what torch
and DeepSpeed read, and each that ends badly is told of in an event (mux.event.RankEnded). Without, it is started once.
Stdin is the launcher's lease: when it closes, the launcher or the link to it is gone and everything here is killed at
once. The launcher writes a byte to it every few seconds. The exit code is that of the first process that ended badly,
as a shell would say it, but never one of those that have a meaning of their own here.

Light: it stands between the launcher and the ranks' start.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import psutil

KEEP = b"."  # what the launcher writes

LOOK_SECONDS = 0.1
GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL
LAST_WORDS_SECONDS = 10.0  # for the other ranks of a host to end after one has
REAP_SECONDS = 30.0  # for the kernel to take away what was killed: GPUs take a while, a disk that hangs may take longer

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LIBC = ctypes.CDLL(None)  # loaded before any fork

PORT_TAKEN = errno.EADDRINUSE  # nothing was started: somebody has the port that the ranks were to meet at
OUT_OF_REACH = 255  # ssh's own word for a host out of reach


def main() -> None:
    options, command = arguments(sys.argv[1:])
    if options.devices and options.first_rank == 0 and taken(int(options.port)):
        print(f"port {options.port} is taken on {socket.gethostname()}", flush=True)
        os._exit(PORT_TAKEN)
    environment = dict(os.environ)
    if options.peer and (way := interface(options.peer)):
        environment = {"GLOO_SOCKET_IFNAME": way, "NCCL_SOCKET_IFNAME": f"={way}"} | environment
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)  # processes whose parent dies come to us
    lease = Lease(options.silence)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lease.on_signal)
    if "SLURM_JOB_ID" in os.environ:  # SLURM sends it to every process of a job: the ranks save, and end by themselves
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    code = supervise(Group(command, [environment | own for own in places(options)]), lease)
    os._exit(exit_status(code))  # whatever state stdout is in, once the launcher is gone


def arguments(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The agent's own options, and the command behind the first `--`."""
    parser = argparse.ArgumentParser(prog="launcher.agent", usage=(__doc__ or "").split("\n")[2].strip())
    parser.add_argument("--silence", type=float, default=math.inf, help="seconds without a word from the launcher")
    parser.add_argument("--peer", help="another host of the job: the ranks talk over the interface that leads there")
    parser.add_argument("--devices", help="those of this host's ranks")
    parser.add_argument("--first-rank", type=int, default=0, help="the number of the first of them")
    parser.add_argument("--world-size", type=int, help="ranks on all hosts (default: on this one)")
    parser.add_argument("--master", default="127.0.0.1", help="the host of rank 0, where all meet")
    parser.add_argument("--port", default="29500", help="... and its port (default: torch's)")
    end = words.index("--") if "--" in words else len(words)
    options, command = parser.parse_args(words[:end]), words[end + 1 :]
    if not command:
        parser.error("there is no command behind --")
    return options, command


def places(options: argparse.Namespace) -> list[dict[str, str]]:
    """What each process finds in its environment besides what is there: where in a job it stands, if it is a rank."""
    if options.devices is None:
        return [{}]
    count = len(options.devices.split(","))
    job = {"MASTER_ADDR": options.master, "MASTER_PORT": options.port, "CUDA_VISIBLE_DEVICES": options.devices,
           "WORLD_SIZE": str(options.world_size or count), "LOCAL_SIZE": str(count)}
    return [job | {"RANK": str(options.first_rank + place), "LOCAL_RANK": str(place)} for place in range(count)]


def taken(port: int) -> bool:
    """Whether another process of this host has a port."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def interface(peer: str) -> str | None:
    """The network interface of this host that leads to another one; None where that cannot be told.

    Left to itself gloo takes that of the hostname's address: often loopback, where it waits for ever.
    """
    own, here = own_address(peer), psutil.net_if_addrs().items()
    return next((name for name, addresses in here for one in addresses if one.address.partition("%")[0] == own), None)


def own_address(peer: str) -> str | None:
    """This host's address as another one sees it; None where the other's name does not resolve."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # of a datagram socket: asks the routing table, sends nothing
            return str(probe.getsockname()[0]).partition("%")[0]
    except OSError:
        return None


class Lease:
    """What the launcher says over stdin."""

    def __init__(self, silence: float) -> None:
        """`silence`: so many seconds without a word mean that the launcher is out of reach."""
        self.silence = silence
        self.lost = False  # nobody is there any more
        self.ended = False  # a signal has asked for an orderly end
        self._heard = time.monotonic()

    def on_signal(self, number: int, frame: object) -> None:
        self.ended = True

    def listen(self, seconds: float) -> None:
        """Wait so long for a word, at most."""
        if select.select([0], [], [], seconds)[0]:
            self.lost = not os.read(0, 4096)
            self._heard = time.monotonic()
        if time.monotonic() - self._heard > self.silence:
            self.lost = True
            with suppress(OSError):  # the link that would carry it is gone, perhaps
                print(f"no word from the launcher for {self.silence:.0f} s: killing its processes here", flush=True)


class Group:
    """The processes of one command, with all their descendants."""

    def __init__(self, command: list[str], environments: list[dict[str, str]]) -> None:
        """Start one with each environment, all in one process group. The kernel kills them with the agent."""
        agent = os.getpid()

        def die_with_agent() -> None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != agent:
                os._exit(1)

        self.first_end = math.inf  # when one of them ended, by time.monotonic
        self.code = 0  # of the first that ended badly
        self._living: dict[int, tuple[subprocess.Popen[bytes], str | None]] = {}  # process id -> it and its rank
        self._leader = 0
        for own in environments:
            process = subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, process_group=self._leader,
                                       preexec_fn=die_with_agent)
            self._leader = self._leader or process.pid
            self._living[process.pid] = process, own.get("RANK")

    def live(self) -> bool:
        """Whether any of them does; those that have ended badly by themselves are told of."""
        for rank, code in self._ended():
            if rank is not None and code:
                event = {"v": 1, "time": round(time.time(), 3), "event": "RankEnded", "rank": int(rank), "code": code}
                with suppress(OSError):  # whole, and on a line of its own: ranks print here until they have their logs
                    os.write(1, f"\n{json.dumps(event)}\n".encode())
        return bool(self._living)

    def terminate(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._leader, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to every descendant, also to those in sessions of their own, until none is left."""
        deadline = time.monotonic() + REAP_SECONDS
        while (left := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
            for process in left:
                try:
                    process.kill()
                    if process.pid not in self._living:  # of those the code is still wanted
                        process.wait(0)
                except (psutil.NoSuchProcess, psutil.TimeoutExpired):
                    continue
            self._ended()
            time.sleep(0.01)
        if self._living:
            self.code = self.code or -signal.SIGKILL

    def _ended(self) -> list[tuple[str | None, int]]:
        """Rank and code of those that have ended since the last call; those that a signal has killed come first: others
        end because they miss them."""
        ended = [(rank, process.returncode) for process, rank in self._living.values() if process.poll() is not None]
        ended.sort(key=lambda one: one[1])
        if ended:
            self.first_end = min(self.first_end, time.monotonic())
            self.code = self.code or next((code for _, code in ended if code), 0)
            self._living = {pid: one for pid, one in self._living.items() if one[0].returncode is None}
        return ended


def supervise(group: Group, lease: Lease) -> int:
    """Stay with the group to its end; its code. Nothing of it is left then."""
    deadline = math.inf
    while group.live() and not lease.lost and time.monotonic() < min(deadline, group.first_end + LAST_WORDS_SECONDS):
        if lease.ended and deadline == math.inf:
            group.terminate()
            deadline = time.monotonic() + GRACE_SECONDS
        lease.listen(LOOK_SECONDS)
    group.kill()
    return group.code


def exit_status(code: int) -> int:
    """As a shell says it: 128 + n for the signal n."""
    status = 128 - code if code < 0 else code
    return status - 1 if status in (PORT_TAKEN, OUT_OF_REACH) else status


if __name__ == "__main__":
    main()
