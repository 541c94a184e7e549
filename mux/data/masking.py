"""Corrupted tokens and retrieval targets, drawn per group.

R rows, G groups, N slots, L positions. Every draw is a pure function of (seed, step, number of the group in the
global batch), so ranks and micro-batches may split the groups as they like. A corruption takes
`(ids_GNL, vocabulary, rate, seed, step, first_group)` and gives `(corrupted_GNL, labels_GNL)`, int64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mux.data import draws

IGNORED = -100  # the label that no loss counts
REPLACED = 1  # the label of a replaced token; that of an original one is 0
PUBLISHED_SHARE = 0.85  # of the chosen tokens the published collator replaces so many, and leaves the rest
_HALF = np.uint64(32)
_LAST = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class Vocabulary:
    """Of a tokenizer, what drawing tokens needs."""

    size: int
    special_ids: tuple[int, ...]
    mask_id: int
    pad_id: int


Corruption = Callable[[np.ndarray, Vocabulary, float, int, int, int], tuple[np.ndarray, np.ndarray]]


def mask_tokens(ids_GNL: np.ndarray, vocabulary: Vocabulary, rate: float, seed: int, step: int,
                first_group: int) -> tuple[np.ndarray, np.ndarray]:
    """BERT's masking (Devlin et al. 2019): labels are the ids at chosen places and -100 elsewhere.

    Each token that is not special is chosen with probability `rate`. Of the chosen, 80 % become [MASK], 10 % a random
    id that is not special (possibly their own) and 10 % stay.
    """
    is_special, ordinary = _ordinary(vocabulary)
    groups, N, length = ids_GNL.shape
    # One word a token: its high half chooses the token, its low half what becomes of it.
    words = draws.words("mask", seed, step, first_group, groups, N * length).reshape(-1)
    places = np.flatnonzero((words >> _HALF) < round(rate * 2**32))
    ids = ids_GNL.reshape(-1)
    places = places[~is_special[ids[places]]]
    chosen = ids[places]

    labels = np.full(ids.shape, IGNORED, dtype=np.int64)
    labels[places] = chosen
    # fate in [0, 10): below 8 mask, from 9 on keep; in between its fraction picks the random id.
    fate = words[places].astype(np.uint32) * (10 / 2**32)
    random = ordinary[((fate - 8).clip(0, 1) * len(ordinary)).astype(np.int64).clip(max=len(ordinary) - 1)]
    corrupted = ids.astype(np.int64, copy=True)
    corrupted[places] = np.where(fate < 8, vocabulary.mask_id, np.where(fate < 9, random, chosen))
    return corrupted.reshape(ids_GNL.shape), labels.reshape(ids_GNL.shape)


def replace_tokens(ids_GNL: np.ndarray, vocabulary: Vocabulary, rate: float, seed: int, step: int,
                   first_group: int) -> tuple[np.ndarray, np.ndarray]:
    """Replaced-token detection (paper section 3.2; design section 4, departure 4): labels are 1 where replaced, else 0.

    Of each row's tokens that are not special exactly the share `rate` is replaced, rounded to the nearest count (half
    a token: one more), each by an id drawn uniformly from those that are neither special nor its own.
    """
    is_special, ordinary = _ordinary(vocabulary)
    groups, N, length = ids_GNL.shape
    words_RL = draws.words("replace", seed, step, first_group, groups, N * length).reshape(-1, length)
    ids_RL = ids_GNL.reshape(-1, length)
    open_RL = ~is_special[ids_RL]
    count_R = np.floor(open_RL.sum(axis=1) * rate + 0.5).astype(np.int64)
    # A row's open tokens in random order, by all of their word; its low half is left for the id.
    order_RL = np.argsort(np.where(open_RL, words_RL >> np.uint64(1), _LAST), axis=1)
    rows, nth = np.nonzero(np.arange(length) < count_R[:, None])
    places = rows * length + order_RL[rows, nth]

    ids = ids_RL.reshape(-1)
    others = np.uint64(len(ordinary) - 1)
    drawn = (((words_RL.reshape(-1)[places] & (_LAST >> _HALF)) * others) >> _HALF).astype(np.int64)
    drawn += drawn >= np.searchsorted(ordinary, ids[places])  # one further from the own id on
    return _replaced(ids_GNL, places, ordinary[drawn])


def replace_as_published(ids_GNL: np.ndarray, vocabulary: Vocabulary, rate: float, seed: int, step: int,
                         first_group: int) -> tuple[np.ndarray, np.ndarray]:
    """Replaced-token detection as the published models were trained (numerics section 1.7).

    Each token that is not special is chosen with probability `rate`, 85 % of the chosen get an id from the whole
    vocabulary, and all that got one are labelled 1, also where it is their own.
    """
    is_special, _ = _ordinary(vocabulary)
    groups, N, length = ids_GNL.shape
    words = draws.words("replace", seed, step, first_group, groups, N * length).reshape(-1)
    places = np.flatnonzero((words >> _HALF) < round(rate * PUBLISHED_SHARE * 2**32))
    places = places[~is_special[ids_GNL.reshape(-1)[places]]]
    drawn = ((words[places] & (_LAST >> _HALF)) * np.uint64(vocabulary.size)) >> _HALF
    return _replaced(ids_GNL, places, drawn.astype(np.int64))


# By family, and whether replacement is exact (departure 4; masking knows no other rule).
CORRUPTIONS: dict[tuple[str, bool], Corruption] = {
    ("bert", True): mask_tokens,
    ("bert", False): mask_tokens,
    ("electra", True): replace_tokens,
    ("electra", False): replace_as_published,
}


def retrieval_slots(real_GNL: np.ndarray, seed: int, step: int, first_group: int) -> np.ndarray:
    """int64 [G, L]: at every position one slot, uniform among those that hold a token there, or -1.

    `real_GNL` is True where an instance has a token, False where it has padding. The retrieval task of the
    paper (section 3.2) decodes all tokens of a group; decoding one random instance a position, as the
    published code does, estimates the same loss at an N-th of its cost.
    """
    groups, N, length = real_GNL.shape
    count_GL = real_GNL.sum(axis=1, dtype=np.uint8 if N < 256 else np.uint32)
    high_GL = draws.words("retrieval", seed, step, first_group, groups, length) >> _HALF
    # Uniform in 0 .. count - 1, which already is the slot where no slot is padding.
    slots_GL = ((high_GL * count_GL) >> _HALF).astype(np.int64)
    group, position = np.nonzero(count_GL < N)
    real_PN = real_GNL[group, :, position]  # P places with padding: there the number counts real slots only
    nth_real = (real_PN.cumsum(axis=1) > slots_GL[group, position, None]).argmax(axis=1)
    slots_GL[group, position] = np.where(real_PN.any(axis=1), nth_real, -1)
    return slots_GL


def _replaced(ids_GNL: np.ndarray, places: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ids with `drawn` at the flat `places`, labels)."""
    corrupted = ids_GNL.astype(np.int64, copy=True)
    labels = np.zeros(ids_GNL.shape, dtype=np.int64)
    corrupted.reshape(-1)[places] = drawn
    labels.reshape(-1)[places] = REPLACED
    return corrupted, labels


@lru_cache(maxsize=4)
def _ordinary(vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """bool [vocabulary], True where special, and the int64 ids that are not, in order."""
    is_special = np.zeros(vocabulary.size, dtype=bool)
    is_special[list(vocabulary.special_ids)] = True
    return is_special, np.flatnonzero(~is_special)
