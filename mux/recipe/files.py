"""Sources that recipes name: which files they are, and the documents and rows in them. Standard library only.

    path:GLOB       files, relative to the current directory; of a directory its *.txt and *.jsonl
    builtin:NAME    files that come with the program
    hub:ID[/CONFIG][@REVISION][:SPLIT]    a data set of the Hugging Face hub; `mux.data` reads those

Whatever is wrong with a file is a Refusal that names it, and the line where there is one.
"""

from __future__ import annotations

import csv
import glob
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mux.recipe.refusal import Problem, Refusal
from mux.recipe.wording import listed, printable, shown, some

CORPORA = ("wiki_leads",)  # builtin: documents
ROWS = ("topic_train", "topic_test")  # builtin: rows of a task
ROW_SUFFIXES = (".jsonl", ".tsv", ".csv")

_BUILTIN = Path(__file__).resolve().parents[1] / "data" / "builtin"

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB = re.compile(
    rf"hub:(?P<id>{_NAME}(?:/{_NAME})?)(?:/(?P<config>[^\s/@:]+))?"
    r"(?:@(?P<revision>[^\s@:]+))?(?::(?P<split>[\w.\[\]%:+-]+))?"
)


# --- sources ------------------------------------------------------------------------------------------------
def expand(source: str) -> list[Path]:
    """The files of a `path:` or `builtin:` source, sorted. Refuses a source that is no file at all."""
    scheme, _, rest = source.partition(":")
    if scheme == "builtin" and rest in CORPORA + ROWS:
        return [_BUILTIN / f"{rest}{'.txt' if rest in CORPORA else '.jsonl'}"]
    if scheme == "builtin":
        hint = f"builtin: has {', '.join(CORPORA + ROWS)}"
        raise Refusal(Problem(f"{shown(source)} does not exist", hint=hint))
    if scheme != "path" or not rest:
        raise Refusal(Problem(f"{shown(source)} names no files", hint="write path:FILES or builtin:NAME"))
    try:
        files = _matches(rest)
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        reason = getattr(error, "strerror", None) or str(error)
        raise Refusal(f"{shown(source)} cannot be read: {reason}") from None
    if not files:
        place = printable(str(_fixed_part(rest)))
        raise Refusal(Problem(f"{shown(source)} matches no file", hint=f"looked in {place}"))
    return files


def _matches(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in (".txt", ".jsonl") and file.is_file())
    if path.is_file():  # also one whose name looks like a pattern
        return [path]
    return sorted(file for name in glob.glob(pattern, recursive=True) if (file := Path(name)).is_file())


def _fixed_part(pattern: str) -> Path:
    """The directory, absolute, in which the files of a pattern were looked for."""
    path = Path(pattern).absolute()
    if path.is_dir():
        return path
    fixed = Path(*[part for part in _before_magic(path.parts)])
    return fixed if fixed != path else path.parent


