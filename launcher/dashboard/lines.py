"""The dashboard without a terminal: timestamped lines for interesting events, few enough for a CI log."""

from __future__ import annotations

import time as clocks

from launcher.dashboard.figures import clean, clock, count, duration
from launcher.dashboard.folding import fold, repeated
from launcher.dashboard.sentences import evaluated, sentence, step_done
from launcher.dashboard.state import State
from mux import event as events

EVERY = 2.0  # seconds of event time between two lines of the same kind

MARKS = {"warning": "warning: ", "error": "error: "}


def plain(state: State, event: events.Event) -> str | None:
    """The line of an event, None where it would be noise. `state` is the one after it: that has the ETA."""
    text = _text(state, event)
    return None if text is None else f"{clock(event.time)} {text}"


def _text(state: State, event: events.Event) -> str | None:
    match event:
        case events.StepDone():
            stage = state.stages.get(event.stage)
            if stage and stage.followed != event.training:
                return None
            return f"{clean(event.stage)} {step_done(event, stage.eta if stage else None)}"
        case events.Progress():
            stage_name = f"{clean(event.stage)} " if event.stage else ""
            total = "" if event.total is None else f"/{count(event.total)}"
            eta = state.work.eta if state.work else None
            done = f"{count(event.done)}{total} {clean(event.unit)}".rstrip()
            return f"{stage_name}{clean(event.what)} {done}{f' eta {duration(eta)}' if eta else ''}"
        case events.Evaluated():
            return f"{clean(event.stage)} {evaluated(event)}"
        case events.RunStarted():
            told = sentence(event)
            return f"{told.text if told else ''} ({_day(event.time)})"
    told = sentence(event)
    return None if told is None else MARKS.get(told.level, "") + told.text


def _day(moment: float) -> str:
    try:
        return clocks.strftime("%Y-%m-%d", clocks.localtime(moment))
    except (OverflowError, OSError, ValueError):
        return "no date"


class PlainLines:
    """Events in, lines out. Steps and progress are thinned out by event time, so a replay prints the same.

    The newest step that was thinned out is printed before the next line of another kind: the last step of a
    stage, or before a fault, is never missing.
    """

    def __init__(self, every: float = EVERY) -> None:
        self.state = State()
        self._every = every
        self._step_time: float | None = None  # of the last line of a step
        self._work_time: float | None = None  # of the last line of progress
        self._work_shown: tuple[str | None, str] | None = None  # the work that had a line
        self._held: tuple[float, str] | None = None  # time and line of a step that was thinned out

    def lines(self, event: events.Event) -> list[str]:
        """What to print for an event: none, one, or two lines."""
        again = repeated(self.state, event)
        self.state = fold(self.state, event)
        line = plain(self.state, event)
        if line is None or again:
            return []
        if isinstance(event, events.StepDone):
            if not (event.step >= event.steps or self._due(self._step_time, event.time)):
                self._held = (event.time, line)
                return []
            self._step_time, self._held = event.time, None
        if isinstance(event, events.Progress):
            work = (event.stage, event.what)
            ends = work == self._work_shown and event.done == event.total
            if not (ends or self._due(self._work_time, event.time)):
                return []
            self._work_time, self._work_shown = event.time, None if ends else work
        if self._held is None:
            return [line]
        (self._step_time, held), self._held = self._held, None
        return [held, line]

    def _due(self, last: float | None, time: float) -> bool:
        return last is None or time < last or time - last >= self._every
