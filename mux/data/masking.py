"""Masked language modelling and retrieval targets, drawn per group.

G groups, N slots, L positions. Every draw is a pure function of (seed, step, number of the group in the
global batch), so ranks and micro-batches may split the groups as they like.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mux.data import draws

IGNORED = -100  # the label that no loss counts
_HALF = np.uint64(32)


def mask_tokens(ids_GNL: np.ndarray, special_ids: Sequence[int], mask_id: int, vocabulary: int, rate: float,
                seed: int, step: int, first_group: int) -> tuple[np.ndarray, np.ndarray]:
    """(corrupted_GNL, labels_GNL), int64: BERT's masking (Devlin et al. 2019) of a stretch of groups.

    Each token that is not special is chosen with probability `rate`. Of the chosen, 80 % become `mask_id`,
    10 % a random id that is not special (possibly their own) and 10 % stay. Labels are the ids at chosen
    places and -100 elsewhere.
    """
    is_special, ordinary = _vocabulary(tuple(sorted(special_ids)), vocabulary)
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
    corrupted[places] = np.where(fate < 8, mask_id, np.where(fate < 9, random, chosen))
    return corrupted.reshape(ids_GNL.shape), labels.reshape(ids_GNL.shape)


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


@lru_cache(maxsize=4)
def _vocabulary(special_ids: tuple[int, ...], vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """bool [vocabulary], True where special, and the int64 ids that are not."""
    is_special = np.zeros(vocabulary, dtype=bool)
    is_special[list(special_ids)] = True
    return is_special, np.flatnonzero(~is_special)