def _before_magic(parts: tuple[str, ...]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def split_hub(source: str) -> tuple[str, str | None, str | None, str | None]:
    """`hub:ID[/CONFIG][@REVISION][:SPLIT]` -> (ID, CONFIG, REVISION, SPLIT); ID is `name` or `owner/name`.

    Two names are an owner and a name: the configuration of a set without an owner cannot be written.
    """
    match = _HUB.fullmatch(source)
    if match is None:
        hint = "write hub:ID[/CONFIG][@REVISION][:SPLIT], as in hub:wikimedia/wikipedia/20231101.en"
        raise Refusal(Problem(f"{shown(source)} names no data set of the hub", hint=hint))
    return match["id"], match["config"], match["revision"], match["split"]


# --- contents -----------------------------------------------------------------------------------------------
Lines = Iterator[tuple[int, str]]  # (number from 1, line with its end)
Rows = Iterator[tuple[int, dict[str, Any]]]  # (number of its line, row)


def read_documents(path: Path) -> Iterator[str]:
    """The texts in a file, none of them empty.

    .txt: documents stand between blank lines, and their lines are joined by spaces; .jsonl: an object a line,
    with the text under "text".
    """
    if path.suffix == ".txt":
        yield from _paragraphs(path)
    elif path.suffix == ".jsonl":
        for number, row in _objects(_lines_of(path), str(path)):
            text = row.get("text")
            if not isinstance(text, str):
                raise refusal(str(path), number, 'has no text under "text"', f"its keys: {some(row)}")
            if text.strip():
                yield text.strip()
    else:
        raise _wrong_suffix(path, (".txt", ".jsonl"))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table: .jsonl (an object a line), .csv and .tsv (names in the first line).

    All values of csv and tsv are texts; tsv knows no quotes.
    """
    if path.suffix not in ROW_SUFFIXES:
        raise _wrong_suffix(path, ROW_SUFFIXES)
    yield from (row for _, row in numbered_rows(_lines_of(path), str(path), path.suffix))


def numbered_rows(lines: Lines, name: str, suffix: str) -> Rows:
    """The rows of a table, as its `suffix` says, with the numbers of their lines. `name` is for messages."""
    yield from _TABLES[suffix](lines, name)


def numbered_lines(file: Iterable[bytes], name: str) -> Lines:
    """The lines of a UTF-8 file; without its byte order mark."""
    for number, line in enumerate(file, 1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise refusal(name, number, f"is not UTF-8: byte {line[error.start]:#04x}") from None


def refusal(name: str, line: int, message: str, hint: str | None = None) -> Refusal:
    """Of a line in the file `name`."""
    return Refusal(Problem(message, where=f"{printable(name)}:{line}", hint=hint))


def _lines_of(path: Path) -> Lines:
    try:
        with open(path, "rb") as file:
            yield from numbered_lines(file, str(path))
    except OSError as error:
        raise Refusal(Problem(f"cannot be read: {error.strerror}", where=printable(str(path)))) from None


def _paragraphs(path: Path) -> Iterator[str]:
    lines: list[str] = []
    for _, line in _lines_of(path):
        if line.strip():
            lines.append(line.strip())
        elif lines:
            yield " ".join(lines)
            lines = []
    if lines:
        yield " ".join(lines)


def _objects(lines: Lines, name: str) -> Rows:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            raise refusal(name, number, f"is not JSON, column {error.colno}: {error.msg}") from None
        except RecursionError:
            raise refusal(name, number, "is not JSON: it is nested too deeply") from None
        except ValueError as error:  # NaN, or an integer of too many digits
            raise refusal(name, number, f"is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise refusal(name, number, "is not a JSON object", '{"text": "..."}, one a line')
        yield number, row


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _csv(lines: Lines, name: str) -> Rows:
    csv.field_size_limit(sys.maxsize)  # 128 KiB otherwise
    reader = csv.reader((line for _, line in lines), strict=True)

    def values() -> Iterator[tuple[int, list[str]]]:
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise refusal(name, reader.line_num, f"is not CSV: {error}") from None

    return _named(values(), name)


def _tsv(lines: Lines, name: str) -> Rows:
    bare = ((number, line.rstrip("\r\n")) for number, line in lines)
    return _named(((number, line.split("\t")) for number, line in bare if line), name)


def _named(values: Iterator[tuple[int, list[str]]], name: str) -> Rows:
    """Rows by the names in the first; each must have as many values as there are names."""
    filled = ((number, row) for number, row in values if row)
    number, names = next(filled, (1, []))
    if not names:
        raise Refusal(Problem("is empty: the first line must name the columns", where=printable(name)))
    if len(set(names)) < len(names):
        raise refusal(name, number, f"names a column twice: {some(names)}")
    for number, row in filled:
        if len(row) != len(names):
            raise refusal(name, number, f"has {len(row)} values, the first line names {len(names)} columns")
        yield number, dict(zip(names, row, strict=True))


_TABLES: dict[str, Callable[[Lines, str], Rows]] = {".jsonl": _objects, ".csv": _csv, ".tsv": _tsv}


def _wrong_suffix(path: Path, suffixes: tuple[str, ...]) -> Refusal:
    return Refusal(Problem(f"must be a {listed(suffixes, 'or')} file", where=printable(str(path))))
