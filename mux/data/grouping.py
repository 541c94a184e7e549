"""Compositions: how the instances of an evaluation set meet in groups, and how their logits come back.

A ticket is one composition, drawn by a seed (paper Table 6). With copies > 1 every instance appears several
times, all rows are permuted together and the copies' logits are averaged (paper section 5.4, appendix D.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mux.data import draws

MUCH, FEW = 0.15, 2  # by so much, and so many tokens, may groups of a batch be longer than its first


@dataclass(frozen=True)
class Composition:
    """Rows in groups of N. The last group is filled up with the first rows again, which are never counted."""

    groups: np.ndarray  # int64 [G, N], instance indices
    rows: int  # the first so many of the G * N rows count; the rest are fillers
    copies: int = 1

    @property
    def count(self) -> int:
        """How many instances there are."""
        return self.rows // self.copies

    @property
    def counted(self) -> np.ndarray:
        """bool [G, N]: False at fillers."""
        return (np.arange(self.groups.size) < self.rows).reshape(self.groups.shape)

    def average(self, logits: np.ndarray) -> np.ndarray:
        """[count, C]: for each instance, in order, the mean over its copies of `logits` [G * N, C]."""
        if len(logits) != self.groups.size:
            raise ValueError(f"{len(logits)} rows of logits for {self.groups.size} rows of this composition")
        rows = np.argsort(self.groups.reshape(-1)[: self.rows], kind="stable")
        return logits[rows.reshape(-1, self.copies)].mean(axis=1)


def compose(count: int, N: int, seed: int, copies: int = 1) -> Composition:
    """`copies` times `count` instances, permuted together by `seed` and cut into groups of N."""
    return cut(draws.permutation(count * copies, "composition", seed) % max(count, 1), N, copies)


def by_length(lengths: np.ndarray, N: int) -> Composition:
    """Instances of similar length [count] together, the shortest first: little of a group is padding (performance
    trick 2). For inference."""
    return cut(np.argsort(lengths, kind="stable"), N)


def batches(lengths_G: np.ndarray, most: int, sorts: bool) -> Iterator[slice]:
    """The groups of these lengths in order, at most so many a batch. If they are sorted, one that is much longer than
    the first of its batch begins another, or all would be padded to it."""
    first = 0
    for group in range(1, len(lengths_G) + 1):
        full = group - first == most or group == len(lengths_G)
        if full or (sorts and lengths_G[group] > max(lengths_G[first] * (1 + MUCH), lengths_G[first] + FEW)):
            yield slice(first, group)
            first = group


def in_order(count: int, N: int) -> Composition:
    """The instances as they come, for inference."""
    return cut(np.arange(count), N)


def cut(order: np.ndarray, N: int, copies: int = 1) -> Composition:
    """Rows in this order, N after N."""
    groups = -(-len(order) // N)
    return Composition(np.resize(order, (groups, N)).astype(np.int64), len(order), copies)
