"""Rows in and out of files, one at a time: jsonl (an object a line), csv and tsv (names in the first line), and txt
(one text a line, the column "text").

Whatever is wrong with a row is a Refusal that names the file and the line.
"""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from mux.recipe import lines, rows
from mux.recipe.refusal import Problem, Refusal
from mux.recipe.wording import listed, printable, some

Row = dict[str, Any]

STREAM = "-"  # stdin or stdout


def place(name: str, line: int) -> str:
    return f"{printable(name)}:{line}"


def format_of(path: str, given: str | None, formats: Iterable[str], otherwise: str | None = None) -> str:
    """The format that is `given` or that the file's name ends in; `otherwise`: of a file whose name does not say."""
    found = given or Path(path).suffix.removeprefix(".")
    if found in formats:
        return found
    if otherwise and not given and not found:
        return otherwise
    raise Refusal(Problem(f"must be a {listed([f'.{name}' for name in formats], 'or')} file", where=printable(path)))


# --- reading ------------------------------------------------------------------------------------------------
def read(stream: BinaryIO, name: str, kind: str) -> Iterator[tuple[int, Row]]:
    """(line, row) of everything in the stream; empty lines are passed over. `name` is for messages."""
    return READERS[kind](lines.numbered_lines(stream, name), name)


def _read_txt(numbered: lines.Lines, name: str) -> rows.Rows:
    yield from ((number, {"text": line.rstrip("\r\n")}) for number, line in numbered if line.strip())


READERS: dict[str, Callable[[lines.Lines, str], rows.Rows]] = {
    **{kind: functools.partial(rows.numbered_rows, kind=kind) for kind in rows.TABLES},
    "txt": _read_txt,
}


# --- writing ------------------------------------------------------------------------------------------------
class JsonlWriter:
    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, row: Row) -> None:
        self.stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


class CsvWriter:
    """The first row's keys are the columns; values that are no texts or numbers are written as JSON."""

    def __init__(self, stream: TextIO) -> None:
        self.writer = csv.writer(stream, lineterminator="\n")
        self.names: list[str] = []

    def write(self, row: Row) -> None:
        if not self.names:
            self.names = list(row)
            self.put(self.names)
        if list(row) != self.names:
            raise ValueError(f"has the columns {some(row)}, the first row {some(self.names)}; write jsonl instead")
        self.put([json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else
                  "" if value is None else str(value) for value in row.values()])

    def put(self, values: list[str]) -> None:
        self.writer.writerow(values)


class TsvWriter(CsvWriter):
    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.stream = stream

    def put(self, values: list[str]) -> None:
        if any(letter in value for value in values for letter in "\t\r\n"):
            raise ValueError("has a tab or a line end in a value, which tsv cannot hold; write jsonl or csv instead")
        self.stream.write("\t".join(values) + "\n")


WRITERS: dict[str, type[JsonlWriter] | type[CsvWriter]] = {"jsonl": JsonlWriter, "csv": CsvWriter, "tsv": TsvWriter}
