"""Panels and the one-line pieces that they are made of: aligned rows, bars, a column chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.box import ROUNDED
from rich.console import RenderableType
from rich.panel import Panel
from rich.text import Text

ACCENT, DIM, GOOD, WARNING, BAD = "cyan", "bright_black", "green", "yellow", "red"

EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Block:
    """Something to draw and the lines it takes."""

    content: RenderableType
    lines: int


@dataclass(frozen=True)
class Column:
    header: str
    cells: Sequence[Text]
    right: bool = False
    worth: int = 0  # where the columns do not fit, those of the least worth go first

    @property
    def width(self) -> int:
        return max([len(self.header), *(cell.cell_len for cell in self.cells)])


def table(columns: Sequence[Column], width: int) -> list[Text]:
    """A header and a row a cell, aligned; columns without any text and those that do not fit are left out."""
    columns = [column for column in columns if any(cell.plain for cell in column.cells)]
    while len(columns) > 1 and sum(column.width + 2 for column in columns) - 2 > width:
        columns.remove(min(columns, key=lambda column: column.worth))
    rows = [Text() for _ in range(1 + max((len(column.cells) for column in columns), default=0))]
    for column in columns:
        for row, cell in zip(rows, (Text(column.header, DIM), *column.cells), strict=True):
            if row.plain:
                row.append("  ")
            row.append_text(padded(cell, min(column.width, width), column.right))
    return rows


def padded(text: Text, width: int, right: bool = False) -> Text:
    """The text at exactly so many cells, cut with an ellipsis where it is longer."""
    if width < 1:
        return Text()
    text = text.copy()
    text.truncate(width, overflow="ellipsis")
    missing = max(width - text.cell_len, 0)
    if right:
        text.pad_left(missing)
    else:
        text.pad_right(missing)
    return text


def ends(left: Text, right: Text, width: int) -> Text:
    """One text at the left end of a row, another at the right end; the left one is cut first."""
    room = width - right.cell_len - 2
    if room < 1:
        return padded(right, width)
    return padded(left, room).append("  ").append_text(right)


def bar(share: float, width: int, colour: str = ACCENT) -> Text:
    """A progress bar; heavy and light lines, so that it reads without colours."""
    halves = round(2 * width * min(max(share, 0.0), 1.0))
    full, half = divmod(halves, 2)
    return Text.assemble(("━" * full + "╸" * half, colour), ("─" * (width - full - half), DIM))


def chart(values: Sequence[float], width: int, height: int) -> list[str]:
    """A column chart: `height` strings of `width` characters, the largest value at the top.

    Values that fall into one column are averaged. A column is at least an eighth of a line high; equal values
    are drawn at half height.
    """
    if not values or width < 1:
        return [" " * max(width, 0)] * height
    edges = [position * len(values) // width for position in range(width + 1)]
    columns = [_mean(values[first: max(end, first + 1)]) for first, end in pairwise(edges)]
    low, high = min(columns), max(columns)
    full = 8 * height
    span = high - low
    flat = not 0 < span < float("inf")
    levels = [full // 2 if flat else max(1, round((value - low) / span * full)) for value in columns]
    return ["".join(EIGHTHS[min(max(level - 8 * row, 0), 8)] for level in levels)
            for row in reversed(range(height))]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def panel(title: str, rows: Sequence[Text], width: int) -> Block:
    panel = Panel(Text("\n").join(rows), box=ROUNDED, border_style=DIM, title=Text(title, "bold default"),
                  title_align="left", padding=(0, 1), width=width, height=len(rows) + 2)
    return Block(panel, len(rows) + 2)
