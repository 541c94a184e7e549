"""Random draws that are pure functions of their address: no state, no order of calls, no world size.

Philox is counter-based: the word at counter c under a key can be computed without the words before it, so a
rank draws exactly the stretch that belongs to its groups. Only raw 64-bit words are used: their stream is
fixed by the algorithm, while numpy may change how `Generator` turns them into numbers.
"""

from __future__ import annotations

import hashlib

import numpy as np

WORDS_PER_COUNT = 4  # a Philox counter value yields four words


def words(purpose: str, seed: int, step: int, first_block: int, blocks: int, per_block: int) -> np.ndarray:
    """uint64 [blocks, per_block]: the words of blocks first_block .. first_block + blocks - 1 at a step.

    A block (here: a group) owns a fixed stretch of counter values, so drawing blocks 0..7 at once equals
    drawing 0..3 and 4..7 apart.
    """
    counts = -(-per_block // WORDS_PER_COUNT)
    counter = np.array([first_block * counts, 0, step, 0], dtype=np.uint64)
    generator = np.random.Philox(key=_key(purpose, seed), counter=counter)
    width = counts * WORDS_PER_COUNT
    return generator.random_raw(blocks * width).reshape(blocks, width)[:, :per_block]


def permutation(size: int, purpose: str, seed: int, number: int = 0) -> np.ndarray:
    """int64 [size]: the `number`-th random permutation of 0 .. size - 1 under this purpose and seed."""
    return np.argsort(words(purpose, seed, number, 0, 1, size)[0], kind="stable")


def _key(purpose: str, seed: int) -> np.ndarray:
    digest = hashlib.sha256(f"{purpose}\0{seed}".encode()).digest()
    return np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
