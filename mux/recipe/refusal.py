"""Refusals: what is wrong with the user's input, all of it at once, each with its place and the way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mux.recipe.positions import Path


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `where` is "file:line" or a path, `key` a dotted key of the recipe."""

    message: str
    key: str | None = None
    where: str | None = None
    hint: str | None = None  # the way out: the nearest real key, a flag, a value that fits

    def __str__(self) -> str:
        head = " ".join(part for part in (f"{self.where}:" if self.where else "", self.key or "") if part)
        text = f"{head}{': ' if self.key else ' ' if head else ''}{self.message}"
        return f"{text}\n    {self.hint}" if self.hint else text


class Finding(NamedTuple):
    """A problem of a key, before the loader has found the place where the key is stated."""

    key: Path
    message: str
    hint: str | None = None
    cause: Path | None = None  # the other key, where two do not go together


class Refusal(Exception):
    """User error found before any process was started; the commands print it without a traceback and exit 2."""

    def __init__(self, problems: Sequence[Problem] | Problem | str) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
