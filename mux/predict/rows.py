"""Rows in and out of files, one at a time: jsonl (an object a line), csv and tsv (names in the first line), and txt
(one text a line, the column "text").

Whatever is wrong with a row is a Refusal that names the file and the line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from mux.recipe.refusal import Problem, Refusal
from mux.recipe.wording import listed, printable, some

Row = dict[str, Any]
Lines = Iterator[tuple[int, str]]  # (number from 1, line with its end)

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
    return READERS[kind](_lines(stream, name), name)


def _lines(stream: BinaryIO, name: str) -> Lines:
    for number, line in enumerate(stream, 1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = f"{line[error.start]:#04x}"
            raise Refusal(Problem(f"is not UTF-8: byte {byte}", where=place(name, number))) from None


def _read_txt(lines: Lines, name: str) -> Iterator[tuple[int, Row]]:
    yield from ((number, {"text": line.rstrip("\r\n")}) for number, line in lines if line.strip())


def _read_jsonl(lines: Lines, name: str) -> Iterator[tuple[int, Row]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
            raise Refusal(Problem(f"is not JSON: {error}", where=place(name, number))) from None
        if not isinstance(row, dict):
            raise Refusal(Problem("is not a JSON object", where=place(name, number),
                                  hint='{"text": "..."}, one a line'))
        yield number, row


def _read_csv(lines: Lines, name: str) -> Iterator[tuple[int, Row]]:
    reader = csv.reader((line for _, line in lines), strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise Refusal(Problem(f"is not CSV: {error}", where=place(name, reader.line_num))) from None

    return _named(rows(), name)


def _read_tsv(lines: Lines, name: str) -> Iterator[tuple[int, Row]]:
    bare = ((number, line.rstrip("\r\n")) for number, line in lines)
    return _named(((number, line.split("\t")) for number, line in bare if line), name)


def _named(rows: Iterator[tuple[int, list[str]]], name: str) -> Iterator[tuple[int, Row]]:
    """Rows by the names in the first; each must have as many values as there are names."""
    filled = ((number, row) for number, row in rows if row)
    number, names = next(filled, (1, []))
    if not names or len(set(names)) < len(names):
        raise Refusal(Problem("must name the columns, each once", where=place(name, number)))
    for number, row in filled:
        if len(row) != len(names):
            raise Refusal(Problem(f"has {len(row)} values, the first line names {len(names)} columns",
                                  where=place(name, number)))
        yield number, dict(zip(names, row, strict=True))


READERS: dict[str, Callable[[Lines, str], Iterator[tuple[int, Row]]]] = {
    "jsonl": _read_jsonl, "csv": _read_csv, "tsv": _read_tsv, "txt": _read_txt,
}


# --- writing ------------------------------------------------------------------------------------------------
class JsonlWriter:
    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, row: Row) -> None:
        self.stream.write(json.dumps(row, ensure_ascii=False) + "\n")


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
