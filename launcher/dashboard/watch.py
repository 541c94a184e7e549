"""`mux watch`: replay a run's events and follow them until it ends. Nothing here can touch the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from launcher.dashboard.display import Display
from mux.journal import EventReader

Ending = Literal["finished", "stopped", "failed", "replayed", "left", "lost"]

FAREWELLS: dict[Ending, str] = {
    "finished": "The run is finished.",
    "stopped": "The run was stopped; the same mux-launch command goes on with it.",
    "failed": "The run failed; its logs folder has what every rank printed.",
    "replayed": "That is all so far.",
    "left": "No longer watching. The run goes on; mux stop ends it.",
    "lost": "The run is not running any more, and its events have no end: its launcher was killed.\n"
            "The same mux-launch command goes on from the last checkpoint.",
}


def follow(
    events_path: Path,
    display: Display,
    until_end: bool = True,
    stop: Callable[[], bool] = lambda: False,
    alive: Callable[[], bool] = lambda: True,
    pause: float = 0.2,
) -> Ending:
    """Show all events of a file and, with `until_end`, those appended to it until the run ends.

    `stop` leaves early, as Ctrl-C does. `alive` says whether the run's launcher still lives: events without
    an end whose launcher is gone are "lost". `pause` is in seconds. The answer is a key of `FAREWELLS`.
    """
    reader = EventReader(events_path)
    replaying = True
    try:
        while True:
            living = alive()  # asked before reading: what a dying launcher wrote last is then still read
            for event in reader.read():
                display.show(event, event.time if replaying else None)
            replaying = False
            state = display.state
            display.tick(time.time() if living and not state.ended else state.time)
            if state.status in ("finished", "stopped", "failed"):
                return state.status
            if not living:
                return "lost"
            if not until_end:
                return "replayed"
            if stop():
                return "left"
            time.sleep(pause)
    except KeyboardInterrupt:
        return "left"
