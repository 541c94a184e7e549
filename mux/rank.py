"""What every rank does beside its work: die with its parent, write its log, show that it lives, hear a stop."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from mux.event import Event, EventWriter, Heartbeat, Progress, StageStarted
from mux.run import FROM_A_RANK, write_text

PR_SET_PDEATHSIG = 1
HEARTBEAT_SECONDS = 2.0
PROGRESS_SECONDS = 0.5  # at most one Progress event in so many seconds


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent ends (SIGTERM would only ask for a stop), and see it still lives."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent or parent == 1:
        os._exit(1)


def write_output_to(log: Path) -> None:
    """Send everything this process prints, C++ included, to its own log file."""
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


class StopFlag:
    """True once a stop was asked for: by the stop file in the run directory, which a signal to any rank makes too."""

    def __init__(self, request: Path) -> None:
        self._request = request
        self._asked, self._next_look = False, 0.0

    def listen(self) -> None:
        for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
            signal.signal(name, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self._asked = True
        # So that the other ranks learn of it wherever they are; the launcher wants to know that it came from a rank.
        write_text(self._request, f"{FROM_A_RANK}: {signal.Signals(number).name}\n")

    def __call__(self) -> bool:
        if not self._asked and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + 0.5  # a shared disk need not be asked at every step
            self._asked = self._request.exists()
        return self._asked


class Voice:
    """The rank's events: everything it logs, and a heartbeat from a thread that notes where the main thread is."""

    def __init__(self, events: Path, host: str, rank: int) -> None:
        self._writer = EventWriter(events, host, rank)
        self.gpu: Callable[[], tuple[int | None, float | None]] = lambda: (None, None)  # bytes in use, use 0..1
        self._process = psutil.Process()
        self.stage: str | None = None
        self.step = 0  # where the main thread is, for the heartbeat
        self._next_progress = 0.0
        self._quiet = threading.Event()

    def __call__(self, event: Event) -> None:
        self.follow(event)
        self._writer.write(event)

    def follow(self, event: Event) -> None:
        """Note which stage this rank is in, without a word of its own."""
        self.stage = getattr(event, "stage", None) or self.stage
        if isinstance(event, StageStarted):
            self.step = event.from_step

    def progress(self, what: str, done: int, total: int | None, unit: str = "") -> None:
        """Long work that is not optimizer steps; thinned out, the last one always kept."""
        now = time.monotonic()
        if now >= self._next_progress or done == total:
            self._next_progress = now + PROGRESS_SECONDS
            self(Progress(stage=self.stage, what=what, done=done, total=total, unit=unit))

    def beat(self) -> None:
        """Start the heartbeat."""
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        while not self._quiet.wait(HEARTBEAT_SECONDS):
            with suppress(OSError, RuntimeError):  # a full disk or a driver's hiccup must not silence a living rank
                memory, use = self.gpu()
                self._writer.write(Heartbeat(stage=self.stage, step=self.step, gpu_memory_bytes=memory, gpu_use=use,
                                             memory_bytes=self._process.memory_info().rss))

    def quiet(self) -> None:
        self._quiet.set()
