"""Who has fallen silent, and whether anyone comes further: judged by the launcher's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from launcher.failure import Who
from mux.event import Event, Heartbeat, RankStarted

LONGEST_LOOK = 1.0  # seconds between two looks that count, at most
SLOW_START = 120.0  # seconds until a rank has started, at least: imports from a busy disk say nothing


class Liveness:
    """Of the ranks of one start of a job. Its clock stands still while nobody looks: a launcher that was suspended
    itself, or waited for a disk, has not seen how its ranks fared."""

    def __init__(self, ranks: Iterable[Who], heartbeat_seconds: float, stall_seconds: float,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.places: dict[Who, str] = {}  # the line of the project that each main thread was at when last heard
        self.started: set[Who] = set()
        self._heartbeat_seconds, self._stall_seconds, self._clock = heartbeat_seconds, stall_seconds, clock
        self._now, self._looked = 0.0, clock()
        self._seen: dict[Who, float] = dict.fromkeys(ranks, 0.0)
        self._further = 0.0  # when anyone last came further
        self._at: dict[Who, Any] = {}  # the stage and step of the last heartbeat

    def look(self) -> None:
        """To be called before what has been said since the last look is handed to `heard`."""
        now = self._clock()
        self._now += min(now - self._looked, LONGEST_LOOK)
        self._looked = now

    def heard(self, event: Event) -> None:
        """Take in what a rank has said."""
        who = (event.host or "", event.rank or 0)
        self._seen[who] = self._now
        match event:
            case Heartbeat():
                if event.where is not None:
                    self.places[who] = event.where
                if self._at.get(who) == (event.stage, event.step):
                    return
                self._at[who] = (event.stage, event.step)
            case RankStarted():
                self.started.add(who)
        self._further = self._now

    @property
    def all_started(self) -> bool:
        return self.started >= self._seen.keys()

    def silent(self) -> dict[Who, float]:
        """The ranks that have been silent for too long, and for how many seconds."""
        slow = max(SLOW_START, 10 * self._heartbeat_seconds)
        silences = {who: self._now - seen for who, seen in self._seen.items()}
        return {who: silence for who, silence in silences.items()
                if silence > (self._heartbeat_seconds if who in self.started else slow)}

    def stalled(self) -> float | None:
        """For how many seconds nobody has come further, if that is too long."""
        still = self._now - self._further
        enough = self._stall_seconds if self.all_started else max(SLOW_START, self._stall_seconds)
        return still if still > enough else None
