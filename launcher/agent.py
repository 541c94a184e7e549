"""The agent: our process on every host, which starts a node's processes there, watches them, and ends all of them.

    python -m launcher.agent [--silence SECONDS] [--peer HOST] -- COMMAND...

Its stdin is the launcher's lease: when it closes, the launcher or the link to it is gone and everything here is killed
at once. The launcher writes a byte to it every few seconds. The exit code is the command's, as a shell would say it,
but never 255, which is ssh's own word for a host out of reach.
"""

from __future__ import annotations

import argparse
import ctypes
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
RANKS_SECONDS = 1.0  # between looks for ranks that are gone: each reads all of /proc
GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL
LAST_WORDS_SECONDS = 10.0  # for the other ranks of a host to end after one is gone
REAP_SECONDS = 30.0  # for the kernel to take away what was killed: GPUs take a while, a disk that hangs may take longer

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LIBC = ctypes.CDLL(None)  # loaded before any fork
OUT_OF_REACH = 255


def main() -> None:
    options, command = arguments(sys.argv[1:])
    environment = os.environ | {"MUX_AGENT": str(os.getpid())}
    if options.peer and (way := interface(options.peer)):
        environment = {"GLOO_SOCKET_IFNAME": way, "NCCL_SOCKET_IFNAME": f"={way}"} | environment
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)  # ranks whose parent dies come to us
    lease = Lease(options.silence)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lease.on_signal)
    if "SLURM_JOB_ID" in os.environ:  # SLURM sends it to every process of a job: the ranks save, and end by themselves
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    code = supervise(Group(command, environment), lease)
    os._exit(exit_status(code))  # whatever state stdout is in, once the launcher is gone


def arguments(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The agent's own options, and the command behind the first `--`."""
    parser = argparse.ArgumentParser(prog="launcher.agent", usage=(__doc__ or "").split("\n")[2].strip())
    parser.add_argument("--silence", type=float, default=math.inf, help="seconds without a word from the launcher")
    parser.add_argument("--peer", help="another host of the job: the ranks talk over the interface that leads there")
    end = words.index("--") if "--" in words else len(words)
    options, command = parser.parse_args(words[:end]), words[end + 1 :]
    if not command:
        parser.error("there is no command behind --")
    return options, command


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
        if self.lost:
            time.sleep(seconds)
            return
        if select.select([0], [], [], seconds)[0]:
            self.lost = not os.read(0, 4096)
            self._heard = time.monotonic()
        if time.monotonic() - self._heard > self.silence:
            self.lost = True
            with suppress(OSError):  # the link that would carry it is gone, perhaps
                print(f"no word from the launcher for {self.silence:.0f} s: killing its processes here", flush=True)


class Group:
    """A command with all its descendants, in a session of their own."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        """Start it. The kernel kills it with the agent; its ranks ask for the same (mux.rank)."""
        agent = os.getpid()

        def die_with_agent() -> None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != agent:
                os._exit(1)

        self._head = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
                                      preexec_fn=die_with_agent)
        self._most_ranks, self._next_look = 0, 0.0
        self._failing_since = math.inf

    def poll(self) -> int | None:
        return self._head.poll()

    def failing_seconds(self) -> float:
        """How long one of the ranks has been gone while the command still waits for the others."""
        now = time.monotonic()
        if self._failing_since == math.inf and now >= self._next_look:
            self._next_look = now + RANKS_SECONDS
            with suppress(psutil.NoSuchProcess):
                ranks = psutil.Process(self._head.pid).children()
                living = sum(rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)
                self._most_ranks = max(self._most_ranks, living)
                if living < self._most_ranks:
                    self._failing_since = now
        return max(0.0, now - self._failing_since)

    def terminate(self) -> None:
        os.killpg(self._head.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to every descendant, also to those in sessions of their own, until none is left."""
        deadline = time.monotonic() + REAP_SECONDS
        while (left := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
            for process in left:
                try:
                    process.kill()
                    if process.pid != self._head.pid:  # its code is still wanted
                        process.wait(0)
                except (psutil.NoSuchProcess, psutil.TimeoutExpired):
                    continue
            self._head.poll()
            time.sleep(0.01)


def supervise(group: Group, lease: Lease) -> int:
    """Stay with the group to its end; its code. Nothing of it is left then."""
    deadline = math.inf
    while (code := group.poll()) is None and not lease.lost and time.monotonic() < deadline:
        if deadline == math.inf and (lease.ended or group.failing_seconds() > LAST_WORDS_SECONDS):
            group.terminate()
            deadline = time.monotonic() + GRACE_SECONDS
        lease.listen(LOOK_SECONDS)
    group.kill()
    code = group.poll()
    return -signal.SIGKILL if code is None else code


def exit_status(code: int) -> int:
    """As a shell says it: 128 + n for the signal n."""
    status = 128 - code if code < 0 else code
    return OUT_OF_REACH - 1 if status == OUT_OF_REACH else status


if __name__ == "__main__":
    main()
