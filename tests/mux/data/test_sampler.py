from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mux.data import draws
from mux.data.sampler import group_rows


def stream(rows: int, N: int, groups: int, steps: int, key: str = "corpus", seed: int = 0) -> np.ndarray:
    return np.concatenate([group_rows(rows, N, groups, key, seed, step).ravel() for step in range(steps)])


@given(rows=st.integers(1, 40), N=st.integers(1, 5), groups=st.integers(1, 8))
def test_every_epoch_has_every_row_once(rows, N, groups):
    steps = -(-3 * rows // (N * groups))
    drawn = stream(rows, N, groups, steps)
    for epoch in range(3):
        assert sorted(drawn[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


def test_a_step_is_a_function_of_its_number_alone():
    forwards = [group_rows(37, 2, 8, "corpus", 3, step) for step in range(12)]
    for step in reversed(range(12)):
        assert np.array_equal(group_rows(37, 2, 8, "corpus", 3, step), forwards[step])
    assert forwards[0].shape == (8, 2) and forwards[0].dtype == np.int64


def test_one_step_may_take_several_epochs():
    rows = group_rows(3, 5, 4, "corpus", 0, 7)
    assert rows.shape == (4, 5) and set(np.bincount(rows.ravel())) <= {6, 7}


def test_key_seed_and_epoch_change_the_order():
    first = stream(500, 1, 500, 1)
    others = [stream(500, 1, 500, 1, seed=1), stream(500, 1, 500, 1, key="another"),
              group_rows(500, 1, 500, "corpus", 0, 1).ravel()]
    for other in others:
        assert (first == other).mean() < 0.02


def test_the_order_is_the_same_on_every_machine():
    """Frozen: a run resumed with another version of this program or of numpy must read the same rows."""
    assert group_rows(10, 2, 5, "corpus", 0, 0).ravel().tolist() == [4, 5, 1, 9, 7, 2, 8, 3, 0, 6]


def test_neighbours_are_mixed():
    order = stream(10_000, 1, 10_000, 1)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        group_rows(0, 1, 1, "corpus", 0, 0)


@given(first=st.integers(0, 50), blocks=st.integers(1, 6), per_block=st.integers(1, 9))
def test_words_of_a_block_do_not_depend_on_the_blocks_drawn_with_it(first, blocks, per_block):
    together = draws.words("test", 1, 2, first, blocks, per_block)
    assert together.shape == (blocks, per_block)
    for block in range(blocks):
        assert np.array_equal(together[block], draws.words("test", 1, 2, first + block, 1, per_block)[0])


def test_words_differ_by_purpose_seed_step_and_block():
    addresses = [("a", 0, 0, 0), ("b", 0, 0, 0), ("a", 1, 0, 0), ("a", 0, 1, 0), ("a", 0, 0, 1),
                 ("a", 2**70, 0, 0)]
    drawn = np.concatenate([draws.words(*address, 1, 64).ravel() for address in addresses])
    assert len(np.unique(drawn)) == len(drawn)
