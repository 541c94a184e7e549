"""Who shares a group: the strategies by which evaluation rows are composed. The paper draws rows at random and leaves
the others open (section 6.3).

Each strategy keeps every row exactly once. Its seed draws what it leaves open, ties and which rows make the last, short
group, and shuffles the slots within a group, so that slot and content do not go together.

R rows, G full groups, N slots, W different words, P rows of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mux.data import draws
from mux.data.grouping import Composition, compose, cut

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

DIRECTIONS = 32
PART = 512  # rows among which companions are looked for; 1 MB of cosines


@dataclass(frozen=True)
class Rows:
    """What the strategies look at."""

    lengths: np.ndarray  # int64 [R], in tokens
    texts: Sequence[str]

    @cached_property
    def words(self) -> csr_matrix:
        """TF-IDF of words and marks [R, W]; rows have norm 1, so that products are cosines."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", dtype=np.float32).fit_transform(self.texts)

    def cosines(self, part: np.ndarray) -> np.ndarray:
        """float32 [P, P]"""
        return (self.words[part] @ self.words[part].T).toarray()

    @cached_property
    def topics(self) -> np.ndarray:
        """The rows along the principal directions of their words, float32 [R, at most DIRECTIONS]."""
        from sklearn.utils.extmath import randomized_svd

        U, values, _ = randomized_svd(self.words, n_components=DIRECTIONS, n_iter=2, random_state=0)
        return U * values


def random(rows: Rows, N: int, seed: int, copies: int) -> Composition:
    """Anyone, as in the paper."""
    return compose(len(rows.lengths), N, seed, copies)


def length(rows: Rows, N: int, seed: int, copies: int) -> Composition:
    """Rows of equal length in tokens, so that little of a group is padding."""
    def by_length(drawn: np.ndarray) -> np.ndarray:
        return drawn[np.argsort(rows.lengths[drawn], kind="stable")]

    return _composed(by_length, rows, N, seed, copies)


def similar(rows: Rows, N: int, seed: int, copies: int) -> Composition:
    """Rows that share words: the rows are halved again and again, then groups are gathered in each small part."""
    def alike(drawn: np.ndarray) -> np.ndarray:
        parts = [drawn]
        while max(map(len, parts)) > max(PART, 2 * N):
            parts = [half for part in parts for half in _halves(rows.topics, part, N)]
        return np.concatenate([_gathered(part, rows.cosines(part), N) for part in parts])

    return _composed(alike, rows, N, seed, copies)


def dissimilar(rows: Rows, N: int, seed: int, copies: int) -> Composition:
    """Rows that share as few words as possible, gathered in parts that are drawn. The rows that share words with most
    others come first, while there is a choice of companions for them.
    """
    def unlike(drawn: np.ndarray) -> np.ndarray:
        size = max(min(PART, len(drawn) // 2) // N, 1) * N  # never one part of all: tickets would be the same
        found = []
        for part in np.split(drawn, range(size, len(drawn), size)):
            first = part[np.argsort(-rows.cosines(part).sum(axis=1), kind="stable")]
            found.append(_gathered(first, -rows.cosines(first), N))
        return np.concatenate(found)

    return _composed(unlike, rows, N, seed, copies)


COMPOSITIONS: dict[str, Callable[[Rows, int, int, int], Composition]] = {
    "random": random, "length": length, "similar": similar, "dissimilar": dissimilar,
}


def _composed(arrange: Callable[[np.ndarray], np.ndarray], rows: Rows, N: int, seed: int, copies: int) -> Composition:
    """The groups into which `arrange` puts as many drawn rows as fill groups, N after N, and one of those left over."""
    if copies != 1:  # each other's neighbours, they would meet in one group
        raise ValueError(f"{copies} copies of a row are composed at random only")
    drawn = draws.permutation(len(rows.lengths), "strategy", seed)
    full = len(drawn) // N
    groups_GN = arrange(drawn[: full * N]).reshape(full, N)[draws.permutation(full, "groups", seed)]
    slots_GN = draws.words("slots", seed, 0, 0, full, N).argsort(axis=1)
    return cut(np.concatenate([np.take_along_axis(groups_GN, slots_GN, axis=1).ravel(), drawn[full * N :]]), N)


def _halves(topics: np.ndarray, part: np.ndarray, N: int) -> list[np.ndarray]:
    """The part's rows on both sides of the middle of the direction in which they differ most, in their order."""
    apart = topics[part] - topics[part].mean(axis=0)
    direction = np.linalg.eigh(apart.T @ apart).eigenvectors[:, -1]
    sides = np.split(np.argsort(apart @ direction, kind="stable"), [len(part) // N // 2 * N])
    return [part[np.sort(side)] for side in sides]


def _gathered(part: np.ndarray, fits: np.ndarray, N: int) -> np.ndarray:
    """The rows of a part [P], N after N a group: the first that is left, then again and again the one that fits those
    of the group best, by the sum of `fits` [P, P].
    """
    left = np.ones(len(part), dtype=bool)
    places: list[int] = []
    for first in range(len(part)):
        if not left[first]:
            continue
        group, total = [first], fits[first].copy()
        left[first] = False
        while len(group) < N:
            group.append(int(np.argmax(np.where(left, total, -np.inf))))
            left[group[-1]] = False
            total += fits[group[-1]]
        places += group
    return part[places]
