"""Classification and regression tasks: rows of text or text pairs with labels, and their token ids.

Sources: `path:FILE` (jsonl, tsv, csv), `builtin:NAME`, `hub:ID[/CONFIG][@REVISION]:SPLIT`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mux.data import sources
from mux.recipe import files
from mux.recipe.schema import TaskDefinition

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_ENCODE_AT_ONCE = 1000  # texts


@dataclass(frozen=True)
class Examples:
    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None  # the second texts, if the task is about pairs
    labels: np.ndarray  # [count], int64 classes, or float32 for regression

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
    missing, a label that is no number (regression) or that only the test rows have, fewer than two classes,
    no rows.
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
        labels = [
            np.array(list(_numbered(table, definition.label, list(found), train.source)), dtype=np.int64)
            for table in (train, test)]
    parts = [Examples(first, second, y) for (first, second), y in zip(texts, labels, strict=True)]
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
        classes = {name: tuple(feature.names) for name, feature in data.features.items()
                   if type(feature).__name__ == "ClassLabel"}
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
            if value is None or (isinstance(value, str) and not value.strip()):
                raise ValueError(f"{place}: {name!r} is empty")
            yield value, place


def _some(rows: list[Mapping[str, Any]], source: str) -> list[Mapping[str, Any]]:
    if not rows:
        raise ValueError(f"{source}: there are no rows")
    return rows


def _examples(table: _Table, definition: TaskDefinition) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    first = tuple(_texts(table, definition.text))
    return first, tuple(_texts(table, definition.text_pair)) if definition.text_pair else None


def _texts(table: _Table, name: str) -> Iterator[str]:
    for value, place in table.column(name):
        if not isinstance(value, str):
            raise ValueError(f"{place}: {name!r} is not text but {value!r}")
        yield value


# --- labels -------------------------------------------------------------------------------------------------
def _classes(train: _Table, definition: TaskDefinition) -> dict[str, str]:
    """The labels in the order of their numbers, each with its name."""
    if definition.label in train.classes:
        return {str(number): name for number, name in enumerate(train.classes[definition.label])}
    labels = [_label(value, place) for value, place in train.column(definition.label)]
    ordered = sorted(set(labels), key=_by_number)
    if definition.label_name is None:
        return {label: label for label in ordered}
    names: dict[str, str] = {}
    for label, (name, place) in zip(labels, train.column(definition.label_name), strict=True):
        if names.setdefault(label, str(name)) != str(name):
            raise ValueError(f"{place}: label {label!r} is named {name!r} here and {names[label]!r} before")
    return {label: names[label] for label in ordered}


def _numbered(table: _Table, column: str, labels: list[str], train_source: str) -> Iterator[int]:
    numbers = {label: number for number, label in enumerate(labels)}
    for value, place in table.column(column):
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


# --- token ids ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Encoded:
    """Token ids of examples, one behind the other; row i is ids[offsets[i] : offsets[i + 1]]."""

    ids: np.ndarray  # int32 [total]
    segments: np.ndarray  # uint8 [total], 0 for the first text, 1 for the second
    offsets: np.ndarray  # int64 [count + 1]
    labels: np.ndarray  # [count], as in Examples
    pad_id: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 [count], special tokens included."""
        return np.diff(self.offsets)

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """int64 input_ids, attention_mask, token_type_ids [R, L] of these rows; L is the longest's length."""
        rows = np.asarray(indices, dtype=np.int64)
        lengths = self.lengths[rows]
        positions = np.arange(lengths.max(initial=0))
        real = positions < lengths[:, None]
        places = (self.offsets[rows, None] + positions)[real]
        input_ids = np.full(real.shape, self.pad_id, dtype=np.int64)
        input_ids[real] = self.ids[places]
        token_type_ids = np.zeros(real.shape, dtype=np.int64)
        token_type_ids[real] = self.segments[places]
        return {"input_ids": input_ids, "attention_mask": real.astype(np.int64),
                "token_type_ids": token_type_ids}


def encode(examples: Examples, tokenizer: PreTrainedTokenizerFast, length: int) -> Encoded:
    """Token ids with special tokens, cut to `length`; of a pair the longer text is cut first."""
    ids: list[list[int]] = []
    segments: list[list[int]] = []
    for start in range(0, len(examples), _ENCODE_AT_ONCE):
        stop = start + _ENCODE_AT_ONCE
        pairs = list(examples.pairs[start:stop]) if examples.pairs else None
        encoded = tokenizer(list(examples.texts[start:stop]), pairs, truncation="longest_first",
                            max_length=length, padding=False, return_token_type_ids=True,
                            return_attention_mask=False, verbose=False)
        ids.extend(encoded["input_ids"])
        segments.extend(encoded["token_type_ids"])
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    return Encoded(_joined(ids, np.int32), _joined(segments, np.uint8), offsets, examples.labels,
                   tokenizer.pad_token_id)


def _joined(rows: list[list[int]], dtype: type) -> np.ndarray:
    return np.concatenate([np.array(row, dtype=dtype) for row in rows]) if rows else np.zeros(0, dtype=dtype)
