"""Where the keys of a TOML text stand: a scanner of table headers and keys that knows nothing of values.

tomli gives values without positions; refusals and the plan's provenance need lines. For a text that tomli
reads, `locate` finds exactly the keys and array items that tomli has (tested against it). For any other text
it finds something, in linear time, and never raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import tomli

Path = tuple[str | int, ...]  # ("stages", 0, "search", "batch", 1): keys, and indices of arrays

MAX_PARTS = 64  # deeper keys stand under no key of a recipe; without a bound their paths grow quadratically

_TOKEN = re.compile(
    r"""
      (?P<blank>[ \t\r]+|\#[^\n]*)
    | (?P<newline>\n)
    | (?P<string>
          \"{3} (?:\\.|[^\\])*? (?:\"{3,5}|\\?\Z)   # one or two quotes may stand before the closing three
        | '{3} .*? (?:'{3,5}|\Z)
        | \" (?:\\[^\n]|[^\"\\\n])* \"?
        | ' [^'\n]* '?
      )
    | (?P<mark>[\[\]{},=.])
    | (?P<word>[^ \t\r\n\"'\[\]{},=.\#]+)
    """,
    re.VERBOSE | re.DOTALL,
)


def locate(text: str) -> dict[Path, int]:
    """The line (from 1) of every table, key and array item of a TOML text.

    A table that is only implied (`a` in `[a.b]`) stands where it is first implied.
    """
    lines: dict[Path, int] = {}
    stated = set()
    for find in _Scanner(text).finds():
        if find.stated and find.path not in stated:
            stated.add(find.path)
            lines[find.path] = find.line
        else:
            lines.setdefault(find.path, find.line)
    return lines


def repeated(text: str) -> tuple[Path, int, int] | None:
    """The first key or table that a text states twice, with both lines: tomli's message names only one."""
    first: dict[Path, int] = {}
    for find in _Scanner(text).finds():
        if find.stated and find.path in first:
            return find.path, first[find.path], find.line
        if find.stated:
            first[find.path] = find.line
    return None


@dataclass(frozen=True)
class _Find:
    path: Path
    line: int
    stated: bool  # False: implied by a longer key or header


@dataclass
class _Frame:
    """A bracket that is open, or the text itself. `path` is None where it would be too long to follow."""

    opened_by: str  # "" (the text) | "[" (an array) | "{" (an inline table)
    path: Path | None
    index: int = 0


class _Scanner:
    """Reads tokens in one of four states: in a header, in a key, before a value, after a value."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.frames = [_Frame("", ())]
        self.arrays: dict[Path, int] = {}  # arrays of tables -> their last index
        self.state = "key"
        self.parts: list[str] = []
        self.line = self.key_line = 1
        self.header_opened = ""  # "[" or "[["
        self.value: Path | None = None  # what the next value belongs to

    def finds(self) -> Iterator[_Find]:
        steps = {"key": self._in_key, "header": self._in_header,
                 "value": self._in_value, "after": self._after}
        for match in _TOKEN.finditer(self.text):
            kind, token = match.lastgroup, match.group()
            if kind == "newline":
                self.line += 1
                if len(self.frames) == 1:
                    self.state, self.parts = "key", []
            elif kind != "blank":
                yield from steps[self.state](kind or "", token, match.start())
                self.line += token.count("\n")

    # --- states ---------------------------------------------------------------------------------------------
    def _in_key(self, kind: str, token: str, start: int) -> Iterator[_Find]:
        frame = self.frames[-1]
        if kind != "mark":
            self._add_part(kind, token)
        elif token == "=":
            yield from self._found_key(frame.path)
        elif token == "[" and not self.parts and frame.opened_by == "":
            self.state = "header"
            self.header_opened = "[[" if self.text.startswith("[", start + 1) else "["
        elif token == "," and frame.opened_by == "{":
            self.parts = []
        elif token == "}" and frame.opened_by == "{":
            self._close()

    def _in_header(self, kind: str, token: str, start: int) -> Iterator[_Find]:
        if kind != "mark":
            self._add_part(kind, token)
        elif token == "]":
            yield from self._found_header()
            self.state = "after"

    def _in_value(self, kind: str, token: str, start: int) -> Iterator[_Find]:
        frame = self.frames[-1]
        if token == "]" and frame.opened_by == "[":  # an empty array, or a comma before its end
            self._close()
            return
        if frame.opened_by == "[" and self.value is not None:
            yield _Find(self.value, self.line, stated=True)
        if token == "[":
            self.frames.append(_Frame("[", self.value))
            self.value = _join(self.value, 0)
        elif token == "{":
            self.frames.append(_Frame("{", self.value))
            self.state, self.parts = "key", []
        else:
            self.state = "after"

    def _after(self, kind: str, token: str, start: int) -> Iterator[_Find]:
        frame = self.frames[-1]
        if token == "," and frame.opened_by == "[":
            frame.index += 1
            self.state, self.value = "value", _join(frame.path, frame.index)
        elif token == "," and frame.opened_by == "{":
            self.state, self.parts = "key", []
        elif (token == "]" and frame.opened_by == "[") or (token == "}" and frame.opened_by == "{"):
            self._close()
        yield from ()

    # --- what they do ---------------------------------------------------------------------------------------
    def _close(self) -> None:
        self.frames.pop()
        self.state = "after"

    def _add_part(self, kind: str, token: str) -> None:
        if not self.parts:
            self.key_line = self.line
        if len(self.parts) <= MAX_PARTS:
            self.parts.append(_unquoted(token) if kind == "string" else token)

    def _found_key(self, table: Path | None) -> Iterator[_Find]:
        """`a.b = ` in a table: the key, and the table `a` that it implies."""
        path = table
        for part in self.parts[:-1]:
            path = _join(path, part)
            if path is not None:
                yield _Find(path, self.key_line, stated=False)
        self.value = _join(path, self.parts[-1]) if self.parts else None
        if self.value is not None:
            yield _Find(self.value, self.key_line, stated=True)
        self.state, self.parts = "value", []

    def _found_header(self) -> Iterator[_Find]:
        """`[a.b]` or `[[a.b]]`: later keys belong there, in the last item of any array of tables."""
        path: Path | None = ()
        for part in self.parts[:-1]:
            path = _join(path, part)
            if path is not None:
                yield _Find(path, self.key_line, stated=False)
                if path in self.arrays:
                    path = _join(path, self.arrays[path])
        path = _join(path, self.parts[-1]) if self.parts else None
        if path is not None and self.header_opened == "[[":
            yield _Find(path, self.key_line, stated=False)
            self.arrays[path] = self.arrays.get(path, -1) + 1
            path = _join(path, self.arrays[path])
        if path is not None:
            yield _Find(path, self.key_line, stated=True)
        self.frames[0].path = path
        self.parts = []


def _join(path: Path | None, part: str | int) -> Path | None:
    return None if path is None or len(path) >= MAX_PARTS else (*path, part)


def _unquoted(token: str) -> str:
    """The key that a quoted key spells. tomli knows the escapes."""
    if "\\" not in token:
        return token[1:-1]
    try:
        return tomli.loads(f"key = {token}")["key"]
    except ValueError:
        return token
