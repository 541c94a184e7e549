"""Predictions for the rows of a file, streamed into another: memory holds one window of rows, however long it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TextIO

from mux.predict.heads import Answer, Text
from mux.predict.predictor import Predictor
from mux.predict.rows import READERS, STREAM, WRITERS, Row, format_of, place, read
from mux.recipe.refusal import Problem, Refusal
from mux.recipe.wording import printable, some

Progress = Callable[[float], None]  # called with how many rows are done
Added = Callable[[Text], Collection[str]]  # the columns that a prediction from this adds


class Interrupted(Exception):
    """The file was not finished; `part` has what was predicted so far."""

    def __init__(self, part: Path) -> None:
        super().__init__(f"not finished: the rows predicted so far are in {part}")


@dataclass(frozen=True)
class Rows:
    """The rows of `file` ("-": stdin, one text a line if not told otherwise) with the columns that hold the texts."""

    file: str
    text: str = "text"
    text_pair: str | None = None
    format: str | None = None

    @property
    def name(self) -> str:
        return "stdin" if self.file == STREAM else self.file

    @property
    def kind(self) -> str:
        return format_of(self.file, self.format or ("txt" if self.file == STREAM else None), READERS)

    def texts(self, takes_words: bool, added: Added = lambda text: ()) -> Iterator[tuple[int, Row, Text]]:
        """(line, row, what to predict from) of every row, which must not have any of the columns that will be `added`.
        A Refusal names the first line that is wrong."""
        if takes_words and self.text_pair:
            raise Refusal("this model tags the words of one text: --text-pair has no meaning")
        with self._open() as stream:
            for line, row in read(stream, self.name, self.kind):
                text = self._value(line, row, self.text, takes_words)
                pair = self._value(line, row, self.text_pair, False) if self.text_pair else None
                assert pair is None or isinstance(pair, str)
                what = Text(text, pair)
                if taken := [key for key in added(what) if key in row]:
                    raise Refusal(Problem(f"has a column {taken[0]!r} already, which the prediction would replace",
                                          where=place(self.name, line), hint="rename it first"))
                yield line, row, what

    def count(self, takes_words: bool, added: Added = lambda text: ()) -> int | None:
        """How many rows there are, every one of them checked; None if they can be read only once."""
        if self.file == STREAM or Path(self.file).is_fifo():
            return None
        return sum(1 for _ in self.texts(takes_words, added))

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        if self.file == STREAM:
            yield sys.stdin.buffer
            return
        try:
            stream = open(self.file, "rb")  # noqa: SIM115 - closed below
        except OSError as error:
            raise Refusal(Problem(f"cannot be read: {error.strerror}", where=printable(self.file))) from None
        with stream:
            yield stream

    def _value(self, line: int, row: Row, column: str, takes_words: bool) -> str | list[str]:
        where = place(self.name, line)
        if column not in row:
            raise Refusal(Problem(f"has no column {column!r}", where=where,
                                  hint=f"it has {some(map(str, row))}; --text and --text-pair choose"))
        value = row[column]
        words = takes_words and isinstance(value, list) and all(isinstance(word, str) for word in value)
        if not (isinstance(value, str) or words):
            raise Refusal(Problem(f"{column!r} is not text but {type(value).__name__}", where=where))
        if not (value.strip() if isinstance(value, str) else value):
            raise Refusal(Problem(f"{column!r} is empty", where=where))
        try:
            "".join(value).encode()
        except UnicodeEncodeError:
            raise Refusal(Problem(f"{column!r} holds half a character, which is no text", where=where)) from None
        return value


def predict_file(predictor: Predictor, rows: Rows, output: str, output_format: str | None = None,
                 progress: Progress = lambda done: None) -> int:
    """Write every row with its prediction to `output` ("-": stdout), in order; how many there were.

    A file is written whole or not at all: to a .part beside it first. Raises Refusal at a row that is wrong, and
    Interrupted, from its cause, where anything ended the work when rows had been written already.
    """
    kind = output_kind(rows, output, output_format)
    done = 0
    with _whole(output) as stream:
        writer = WRITERS[kind](stream)
        incoming = rows.texts(predictor.head.takes_words, predictor.added)
        while window := list(islice(incoming, predictor.window)):
            before = done
            answers = predictor.predict([text for _, _, text in window],
                                        lambda share: progress(before + share * len(window)))  # noqa: B023
            for (line, row, _), answer in zip(window, answers, strict=True):
                _write(writer, row | answer, place(rows.name, line))
            stream.flush()
            done += len(window)
    return done


def output_kind(rows: Rows, output: str, given: str | None) -> str:
    """The format of the output: as given, as its name ends, or as the input's."""
    target = Path(output).absolute()
    if not target.parent.is_dir():
        raise Refusal(Problem("is no folder to write to", where=printable(str(target.parent))))
    if target.is_dir():
        raise Refusal(Problem("is a folder; the name of a file is needed", where=printable(output)))
    same = rows.kind if rows.kind in WRITERS else "jsonl"
    return format_of(output, given or (same if output == STREAM else None), WRITERS, same)


def _write(writer: object, row: Answer, where: str) -> None:
    try:
        writer.write(row)  # type: ignore[attr-defined]
    except ValueError as error:
        raise Refusal(Problem(str(error), where=where)) from None


@contextmanager
def _whole(output: str) -> Iterator[TextIO]:
    if output == STREAM:
        yield sys.stdout
        return
    path = Path(output).resolve()  # a link stays one
    if path.exists() and not path.is_file():  # a pipe, a device: there is nothing to replace
        with open(path, "w", encoding="utf-8", newline="") as stream:
            yield stream
        return
    part = path.with_name(f"{path.name}.part")
    try:
        stream = open(part, "w", encoding="utf-8", newline="")  # noqa: SIM115 - closed below
    except OSError as error:
        raise Refusal(Problem(f"cannot be written: {error.strerror}", where=printable(str(part)))) from None
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException as error:
        if not part.stat().st_size:
            part.unlink()
            raise
        raise Interrupted(part) from error
    os.replace(part, path)
