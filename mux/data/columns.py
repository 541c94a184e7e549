"""The columns of a task's rows, from files or the hub, and what is in them: texts, words, numbers, classes.

Of every row only the columns that the task names are kept, so that a large table (MNLI has its parses beside its
sentences) costs no more memory than its texts. Whatever is wrong is a ValueError that names source and row, or the
Refusal of a file.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mux.data import sources
from mux.recipe import files
from mux.recipe.labels import label_of, numbers_of
from mux.recipe.rows import LeftOut, read_rows
from mux.recipe.schema import TaskDefinition

LARGEST = float(np.finfo(np.float32).max)  # of a number to predict
HALF = re.compile(r"[\ud800-\udfff]")  # JSON can write half of a character's two, which no tokenizer reads


@dataclass(frozen=True)
class Columns:
    source: str
    values: Mapping[str, list[Any]]  # by name, each of all rows
    files: tuple[tuple[str, int], ...]  # (name, rows in those before it), for messages
    classes: Mapping[str, tuple[str, ...]]  # names of the classes, of columns whose type carries them
    left_out: tuple[str, ...] = ()  # lines that are no row, as "file:line"

    @classmethod
    def read(cls, source: str, definition: TaskDefinition) -> Columns:
        wanted = named_columns(definition)
        read = cls._of_hub(source, wanted) if source.startswith("hub:") else cls._of_files(source, definition, wanted)
        if not read.values[wanted[0]]:
            raise ValueError(f"{source}: there are no rows")
        return read

    @classmethod
    def _of_files(cls, source: str, definition: TaskDefinition, wanted: tuple[str, ...]) -> Columns:
        values: dict[str, list[Any]] = {name: [] for name in wanted}
        first, named, left_out = values[wanted[0]], [], LeftOut(definition.broken_lines)
        for path in files.expand(source):
            named.append((str(path), len(first)))
            for number, row in enumerate(read_rows(path, definition.format, definition.columns, left_out), 1):
                for name in wanted:
                    if name not in row:
                        raise _lacking(f"{path}: row {number}", name, list(row))
                    values[name].append(row[name])
        return cls(source, values, tuple(named), {}, tuple(left_out.places))

    @classmethod
    def _of_hub(cls, source: str, wanted: tuple[str, ...]) -> Columns:
        split = files.split_hub(source)[3]
        if split is None:
            raise ValueError(f"{source}: which split? Write hub:ID[/CONFIG][@REVISION]:SPLIT, "
                             f"for example {source}:train")
        data = sources.load_hub(source, split)
        for name in wanted:
            if name not in data.column_names:
                raise _lacking(source, name, data.column_names)
        kinds = {name: getattr(feature, "feature", feature) for name, feature in data.features.items()}  # of lists
        classes = {name: tuple(kind.names) for name, kind in kinds.items() if type(kind).__name__ == "ClassLabel"}
        return cls(source, {name: list(data[name]) for name in wanted}, ((source, 0),), classes)

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def place(self, index: int) -> str:
        """Where a row is, for messages."""
        name, before = next((name, before) for name, before in reversed(self.files) if before <= index)
        return f"{name}: row {index + 1 - before}"

    def filled(self, name: str) -> Iterator[tuple[int, Any]]:
        """(index, value) of every row; ValueError where a row has none."""
        for index, value in enumerate(self.values[name]):
            if _empty(value):
                raise ValueError(f"{self.place(index)}: {name!r} is empty")
            yield index, value

    def lists(self, name: str) -> Iterator[tuple[int, list[Any]]]:
        """(index, list) of every row; ValueError where it is none, or one of its items is missing."""
        for index, value in self.filled(name):
            if not isinstance(value, list):
                raise ValueError(f"{self.place(index)}: {name!r} is not a list but {value!r} "
                                 "(jsonl has lists, tsv and csv do not)")
            for number, item in enumerate(value, 1):
                if item is None or (isinstance(item, str) and not item.strip()):
                    raise ValueError(f"{self.place(index)}: item {number} of {name!r} is empty")
            yield index, value


def named_columns(definition: TaskDefinition) -> tuple[str, ...]:
    """The columns that a task reads, texts or words first."""
    texts = (definition.text, definition.text_pair) if definition.tokens is None else (definition.tokens,)
    return tuple(dict.fromkeys(name for name in (*texts, definition.label, definition.label_name) if name))


def _lacking(place: str, name: str, there: list[Any]) -> ValueError:
    near = difflib.get_close_matches(name, map(str, there), 1)
    return ValueError(f"{place}: no column {name!r}; it has {', '.join(map(str, there))}"
                      + (f"; did you mean {near[0]!r}?" if near else ""))


def _empty(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


# --- texts ----------------------------------------------------------------------------------------------------
Texts = tuple[str, ...] | tuple[tuple[str, ...], ...]  # of each row a text, or its words


def texts(columns: Columns, definition: TaskDefinition) -> tuple[Texts, tuple[str, ...] | None]:
    """The texts or words of all rows, and the second texts of pairs. One of a pair may be empty, as some of QQP are."""
    first, second = definition.text, definition.text_pair
    if definition.tokens is not None:
        return _words(columns, definition.tokens, definition.label), None
    if second is None:
        return tuple(_text(columns, first, index, value) for index, value in columns.filled(first)), None
    for index, pair in enumerate(zip(columns.values[first], columns.values[second], strict=True)):
        if all(not _text(columns, name, index, text).strip() for name, text in zip((first, second), pair, strict=True)):
            raise ValueError(f"{columns.place(index)}: {first!r} and {second!r} are empty")
    return tuple(columns.values[first]), tuple(columns.values[second])


def _text(columns: Columns, name: str, index: int, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{columns.place(index)}: {name!r} is not text but {value!r}")
    if not value.isascii() and HALF.search(value):
        raise ValueError(f"{columns.place(index)}: {name!r} has half a character in it (a lone surrogate such as "
                         "\\ud800)")
    return value


def _words(columns: Columns, name: str, label: str) -> tuple[tuple[str, ...], ...]:
    """The words of every row, each of which has as many labels."""
    rows = []
    for (index, row), (_, labels) in zip(columns.lists(name), columns.lists(label), strict=True):
        if len(labels) != len(row):
            raise ValueError(f"{columns.place(index)}: {len(row)} words in {name!r}, "
                             f"but {len(labels)} labels in {label!r}")
        for number, word in enumerate(row, 1):
            if not isinstance(word, str):
                raise ValueError(f"{columns.place(index)}: item {number}: {name!r} is not text but {word!r}")
            _text(columns, name, index, word)
        rows.append(tuple(row))
    return tuple(rows)


# --- labels ---------------------------------------------------------------------------------------------------
def numbers(columns: Columns, definition: TaskDefinition) -> np.ndarray:
    """float32 [rows]"""
    return np.fromiter(_numbers(columns, definition.label), dtype=np.float32)


def _numbers(columns: Columns, name: str) -> Iterator[float]:
    for index, value in columns.filled(name):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= LARGEST:
            raise ValueError(f"{columns.place(index)}: {name!r} is not a number but {value!r:.80}")
        yield number


def classes(train: Columns, definition: TaskDefinition) -> dict[str, str]:
    """The classes in the order of their numbers: how train rows spell each -> its name.

    As the definition has them, else as the hub's type does, else the labels that are there, sorted.
    """
    if definition.labels:
        return {name: name for name in definition.labels}
    if definition.label in train.classes:
        return {str(number): name for number, name in enumerate(train.classes[definition.label])}
    found = {_label(train, *one) for one in _labels(train, definition)}
    ordered = sorted(found, key=_by_number)
    if definition.label_name is None:
        return {label: label for label in ordered}
    names: dict[str, str] = {}
    for one, (index, name) in zip(_labels(train, definition), train.filled(definition.label_name), strict=True):
        label = _label(train, *one)
        if names.setdefault(label, str(name)) != str(name):
            before = names[label]
            raise ValueError(f"{train.place(index)}: label {label!r} is named {name!r} here and {before!r} before")
    return {label: names[label] for label in ordered}


def numbered(columns: Columns, definition: TaskDefinition, found: Mapping[str, str], train: str) -> np.ndarray:
    """int64 [answers]: the class of every row or word; `found` is what `classes` says of the rows of `train`."""
    return np.fromiter(_numbered(columns, definition, found, train), dtype=np.int64)


def _numbered(columns: Columns, definition: TaskDefinition, found: Mapping[str, str], train: str) -> Iterator[int]:
    number_of = _spellings(columns, definition, found)
    for one in _labels(columns, definition):
        label = _label(columns, *one)
        if label not in number_of:
            raise ValueError(f"{_place(columns, *one)}: label {label!r} is not among the classes of {train}: "
                             f"{', '.join(found)}")
        yield number_of[label]


def _spellings(columns: Columns, definition: TaskDefinition, found: Mapping[str, str]) -> dict[str, int]:
    """How these rows spell the classes -> their numbers."""
    if not definition.labels:
        return {label: number for number, label in enumerate(found)}
    names = numbers_of(list(found))
    if definition.label in columns.classes:  # the hub's numbers, whatever their order
        return {str(number): names[name] for number, name in enumerate(columns.classes[definition.label])
                if name in found}
    return names


def _labels(columns: Columns, definition: TaskDefinition) -> Iterator[tuple[int, int, Any]]:
    """(index of the row, number of the word or 0, label) of every row, or of every word."""
    if definition.tokens is None:
        yield from ((index, 0, value) for index, value in columns.filled(definition.label))
        return
    for index, values in columns.lists(definition.label):
        yield from ((index, number, value) for number, value in enumerate(values, 1))


def _label(columns: Columns, index: int, word: int, value: Any) -> str:
    label = label_of(value)
    if label is None:
        raise ValueError(f"{_place(columns, index, word, value)}: {value!r} is no label")
    return label


def _place(columns: Columns, index: int, word: int, value: Any) -> str:
    return f"{columns.place(index)}: item {word}" if word else columns.place(index)


def _by_number(label: str) -> tuple[bool, float, str]:
    """Numbers in their order before words in theirs."""
    try:
        return False, float(label), label
    except ValueError:
        return True, 0.0, label
