"""Tasks: rows of text or text pairs with a class or a number, or rows of words with a class for each word.

Sources: `path:FILE` (the formats of `mux.recipe.rows`), `builtin:NAME`, `hub:ID[/CONFIG][@REVISION]:SPLIT`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mux.data import columns
from mux.data.columns import Columns
from mux.data.draws import permutation
from mux.recipe.schema import TaskDefinition


@dataclass(frozen=True)
class Examples:
    texts: tuple[str, ...] | tuple[tuple[str, ...], ...]  # each a text, or its words
    pairs: tuple[str, ...] | None  # the second texts, if the task is about pairs
    labels: np.ndarray  # [answers], int64 classes or float32 numbers: one a row, or one a word of all rows in turn
    of_words: bool = False

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 [rows + 1]: the answers of row i are offsets[i] .. offsets[i + 1] - 1, one of them if not of words."""
        answers = map(len, self.texts) if self.of_words else itertools.repeat(1, len(self))
        return np.cumsum([0, *answers], dtype=np.int64)

    @cached_property
    def rows(self) -> np.ndarray:
        """int64 [answers]: the row of each answer."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def select(self, rows: Sequence[int] | np.ndarray) -> Examples:
        """These rows alone, in this order."""
        chosen = np.asarray(rows, dtype=np.int64)
        answers = [np.arange(self.offsets[row], self.offsets[row + 1]) for row in chosen] if self.of_words else [chosen]
        labels = self.labels[np.concatenate(answers)] if len(chosen) else self.labels[:0]
        pairs = tuple(self.pairs[row] for row in chosen) if self.pairs is not None else None
        return Examples(tuple(self.texts[row] for row in chosen), pairs, labels, self.of_words)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Task:
    name: str
    definition: TaskDefinition
    labels: tuple[str, ...]  # names of the classes by number; empty for regression
    train: Examples
    test: Examples  # the rows that are reported
    also: Mapping[str, Examples] = field(default_factory=dict)  # further rows that are reported, by name
    dev: Examples | None = None  # rows to choose on, if the definition has them and they were asked for
    left_out: tuple[str, ...] = ()  # lines of files without a value for each column, as "file:line"

    @property
    def outputs(self) -> int:
        """How many logits an instance gets."""
        return 1 if self.definition.regression else len(self.labels)

    @cached_property
    def content_hash(self) -> str:
        """sha256, in hex, of all rows but dev's: the key under which the sampler draws their order."""
        content = hashlib.sha256(json.dumps(self.labels).encode())
        for part in (self.train, self.test, *self.also.values()):
            content.update(json.dumps([part.texts, part.pairs, part.labels.tolist()]).encode())
        return content.hexdigest()

    def held_out(self, share: float, seed: int = 0) -> tuple[Examples, Examples]:
        """(train rows without a part, that part): `share` of the rows, at least one in each.

        A pure function of the rows, the share and the seed. Of texts the part has as much of each class, or of all
        heights of a number; of words whole rows. Raises ValueError if there is one row only.
        """
        count = len(self.train)
        if count < 2:
            raise ValueError(f"task {self.name}: there is one train row, so none can be held out")
        order = permutation(count, f"held out of {self.content_hash}", seed)
        if not self.train.of_words:
            order = order[np.argsort(self.train.labels[order], kind="stable")]
        held = min(max(1, round(share * count)), count - 1)
        chosen = np.zeros(count, dtype=bool)
        chosen[order[((np.arange(held) + 0.5) * count / held).astype(np.int64)]] = True  # at even distances
        return self.train.select(np.flatnonzero(~chosen)), self.train.select(np.flatnonzero(chosen))


def load_task(name: str, definition: TaskDefinition, dev: bool = False) -> Task:
    """Read a task's parts; of its dev rows only if `dev` asks for them.

    Classes are numbered as the definition says, else by the hub's own order, else by the sorted labels of the train
    rows. Raises Refusal or ValueError naming file and row: a column that is not there, a text or label that is
    missing, a label that is no number (regression) or no class of the train rows, words without as many labels, fewer
    than two classes, no rows.
    """
    sources = {"train": definition.train, "test": definition.test}
    sources |= {f"also {part}": source for part, source in definition.also.items()}
    if dev and definition.dev is not None:
        sources["dev"] = definition.dev
    tables = {part: Columns.read(source, definition) for part, source in sources.items()}
    texts = {part: columns.texts(table, definition) for part, table in tables.items()}
    train = tables["train"]
    classes = {} if definition.regression else _classes(name, definition, list(tables.values()))
    labels = {part: columns.numbers(table, definition) if definition.regression
              else columns.numbered(table, definition, classes, train.source) for part, table in tables.items()}
    parts = {part: Examples(*texts[part], labels[part], definition.tokens is not None) for part in tables}
    return Task(name, definition, tuple(classes.values()), parts["train"], parts["test"],
                {part: parts[f"also {part}"] for part in definition.also}, parts.get("dev"),
                tuple(place for table in tables.values() for place in table.left_out))


def _classes(name: str, definition: TaskDefinition, tables: Sequence[Columns]) -> dict[str, str]:
    """The classes in the order of their numbers: the train rows' label -> its name. The train rows are the first table.

    Where the definition does not name them, types of the hub must number them alike in all parts.
    """
    train = tables[0]
    for table in () if definition.labels else tables:
        if table.classes.get(definition.label) != train.classes.get(definition.label):
            raise ValueError(f"task {name}: {train.source} and {table.source} number the classes differently")
    found = columns.classes(train, definition)
    if len(found) < 2:
        raise ValueError(f"{train.source}: column {definition.label!r} has only the class {next(iter(found))!r}; "
                         "two or more are needed (a number to predict: regression = true)")
    return found
