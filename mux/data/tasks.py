"""Tasks: rows of text or text pairs with a class or a number, or rows of words with a class for each word.

Sources: `path:FILE` (jsonl, tsv, csv), `builtin:NAME`, `hub:ID[/CONFIG][@REVISION]:SPLIT`. Rows of words cannot be
written in tsv and csv.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mux.data import sources
from mux.recipe import files
from mux.recipe.schema import TaskDefinition


@dataclass(frozen=True)
class Examples:
    texts: tuple[str, ...] | tuple[tuple[str, ...], ...]  # each a text, or its words
    pairs: tuple[str, ...] | None  # the second texts, if the task is about pairs
    labels: np.ndarray  # [count], int64 classes or float32 numbers; of words [words], all rows' one behind the other
    of_words: bool = False

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Task:
    name: str
    definition: TaskDefinition
    labels: tuple[str, ...]  # names of the classes by number; empty for regression
    train: Examples
    test: Examples

    @property
    def outputs(self) -> int:
        """How many logits an instance gets."""
        return 1 if self.definition.regression else len(self.labels)

    @cached_property
    def content_hash(self) -> str:
        """sha256, in hex, of all rows: the key under which the sampler draws their order."""
        content = hashlib.sha256(json.dumps(self.labels).encode())
        for part in (self.train, self.test):
            content.update(json.dumps([part.texts, part.pairs, part.labels.tolist()]).encode())
        return content.hexdigest()


def load_task(name: str, definition: TaskDefinition) -> Task:
    """Read both parts of a task. Classes are numbered by the hub's own order or the sorted labels of the
    train rows.

    Raises Refusal or ValueError naming file and row: a column that is not there, a text or label that is
    missing, a label that is no number (regression) or that only the test rows have, words without as many labels,
    fewer than two classes, no rows.
    """
    train, test = _Table.read(definition.train), _Table.read(definition.test)
    texts = [_examples(table, definition) for table in (train, test)]
    if definition.regression:
        names: tuple[str, ...] = ()
        labels = [np.array(list(_numbers(table, definition.label)), dtype=np.float32)
                  for table in (train, test)]
    else:
        if train.classes.get(definition.label) != test.classes.get(definition.label):
            raise ValueError(f"task {name}: {train.source} and {test.source} number the classes differently")
        found = _classes(train, definition)
        names = tuple(found.values())
        if len(names) < 2:
            raise ValueError(f"{train.source}: column {definition.label!r} has only the class {names[0]!r}; "
                             "two or more are needed (a number to predict: regression = true)")
        labels = [np.array(list(_numbered(table, definition, list(found), train.source)), dtype=np.int64)
                  for table in (train, test)]
    of_words = definition.tokens is not None
    parts = [Examples(first, second, y, of_words) for (first, second), y in zip(texts, labels, strict=True)]
    return Task(name, definition, names, parts[0], parts[1])


# --- reading ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Table:
    """The rows of one source; `classes` has the class names of columns whose type carries them."""

    source: str
    rows: Sequence[Mapping[str, Any]]
    places: Sequence[str]  # where each row is, for messages
    classes: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, source: str) -> _Table:
        if source.startswith("hub:"):
            return cls._read_hub(source)
        rows: list[Mapping[str, Any]] = []
        places: list[str] = []
        for path in files.expand(source):
            for number, row in enumerate(files.read_rows(path), 1):
                rows.append(row)
                places.append(f"{path}: row {number}")
        return cls(source, _some(rows, source), places, {})

    @classmethod
    def _read_hub(cls, source: str) -> _Table:
        split = files.split_hub(source)[3]
        if split is None:
            raise ValueError(f"{source}: which split? Write hub:ID[/CONFIG][@REVISION]:SPLIT, "
                             f"for example {source}:train")
        data = sources.load_hub(source, split)
        kinds = {name: getattr(feature, "feature", feature) for name, feature in data.features.items()}  # of lists
        classes = {name: tuple(kind.names) for name, kind in kinds.items() if type(kind).__name__ == "ClassLabel"}
        places = [f"{source}: row {number}" for number in range(1, len(data) + 1)]
        return cls(source, _some(list(data), source), places, classes)

    def column(self, name: str) -> Iterator[tuple[Any, str]]:
        """(value, place) of every row; ValueError where a row has no value."""
        for row, place in zip(self.rows, self.places, strict=True):
            if name not in row:
                near = difflib.get_close_matches(name, row, 1)
                raise ValueError(f"{place}: no column {name!r}; it has {', '.join(map(str, row))}"
                                 + (f"; did you mean {near[0]!r}?" if near else ""))
            value = row[name]
            if value is None or value == [] or (isinstance(value, str) and not value.strip()):
                raise ValueError(f"{place}: {name!r} is empty")
            yield value, place

    def lists(self, name: str) -> Iterator[tuple[list[Any], str]]:
        """(list, place) of every row; ValueError where a row has no list."""
        for value, place in self.column(name):
            if not isinstance(value, list):
                raise ValueError(f"{place}: {name!r} is not a list but {value!r} (jsonl has lists, tsv and csv do not)")
            yield value, place

    def items(self, name: str) -> Iterator[tuple[Any, str]]:
        """(item, place) of every item of a column of lists; ValueError where one is missing."""
        for value, place in self.lists(name):
            for number, item in enumerate(value, 1):
                if item is None or (isinstance(item, str) and not item.strip()):
                    raise ValueError(f"{place}: item {number} of {name!r} is empty")
                yield item, f"{place}: item {number}"


def _some(rows: list[Mapping[str, Any]], source: str) -> list[Mapping[str, Any]]:
    if not rows:
        raise ValueError(f"{source}: there are no rows")
    return rows


def _examples(table: _Table, definition: TaskDefinition) -> tuple[tuple[Any, ...], tuple[str, ...] | None]:
    if definition.tokens is not None:
        return _words(table, definition.tokens, definition.label), None
    first = tuple(_texts(table.column(definition.text), definition.text))
    pair = definition.text_pair
    return first, tuple(_texts(table.column(pair), pair)) if pair else None


def _texts(values: Iterator[tuple[Any, str]], name: str) -> Iterator[str]:
    for value, place in values:
        if not isinstance(value, str):
            raise ValueError(f"{place}: {name!r} is not text but {value!r}")
        yield value


def _words(table: _Table, name: str, label: str) -> tuple[tuple[str, ...], ...]:
    """The words of every row, each of which has as many labels."""
    words = _texts(table.items(name), name)
    rows = []
    for (row, place), (labels, _) in zip(table.lists(name), table.lists(label), strict=True):
        if len(labels) != len(row):
            raise ValueError(f"{place}: {len(row)} words in {name!r}, but {len(labels)} labels in {label!r}")
        rows.append(tuple(itertools.islice(words, len(row))))
    return tuple(rows)


# --- labels -------------------------------------------------------------------------------------------------
def _classes(train: _Table, definition: TaskDefinition) -> dict[str, str]:
    """The labels in the order of their numbers, each with its name."""
    if definition.label in train.classes:
        return {str(number): name for number, name in enumerate(train.classes[definition.label])}
    labels = [_label(value, place) for value, place in _labels(train, definition)]
    ordered = sorted(set(labels), key=_by_number)
    if definition.label_name is None:
        return {label: label for label in ordered}
    names: dict[str, str] = {}
    for label, (name, place) in zip(labels, train.column(definition.label_name), strict=True):
        if names.setdefault(label, str(name)) != str(name):
            raise ValueError(f"{place}: label {label!r} is named {name!r} here and {names[label]!r} before")
    return {label: names[label] for label in ordered}


def _labels(table: _Table, definition: TaskDefinition) -> Iterator[tuple[Any, str]]:
    """(label, place) of every row, or of every word."""
    return table.items(definition.label) if definition.tokens is not None else table.column(definition.label)


def _numbered(table: _Table, definition: TaskDefinition, labels: list[str], train_source: str) -> Iterator[int]:
    numbers = {label: number for number, label in enumerate(labels)}
    for value, place in _labels(table, definition):
        label = _label(value, place)
        if label not in numbers:
            raise ValueError(f"{place}: label {label!r} is not among the classes of {train_source}: "
                             f"{', '.join(labels)}")
        yield numbers[label]


def _numbers(table: _Table, column: str) -> Iterator[float]:
    for value, place in table.column(column):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{place}: {column!r} is not a number but {value!r}")
        yield number


def _label(value: Any, place: str) -> str:
    """One spelling for 1, 1.0 and "1", so that jsonl and tsv files of one task agree."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | float):
        raise ValueError(f"{place}: {value!r} is no label")
    return str(value).strip()


def _by_number(label: str) -> tuple[bool, float, str]:
    """Numbers in their order before words in theirs."""
    try:
        return False, float(label), label
    except ValueError:
        return True, 0.0, label
