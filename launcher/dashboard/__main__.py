"""`python -m launcher.dashboard RUN_DIRECTORY PICTURE.svg [FRACTION]`: a picture of a run's dashboard.

FRACTION, by default 0.6, is how much of the run had happened: a share of its events, heartbeats not counted.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from launcher.dashboard.figures import clean
from launcher.dashboard.folding import fold
from launcher.dashboard.screen import render
from launcher.dashboard.state import State
from mux.event import Heartbeat
from mux.journal import EventReader
from mux.run import RunDirectory

WIDTH = 100


def picture(run: RunDirectory, fraction: float = 0.6) -> str:
    """The dashboard as SVG, as it was when `fraction` of the run's events had been written."""
    happened = list(EventReader(run.events).read())
    told = [index for index, event in enumerate(happened) if not isinstance(event, Heartbeat)]
    if not told:
        raise SystemExit(f"{run.events}: no events")
    last = told[min(int(fraction * len(told)), len(told) - 1)]
    state = State()
    for event in happened[: last + 1]:
        state = fold(state, event)
    nowhere = io.StringIO()
    console = Console(file=nowhere, record=True, width=WIDTH, force_terminal=True, color_system="truecolor")
    console.print(render(state, state.time, WIDTH))
    svg = console.export_svg(title=f"mux-launch recipes/{clean(state.name)}.toml", unique_id="dashboard")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # a picture fetches nothing


def main(arguments: list[str]) -> int:
    if len(arguments) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    run, target, *rest = arguments
    Path(target).write_text(picture(RunDirectory(run), *map(float, rest)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
