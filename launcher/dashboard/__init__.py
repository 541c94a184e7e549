"""What a run looks like while it runs: events folded into a state, drawn on a terminal or printed as lines.

    events.jsonl -> fold -> State -> render (Screen) or plain (Lines)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.dashboard.display import Display, Lines, Screen, choose
from launcher.dashboard.folding import fold
from launcher.dashboard.lines import PlainLines, plain
from launcher.dashboard.state import State
from launcher.dashboard.watch import FAREWELLS, Ending, follow

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = [
    "FAREWELLS", "Display", "Ending", "Lines", "PlainLines", "Screen", "State",
    "choose", "fold", "follow", "plain", "render",
]


def render(state: State, now: float, width: int, height: int | None = None) -> RenderableType:
    """See `launcher.dashboard.screen.render`; rich is imported here, when there is something to draw."""
    from launcher.dashboard import screen

    return screen.render(state, now, width, height)
