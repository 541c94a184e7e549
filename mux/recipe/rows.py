"""Rows in files: jsonl (an object a line), csv and tsv (a row a line, names in the first), and words in columns, a word
a line with blank lines between sentences: conll, as CoNLL-2003 came, and conllu (CoNLL-U, Universal Dependencies).

Whatever is wrong with a file is a Refusal that names it and the line. Standard library only.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mux.recipe.lines import Lines, lines_of, refusal, suffix_of
from mux.recipe.refusal import Problem, Refusal
from mux.recipe.wording import listed, printable, some

Rows = Iterator[tuple[int, dict[str, Any]]]  # (number of its line, row); of words: the sentence's first line

TABLES = ("jsonl", "tsv", "csv")  # any rows; tsv and csv hold no lists
OF_WORDS = ("jsonl", "conll", "conllu")  # rows with lists
FORMATS = (*TABLES, "conll", "conllu")
CONLLU_COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
COLUMNS = {"conll": ("tokens", "labels"), "conllu": CONLLU_COLUMNS}  # of formats that name them themselves


class LeftOut:
    """Lines of a table that have not as many values as there are columns: at most so many are left out, and counted."""

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self.places: list[str] = []

    def add(self, name: str, number: int, message: str) -> None:
        if len(self.places) >= self.most:
            raise refusal(name, number, message)
        self.places.append(f"{name}:{number}")


def format_of(source: Path | str) -> str:
    """The format that a file's name ends in; it need not be one of FORMATS."""
    return suffix_of(source).removeprefix(".")


def read_rows(path: Path, kind: str | None = None, columns: Sequence[str] = (),
              left_out: LeftOut | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a file of the format `kind` (None: as its suffix says).

    All values of csv and tsv are texts; tsv knows no quotes. `columns` names their columns where no first line does.
    """
    kind = kind or format_of(path)
    if kind not in FORMATS:
        suffixes = listed([f".{name}" for name in FORMATS], "or")
        raise Refusal(Problem(f"must be a {suffixes} file", where=printable(str(path))))
    yield from (row for _, row in numbered_rows(lines_of(path), str(path), kind, columns, left_out))


def numbered_rows(lines: Lines, name: str, kind: str, columns: Sequence[str] = (),
                  left_out: LeftOut | None = None) -> Rows:
    """The rows of a file of this format, with the numbers of their lines. `name` is for messages."""
    if kind in _SEPARATED:
        return _named(_SEPARATED[kind](lines, name), name, columns, left_out or LeftOut())
    return _WHOLE[kind](lines, name)


# --- an object a line -----------------------------------------------------------------------------------------
def objects(lines: Lines, name: str) -> Rows:
    """The JSON objects of a file, one a line; empty lines are passed over."""
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            raise refusal(name, number, f"is not JSON, column {error.colno}: {error.msg}") from None
        except MemoryError:
            raise refusal(name, number, "is too long for the memory that is left") from None
        except RecursionError:
            raise refusal(name, number, "is not JSON: it is nested too deeply") from None
        except ValueError as error:  # NaN, or an integer of too many digits
            raise refusal(name, number, f"is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise refusal(name, number, "is not a JSON object", '{"text": "..."}, one a line')
        yield number, row


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


# --- values between separators --------------------------------------------------------------------------------
Values = Iterator[tuple[int, list[str]]]


def _csv(lines: Lines, name: str) -> Values:
    csv.field_size_limit(sys.maxsize)  # 128 KiB otherwise
    reader = csv.reader((line for _, line in lines), strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise refusal(name, reader.line_num, f"is not CSV: {error}") from None


def _tsv(lines: Lines, name: str) -> Values:
    for number, line in lines:
        if bare := line.rstrip("\r\n"):
            yield number, bare.split("\t")


def _named(values: Values, name: str, columns: Sequence[str], left_out: LeftOut) -> Rows:
    """Rows by `columns`, else by the names in the first; each must have as many values as there are names."""
    filled = ((number, row) for number, row in values if row)
    number, names = (0, list(columns)) if columns else next(filled, (1, []))
    if not names:
        raise Refusal(Problem("is empty: the first line must name the columns", where=printable(name)))
    if len(set(names)) < len(names):
        raise refusal(name, number, f"names a column twice: {some(names)}")
    who = "the task" if columns else "the first line"
    for number, row in filled:
        if len(row) == len(names):
            yield number, dict(zip(names, row, strict=True))
        else:
            left_out.add(name, number, f"has {len(row)} values, {who} names {len(names)} columns")


# --- words in columns -----------------------------------------------------------------------------------------
_BLANKS = re.compile(r"[ \t]+")  # of CoNLL; a non-breaking space is part of a word
_NO_WORD = re.compile(r"\d+[-.]\d+")  # ids of CoNLL-U: 1-2 is a token of two words, 8.1 an empty node


def _conll(lines: Lines, name: str) -> Rows:
    """Sentences of words: the first column is the word, the last its tag, those between are passed over.

    CoNLL-2003 was published in IOB1 (B- only where an entity follows another of its kind); tags are kept as they are.
    """
    width = 0  # of the lines, as the first word's is
    for sentence in _sentences(lines):
        rows = [(number, _BLANKS.split(line)) for number, line in sentence]
        rows = [(number, row) for number, row in rows if row[0] != "-DOCSTART-"]
        for number, row in rows:
            width = width or max(2, len(row))
            if len(row) != width:
                raise refusal(name, number, f"has {len(row)} of {width} columns",
                              "a word first, its tag last, with spaces or tabs between columns")
        if rows:
            yield rows[0][0], {"tokens": [row[0] for _, row in rows], "labels": [row[-1] for _, row in rows]}


def _conllu(lines: Lines, name: str) -> Rows:
    """Sentences of words with a list for each of CoNLL-U's ten columns, by its name in small letters."""
    for sentence in _sentences(lines):
        rows = [(number, line.split("\t")) for number, line in sentence if not line.startswith("#")]
        for number, row in rows:
            if len(row) != len(CONLLU_COLUMNS):
                raise refusal(name, number, f"has {len(row)} of {len(CONLLU_COLUMNS)} columns",
                              "columns are parted by tabs")
        words = [(number, row) for number, row in rows if not _NO_WORD.fullmatch(row[0])]
        if words:
            columns = zip(*(row for _, row in words), strict=True)
            yield words[0][0], {key: list(values) for key, values in zip(CONLLU_COLUMNS, columns, strict=True)}


def _sentences(lines: Lines) -> Iterator[list[tuple[int, str]]]:
    """The lines between blank ones, bare."""
    sentence: list[tuple[int, str]] = []
    for number, line in lines:
        if bare := line.strip(" \t\r\n"):
            sentence.append((number, bare))
        elif sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence


_SEPARATED: dict[str, Callable[[Lines, str], Values]] = {"tsv": _tsv, "csv": _csv}
_WHOLE: dict[str, Callable[[Lines, str], Rows]] = {"jsonl": objects, "conll": _conll, "conllu": _conllu}
