"""Where a run is shown: a `Screen` that is redrawn on a terminal, or `Lines` everywhere else.

    with choose(sys.stdout, plain=False) as display:
        display.show(event)  # as events come
        display.tick(time.time())  # several times per second

A run must not end because nobody can be shown anything: when its stream breaks (a closed pipe, a terminal
that is gone) a display goes silent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from launcher.dashboard.folding import fold
from launcher.dashboard.lines import PlainLines
from launcher.dashboard.state import State
from mux.event import Event

if TYPE_CHECKING:
    from rich.live import Live

NARROWEST = 60  # columns; below, lines serve better
REDRAW = 0.25  # seconds

BROKEN = (OSError, ValueError)  # ValueError: the stream was closed by someone else


class Display:
    """What the launcher and `mux watch` show events on."""

    state: State

    def show(self, event: Event, seen: float | None = None) -> None:
        """Take in an event. `seen`: when, if not right now; a replay gives the time in the event."""
        raise NotImplementedError

    def tick(self, now: float) -> None:
        """Redraw if it is time to. `now` is the time of day, `time.time()`."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        return None


class Lines(Display):
    """Prints a line per interesting event."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._plain = PlainLines()

    @property
    def state(self) -> State:  # type: ignore[override]
        return self._plain.state

    def show(self, event: Event, seen: float | None = None) -> None:
        for line in self._plain.lines(event):
            self._print(line)

    def _print(self, line: str) -> None:
        if self._stream is None:
            return
        encoding = self._stream.encoding or "utf-8"
        try:
            self._stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
            self._stream.flush()
        except BROKEN:
            silence(self._stream)
            self._stream = None


class Screen(Display):
    """Draws the dashboard in place, from `tick` alone, never from a thread of its own."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self.state = State()
        self._stream = stream
        self._clock = clock
        self._live: Live | None = None
        self._now: float | None = None  # the newest tick; the last picture is as of then, too
        self._drawn = float("-inf")
        self._size: tuple[int, int] | None = None

    def show(self, event: Event, seen: float | None = None) -> None:
        self.state = fold(self.state, event, self._clock() if seen is None else seen)

    def tick(self, now: float) -> None:
        self._now = now
        if self._live is not None and not 0 <= now - self._drawn < REDRAW:
            self._drawn = now
            self._guard(lambda: self._draw(now))

    def __enter__(self) -> Display:
        from rich.live import Live

        from launcher.dashboard.terminal import Terminal

        self._live = Live(console=Terminal(self._stream), auto_refresh=False)
        self._guard(self._live.start)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        def leave() -> None:
            if self._live is not None:
                self._draw(self._clock() if self._now is None else self._now)
                self._live.stop()
        self._guard(leave)
        self._live = None

    def _draw(self, now: float) -> None:
        from launcher.dashboard import screen
        if self._live is None:
            return
        console = self._live.console
        width, height = console.size
        if self._size not in (None, (width, height)):  # the terminal reflowed its lines: start on a clean one
            self._live.stop()
            console.clear()
            self._live.start()
        self._size = (width, height)
        self._live.update(screen.render(self.state, now, width, height - 1), refresh=True)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BROKEN:
            silence(self._stream)
            live, self._live = self._live, None
            if live is not None:
                with suppress(Exception):  # half-started or half-drawn; it gives back what it redirected
                    live.stop()


def choose(
    stream: TextIO | None, plain: bool = False, environment: Mapping[str, str] = os.environ
) -> Display:
    """A `Screen` on a terminal that can show one, unless plain lines were asked for."""
    if stream is None or plain or environment.get("TERM", "") in ("", "dumb", "unknown"):
        return Lines(stream)
    try:
        capable = (stream.isatty() and (stream.encoding or "").lower().replace("-", "") == "utf8"
                   and os.get_terminal_size(stream.fileno()).columns >= NARROWEST)
    except BROKEN:
        capable = False
    return Screen(stream) if capable else Lines(stream)


def silence(stream: TextIO) -> None:
    """Send what is buffered, and all that follows, nowhere: Python flushes at exit and would fail then."""
    with suppress(*BROKEN):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)
