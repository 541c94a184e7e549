"""Tables as data, and the forms they are written in: csv and markdown here, HTML by the page's template."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MARKDOWN = re.compile(r"([\\`*\[\]<>|])")
FORMULA = ("=", "+", "-", "@")  # how a text begins that a spreadsheet would run
MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """What is shown, and its number; `paper`, its number and the difference where the paper has one here."""

    text: str
    value: float | None = None
    paper: str = ""
    paper_value: float | None = None
    difference: str = ""
    better: bool | None = None  # than the paper
    note: str = ""  # shown on hover


@dataclass(frozen=True)
class Table:
    name: str  # of its files
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    choice: str = ""  # the entry of the section's menu that shows it; empty: always shown
    folded: bool = False  # on the page, behind its title

    @property
    def compared(self) -> list[bool]:
        """For each column whether the paper's number and the difference stand in it."""
        return [any(row[index].paper for row in self.rows) for index in range(len(self.columns))]

    @property
    def numeric(self) -> list[bool]:
        """For each column whether it is sorted by number."""
        return [any(self.key(row, index) is not None for row in self.rows) for index in range(len(self.columns))]

    def key(self, row: Sequence[Cell], column: int) -> float | None:
        """The number that a row is sorted by: ours, or in a column with none of ours the paper's."""
        filled = any(other[column].value is not None for other in self.rows)
        return row[column].value if filled else row[column].paper_value

    def csv(self) -> str:
        """With two further columns, "(paper)" and "(difference)", behind each that has them."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        head = [[column, f"{column} (paper)", f"{column} (difference)"] if compared else [column]
                for column, compared in zip(self.columns, self.compared, strict=True)]
        writer.writerow([name for names in head for name in names])
        for row in self.rows:
            writer.writerow([_plain(text) for cell, compared in zip(row, self.compared, strict=True)
                             for text in ([cell.text, cell.paper, cell.difference] if compared else [cell.text])])
        return out.getvalue()

    def markdown(self) -> str:
        """In a cell that is compared: ours in bold, the paper's, the difference."""
        align = ["---:" if numeric else "---" for numeric in self.numeric]
        lines = [f"**{escaped(self.title)}**", "", _line(map(escaped, self.columns)), _line(align)]
        lines += [_line(map(_markdown, row)) for row in self.rows]
        return "\n".join([*lines, "", *([escaped(self.note), ""] if self.note else [])])


def text(value: object, note: str = "") -> Cell:
    return Cell("" if value is None else str(value), note=note)


def number(value: float | None, decimals: int = 0, unit: str = "", note: str = "") -> Cell:
    """A number with separators of thousands; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return Cell(NONE, note=note)
    return Cell(f"{value:,.{decimals}f}{unit}".replace("-", MINUS), value, note=note)


def spread(mean: float | None, std: float | None, decimals: int = 1, note: str = "") -> Cell:
    """Mean ± standard deviation, of shares in percent."""
    if mean is None:
        return Cell(NONE, note=note)
    error = "" if std is None else f" ±{100 * std:.{decimals}f}"
    return Cell(f"{100 * mean:.{decimals}f}{error}".replace("-", MINUS), 100 * mean, note=note)


def escaped(words: str) -> str:
    """Text that markdown shows as it is."""
    return MARKDOWN.sub(r"\\\1", words)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(cell: Cell) -> str:
    if not cell.paper:
        return escaped(cell.text)
    ours = f"**{escaped(cell.text)}**" if cell.value is not None else escaped(cell.text)
    return " / ".join(filter(None, (ours, escaped(cell.paper), escaped(cell.difference))))


def _plain(words: str) -> str:
    """For programs: ordinary minus signs, nothing for a dash, and no text that a spreadsheet takes for a formula."""
    words = words.replace(MINUS, "-").replace(NONE, "")
    number = re.fullmatch(r"[-+]?[\d,.]+", words)
    return words.replace(",", "") if number else f"'{words}" if words.startswith(FORMULA) else words
