"""Token ids of a task's rows, and which label each of their places is asked for.

R rows of a batch, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mux.data.masking import IGNORED
from mux.data.tasks import Examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NOT_ASKED = -1  # where a place has no label
_ENCODE_AT_ONCE = 1000  # texts


@dataclass(frozen=True)
class Encoded:
    """Token ids of examples, one behind the other; row i is ids[offsets[i] : offsets[i + 1]]."""

    ids: np.ndarray  # int32 [total]
    segments: np.ndarray | None  # uint8 [total], 0 for the first text, 1 for the second; None: the model takes none
    offsets: np.ndarray  # int64 [count + 1]
    labels: np.ndarray  # as in Examples: one a row, or one a word
    words: np.ndarray | None  # int64 [total]: the number of the word whose first piece this is, or -1; None: no words
    pad_id: int
    pad_to: int | None = None  # every batch is as long (where padding is attended); None: as its longest row

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [count], special tokens included."""
        return np.diff(self.offsets)

    @cached_property
    def longest(self) -> int:
        """Positions of the longest batch that there can be."""
        return self.pad_to or int(self.lengths.max(initial=0))

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """int64 input_ids, attention_mask and, where the model takes them, token_type_ids [R, L] of these rows."""
        rows = np.asarray(indices, dtype=np.int64)
        length = self.pad_to or int(self.lengths[rows].max(initial=0))
        batch = {"input_ids": self._padded(self.ids, rows, length, self.pad_id),
                 "attention_mask": (np.arange(length) < self.lengths[rows, None]).astype(np.int64)}
        if self.segments is not None:
            batch["token_type_ids"] = self._padded(self.segments, rows, length, 0)
        return batch

    def asked(self, indices: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
        """The number of the label that each place is asked for, or -1: [R] of texts, [R, L] of words."""
        rows = np.asarray(indices, dtype=np.int64)
        return rows if self.words is None else self._padded(self.words, rows, length, NOT_ASKED)

    def labels_of(self, indices: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
        """The labels of these rows, -100 where none is asked for: [R] of texts, [R, L] of words."""
        asked = self.asked(indices, length)
        return np.where(asked == NOT_ASKED, self.labels.dtype.type(IGNORED), self.labels[asked])

    def _padded(self, values: np.ndarray, rows: np.ndarray, length: int, fill: int) -> np.ndarray:
        """int64 [R, L]: the rows' stretches of `values` [total], filled up."""
        positions = np.arange(length)
        real = positions < self.lengths[rows, None]
        padded = np.full(real.shape, fill, dtype=np.int64)
        padded[real] = values[(self.offsets[rows, None] + positions)[real]]
        return padded


def encode(examples: Examples, tokenizer: PreTrainedTokenizerFast, length: int, *, segments: bool = True,
           pad: bool = False) -> Encoded:
    """Token ids with special tokens, cut to `length`; of a pair the longer text is cut first.

    The label of a word stands at its first piece. `segments`: whether the model takes token_type_ids; `pad`: whether
    every batch is padded to `length`.
    """
    ids: list[list[int]] = []
    types: list[list[int]] = []
    words: list[list[int]] = []
    number = 0  # of the next row's first word
    for start in range(0, len(examples), _ENCODE_AT_ONCE):
        chunk = slice(start, start + _ENCODE_AT_ONCE)
        texts = [list(text) if examples.of_words else text for text in examples.texts[chunk]]
        encoded = tokenizer(texts, list(examples.pairs[chunk]) if examples.pairs else None,
                            is_split_into_words=examples.of_words, truncation="longest_first", max_length=length,
                            padding=False, return_token_type_ids=True, return_attention_mask=False, verbose=False)
        ids.extend(encoded["input_ids"])
        types.extend(encoded["token_type_ids"])
        for index, text in enumerate(texts if examples.of_words else ()):
            words.append(_first_pieces(encoded.word_ids(index), number))
            number += len(text)
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    return Encoded(_joined(ids, np.int32), _joined(types, np.uint8) if segments else None, offsets, examples.labels,
                   _joined(words, np.int64) if examples.of_words else None, tokenizer.pad_token_id,
                   length if pad else None)


def _first_pieces(word_ids: list[int | None], number: int) -> list[int]:
    """At each word's first piece its number, counted from the row's first `number`; -1 at all else."""
    before = [None, *word_ids]
    return [NOT_ASKED if word is None or word == last else number + word
            for word, last in zip(word_ids, before, strict=False)]


def _joined(rows: list[list[int]], dtype: type) -> np.ndarray:
    return np.concatenate([np.array(row, dtype=dtype) for row in rows]) if rows else np.zeros(0, dtype=dtype)
