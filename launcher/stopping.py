"""Requests to stop: signals to the launcher, `mux stop`, a rank that was sent a signal; how the ranks learn of them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.entry import REQUESTS
from mux.run import FROM_LAUNCHER, RunDirectory


def _word(request: Path) -> str:
    """Who asks, as the file says; it may be anything."""
    with suppress(OSError):
        return request.read_text(errors="replace").strip()[:200] or "a stop file"
    return "a stop file"


class Stopping:
    """Whether the run is to stop: once it is, it stays so, and nothing starts any more."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._why: str | None = None
        self._told = False  # the ranks, through the file in the run directory
        self._signals: list[str] = []  # the names of those that were caught

    def asked(self) -> str | None:
        """Who has asked for a stop, if anyone has; sees to it that the ranks know."""
        if self._why is None and self._signals:
            self._why = self._signals[0]
        if self._why is None and self._run.stop_asked():
            self._why, self._told = _word(self._run.stop_request), True
        if self._why is not None and not self._told:
            self._told = self._tell(self._why)
        return self._why

    def ask(self, why: str) -> None:
        """Stop, as if someone had asked for it."""
        self._why = self._why or why
        self.asked()

    def hold(self, why: str) -> None:
        """Have all jobs that run save and end, though nobody has asked for a stop: until `release`."""
        if self.asked() is None:
            self._tell(why)

    def release(self) -> None:
        """Jobs may start again, unless someone has asked for a stop in the meantime."""
        if self.asked() is None:
            self._run.stop_request.unlink(missing_ok=True)

    @property
    def interrupted_again(self) -> bool:
        """Ctrl-C after a stop was asked for already: end at once."""
        return "SIGINT" in self._signals[1:]

    def _tell(self, why: str) -> bool:
        """Whether it could be written; an empty file will do, where a disk has no room for more."""
        with suppress(OSError):
            self._run.ask_to_stop(f"{FROM_LAUNCHER}: {why}")
            return True
        with suppress(OSError):
            self._run.stop_request.touch()
            return True
        return False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals ask for a stop. Ctrl-Z does nothing: a launcher that is suspended looks dead to its agents.

        Afterwards they do nothing at all: the run has ended as it has, and so does the command.
        """
        for number in REQUESTS:
            signal.signal(number, self._on_signal)
        before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        try:
            yield
        finally:
            for number in REQUESTS:
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGTSTP, before)

    def _on_signal(self, number: int, frame: object) -> None:
        self._signals.append(signal.Signals(number).name)
