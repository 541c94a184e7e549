"""What every rank does beside its work: write its log, show that it lives, hear a stop."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from mux.event import Event, Heartbeat, Progress, StageStarted
from mux.journal import EventWriter
from mux.secrets import redact_output

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)  # loaded before any fork
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
PROJECT = f"{Path(__file__).parent}{os.sep}"
UNSAID = 100  # events that are kept while they cannot be written
HEARTBEAT_SECONDS = 2.0
PROGRESS_SECONDS = 0.5  # at most one Progress event in so many seconds


def die_with_parent() -> None:
    """Of a process that a rank starts, before it begins: the kernel sends it SIGKILL when the rank ends."""
    parent = os.getppid()
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has already
        os._exit(1)


def write_output_to(log: Path) -> None:
    """Send everything this process prints, C++ included, to its own log file; what Python prints without secrets."""
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    redact_output("stdout", "stderr")


class StopFlag:
    """True once a stop was asked for: by the stop file in the run directory, or by a signal to this rank."""

    def __init__(self, request: Path) -> None:
        self._request = request
        self._asked, self._next_look = False, 0.0
        self._numbers, self._wakeup = socket.socketpair()

    def listen(self, heard: Callable[[str], None]) -> None:
        """Signals count from now on, also while the main thread waits in a collective; `heard` is told their names."""
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._hear, args=(heard,), name="signals", daemon=True).start()

    def _hear(self, heard: Callable[[str], None]) -> None:
        while True:
            for number in self._numbers.recv(16):
                if number in STOP_SIGNALS:
                    self._asked = True
                    heard(signal.Signals(number).name)

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
        self._speaking = threading.Lock()  # the main thread and that of the signals
        self._unsaid: deque[Event] = deque(maxlen=UNSAID)

    def __call__(self, event: Event) -> None:
        """Log an event. On a full disk it waits for the next one: what cannot be told must not end what is done."""
        self.follow(event)
        with self._speaking, suppress(OSError):
            self._unsaid.append(event)
            while self._unsaid:
                self._writer.write(self._unsaid[0])
                self._unsaid.popleft()

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
                                             memory_bytes=self._process.memory_info().rss, where=main_thread()))
                self._writer.flush()

    def quiet(self) -> None:
        self._quiet.set()


def main_thread() -> str | None:
    """The line of the project that the main thread is at, or has called from: "loop.py:131 agree"."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and not frame.f_code.co_filename.startswith(PROJECT):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}" if frame else None
