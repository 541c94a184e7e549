"""One recipe file: its text, its values by tomli, the line of every key."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from mux.recipe import positions, secrecy
from mux.recipe.refusal import Problem, Refusal
from mux.recipe.wording import dotted, nearest, printable, some

MAX_BYTES = 200_000  # of a recipe and its bases together: more would take seconds to read


@dataclass(frozen=True)
class Document:
    path: Path  # as the user, or the file that extends it, names it
    text: str  # verbatim
    values: dict[str, Any]
    lines: dict[positions.Path, int]

    def where(self, path: positions.Path) -> str:
        """ "recipes/x.toml:12": the line of a key, or of the innermost table that has one."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return f"{shown_path(self.path)}:{self.lines[path[:end]]}"
        return shown_path(self.path)


def shown_path(path: Path) -> str:
    return printable(str(path))


def read(path: Path, named_by: Problem | None = None) -> Document:
    """Read a recipe file. Refuses one that is missing, no file, too large, not UTF-8, not TOML, or holds a secret.

    `named_by` has the place and the key that names the file, where another file does.
    """
    try:
        data = _bytes(path)
    except Refusal as refusal:
        if named_by is None:
            raise
        found = refusal.problems[0]
        message = f"{found.where}: {found.message}"
        raise Refusal(Problem(message, named_by.key, named_by.where, found.hint)) from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message, where = f"is not UTF-8: byte {data[error.start]:#04x}", f"{shown_path(path)}:{line}"
        raise Refusal(Problem(message, where=where, hint="save the file as UTF-8")) from None
    if secret := secrecy.of_text(shown_path(path), text):  # before anything else is said of its lines
        raise Refusal(secret)
    toml = text.removeprefix("\ufeff")  # some editors write a byte order mark
    try:
        values = tomli.loads(toml)
    except (ValueError, RecursionError) as error:  # not TOML; an integer or a nesting without end
        raise Refusal(_not_toml(shown_path(path), toml, error)) from None
    document = Document(path, text, values, positions.locate(toml))
    if secret := [secrecy.problem(kind, document.where(key), dotted(key))
                  for key, kind in secrecy.of_values(values)]:
        raise Refusal(secret)
    return document


def _bytes(path: Path) -> bytes:
    name = shown_path(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            folder = path.is_dir()
            message = "is a directory, not a recipe" if folder else "is not a regular file"
            raise Refusal(Problem(message, where=name, hint=_neighbours(path, folder)))
        with open(path, "rb", opener=_not_waiting) as file:
            data = file.read(MAX_BYTES + 1) or b""
    except FileNotFoundError:
        raise Refusal(Problem("no such file", where=name, hint=_neighbours(path))) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise Refusal(Problem(f"cannot be read: {reason.lower()}", where=name)) from None
    if len(data) > MAX_BYTES:
        raise Refusal(Problem(f"is larger than {MAX_BYTES:_} bytes, which no recipe is", where=name))
    return data


def _not_waiting(path: str, flags: int) -> int:
    """Open so that reading never waits, whatever has taken the file's place: some never end, and some never begin."""
    return os.open(path, flags | os.O_NONBLOCK)


def _neighbours(path: Path, inside: bool = False) -> str | None:
    """What the user may have meant: the recipes in the folder of a file that is not there."""
    folder = path if inside else path.parent
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".toml"))
    except (OSError, ValueError):
        return None if inside else f"there is no folder {shown_path(folder)} either"
    near = nearest(path.name, names)
    if near and not inside:
        return f"did you mean {shown_path(folder / near)}?"
    name = "this folder" if folder == Path() else shown_path(folder)
    return f"{name} has: {some(names)}" if names else f"{name} has no .toml file"


def _not_toml(name: str, text: str, error: Exception) -> Problem:
    """tomli's message as a problem with its line; a key given twice is named with both lines."""
    message = str(error)
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if place is None:  # RecursionError, or an integer that Python does not read: tomli gives no place
        line = _endless_line(text)
        message = "is nested too deeply" if isinstance(error, RecursionError) else "has an integer of too many digits"
        return Problem(message, where=f"{name}:{line}", hint="nothing in a recipe needs that")
    message = printable(message[: place.start()])
    line = int(place[1] or text.count("\n") + 1)
    twice = positions.repeated(text) if message.startswith("Cannot ") else None
    if twice is not None and twice[2] == line:
        return Problem(f"is given twice, first in line {twice[1]}", dotted(twice[0]), f"{name}:{line}")
    column = f", column {place[2]}" if place[2] else ", at the end of the file"
    return Problem(f"is not TOML{column}: {message[0].lower()}{message[1:]}", where=f"{name}:{line}",
                   hint=_quotes(text, line))


def _endless_line(text: str) -> int:
    """The line most likely to hold a number or a nesting without end: the longest."""
    lines = text.split("\n")
    return max(range(len(lines)), key=lambda index: len(lines[index])) + 1


def _quotes(text: str, line: int) -> str | None:
    """A hint for the commonest slip: `precision = bf16`."""
    lines = text.split("\n")
    assignment = r"\s*([\w.-]{1,80})\s*=\s*([A-Za-z_][\w:/.@*-]{0,80})\s*(?:#.*)?"
    bare = re.fullmatch(assignment, lines[min(line, len(lines)) - 1])
    return f'texts need quotes: {bare[1]} = "{bare[2]}"' if bare else None
