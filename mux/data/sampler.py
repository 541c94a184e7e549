"""Which rows meet in which group at which step: a pure function, whatever the world size or restarts."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mux.data import draws


def group_rows(rows: int, N: int, groups: int, key: str, seed: int, step: int) -> np.ndarray:
    """int64 [groups, N]: the rows of every group of the global batch of one optimizer step (counted from 0).

    The stream is epoch after epoch, each a permutation of all `rows` rows drawn by (key, seed, epoch), where
    key is the hash of the data; step s reads it from place s * groups * N. A rank takes its slice of groups.
    """
    if rows < 1:
        raise ValueError("there are no rows to draw from")
    taken: list[np.ndarray] = []
    place, missing = step * groups * N, groups * N
    while missing:
        epoch, offset = divmod(place, rows)
        part = _epoch(rows, key, seed, epoch)[offset : offset + missing]
        taken.append(part)
        place, missing = place + len(part), missing - len(part)
    return np.concatenate(taken).astype(np.int64).reshape(groups, N)


@lru_cache(maxsize=2)  # a step may end one epoch and begin the next
def _epoch(rows: int, key: str, seed: int, epoch: int) -> np.ndarray:
    order = draws.permutation(rows, f"rows {key}", seed, epoch)
    order.flags.writeable = False
    return order
