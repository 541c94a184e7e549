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
from collections.abc import Iterator
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
def read_documents(path: Path) -> Iterator[str]:
    """The texts in a file, none of them empty.

    .txt: documents stand between blank lines, and their lines are joined by spaces; .jsonl: an object a line,
    with the text under "text".
    """
    if path.suffix == ".txt":
        yield from _paragraphs(path)
    elif path.suffix == ".jsonl":
        for number, row in _objects(path):
            text = row.get("text")
            if not isinstance(text, str):
                raise _refusal(path, number, 'has no text under "text"', f"its keys: {some(row)}")
            if text.strip():
                yield text.strip()
    else:
        raise _wrong_suffix(path, (".txt", ".jsonl"))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table: .jsonl (an object a line), .csv and .tsv (names in the first line).

    All values of csv and tsv are texts; tsv knows no quotes.
    """
    if path.suffix == ".jsonl":
        yield from (row for _, row in _objects(path))
    elif path.suffix == ".tsv":
        lines = ((number, line.rstrip("\r\n")) for number, line in _lines(path))
        yield from _table(path, ((number, line.split("\t")) for number, line in lines if line))
    elif path.suffix == ".csv":
        yield from _table(path, _csv(path))
    else:
        raise _wrong_suffix(path, ROW_SUFFIXES)


def _paragraphs(path: Path) -> Iterator[str]:
    lines: list[str] = []
    for _, line in _lines(path):
        if line.strip():
            lines.append(line.strip())
        elif lines:
            yield " ".join(lines)
            lines = []
    if lines:
        yield " ".join(lines)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            raise _refusal(path, number, f"is not JSON, column {error.colno}: {error.msg}") from None
        except RecursionError:
            raise _refusal(path, number, "is not JSON: it is nested too deeply") from None
        except ValueError as error:  # NaN, or an integer of too many digits
            raise _refusal(path, number, f"is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise _refusal(path, number, "is not a JSON object", '{"text": "...", "label": ...}, one a line')
        yield number, row


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _refusal(path, reader.line_num, f"is not CSV: {error}") from None
        if row:
            yield reader.line_num, row


def _table(path: Path, rows: Iterator[tuple[int, list[str]]]) -> Iterator[dict[str, Any]]:
    """Rows by the names in the first; each must have as many values as there are names."""
    number, names = next(rows, (0, []))
    if not names:
        raise Refusal(Problem("is empty: the first line must name the columns", where=printable(str(path))))
    if len(set(names)) < len(names):
        raise _refusal(path, number, f"names a column twice: {some(names)}")
    for number, row in rows:
        if len(row) != len(names):
            raise _refusal(path, number, f"has {len(row)} values, the first line names {len(names)} columns")
        yield dict(zip(names, row, strict=True))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a UTF-8 file; a line keeps its end."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise _refusal(path, number, f"is not UTF-8: byte {line[error.start]:#04x}") from None
    except OSError as error:
        raise Refusal(Problem(f"cannot be read: {error.strerror}", where=printable(str(path)))) from None


def _wrong_suffix(path: Path, suffixes: tuple[str, ...]) -> Refusal:
    return Refusal(Problem(f"must be a {listed(suffixes, 'or')} file", where=printable(str(path))))


def _refusal(path: Path, line: int, message: str, hint: str | None = None) -> Refusal:
    return Refusal(Problem(message, where=f"{printable(str(path))}:{line}", hint=hint))
