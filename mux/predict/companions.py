"""Fixed companions: every text shares its group with the same texts, so that nothing else changes its prediction."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np

FILE = "companions.json"  # in a model folder: a list of texts like those that the model is used on

# Used where a model folder brings none: plain statements, of about the length of a sentence.
NEUTRAL = (
    "The meeting begins at nine o'clock in the large room on the second floor.",
    "A river runs through the valley and reaches the sea after many miles.",
    "She put the book back on the shelf and closed the window.",
    "The train to the coast leaves every hour from the main station.",
    "Most of the houses in this street were built about a hundred years ago.",
    "He bought bread, apples and a bottle of milk at the market.",
    "The report describes what was measured and how the work was done.",
    "In the afternoon the weather became colder and it started to rain.",
    "The museum is open to visitors from Tuesday to Sunday.",
)


def fixed_texts(folder: Path, count: int) -> list[str]:
    """`count` texts, from the folder's companions.json or else the neutral ones; repeated if they are few."""
    texts = list(NEUTRAL)
    path = folder / FILE
    if path.exists():
        try:
            texts = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from None
        if not (isinstance(texts, list) and texts and all(isinstance(text, str) and text.strip() for text in texts)):
            raise ValueError(f"{path} is not a list of texts")
    return list(islice(cycle(texts), count))


@dataclass(frozen=True)
class FixedCompanions:
    """A group for each copy of each text. Texts are instances 0 .. count - 1, companions the N - 1 after them.

    Copy j of a text is in slot j; the companions move one on from copy to copy. It groups and averages as a
    `mux.data.grouping.Composition` does.
    """

    count: int
    N: int
    copies: int

    @property
    def groups(self) -> np.ndarray:
        """int64 [count * copies, N], instance indices."""
        others = self.count + np.arange(self.N - 1)
        slots = [np.insert(np.roll(others, -copy), copy, -1) for copy in range(self.copies)]
        groups = np.tile(np.array(slots, dtype=np.int64), (self.count, 1))
        texts = np.repeat(np.arange(self.count), self.copies)
        return np.where(groups < 0, texts[:, None], groups)

    def average(self, logits: np.ndarray) -> np.ndarray:
        """[count, ...]: for each text, in order, the mean over its copies of `logits` [count * copies * N, ...]."""
        slots = np.arange(self.copies)
        by_copy = logits.reshape(self.count, self.copies, self.N, *logits.shape[1:])
        return by_copy[:, slots, slots].mean(axis=1)
