"""A section of the report: a sentence, figures and tables, with a menu where they are of several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mux.report.drawing import Drawing
from mux.report.tables import Table


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    lead: str
    missing: str  # the sentence instead, if there is nothing to show
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    toggles_paper: bool = False  # whether its figures have elements of the paper's that can be hidden

    @property
    def empty(self) -> bool:
        return not self.drawings and not self.tables

    @property
    def choices(self) -> list[str]:
        """The entries of the section's menu, in order."""
        found = [*(drawing.choice for drawing in self.drawings), *(table.choice for table in self.tables)]
        return list(dict.fromkeys(filter(None, found)))


def slug(words: str, taken: set[str]) -> str:
    """A name for files and ids from any text, another one than those `taken` so far."""
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in words.lower())[:60]
    plain = plain.strip("_") or "unnamed"
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}_{number}"
    taken.add(name)
    return name
