from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mux.data.grouping import batches, by_length, compose, in_order


@given(count=st.integers(0, 60), N=st.integers(1, 10), seed=st.integers(0, 5), copies=st.integers(1, 5))
def test_every_instance_counts_exactly_copies_times(count, N, seed, copies):
    composition = compose(count, N, seed, copies)
    assert composition.groups.shape == (-(-count * copies // N), N)
    assert composition.counted.shape == composition.groups.shape
    counts = np.bincount(composition.groups[composition.counted], minlength=count)
    assert (counts == copies).all() and composition.count == count


@given(count=st.integers(1, 60), N=st.integers(1, 10), copies=st.integers(1, 5))
def test_logits_come_back_in_order_and_fillers_never_count(count, N, copies):
    composition = compose(count, N, 0, copies)
    rows = composition.groups.ravel()
    truth = np.random.default_rng(count).normal(size=(count, 3))
    noise = np.random.default_rng(N).normal(size=(len(rows), 3))
    logits = truth[rows] + noise
    logits[~composition.counted.ravel()] = np.nan
    expected = np.stack([logits[[place for place in range(count * copies) if rows[place] == instance]].mean(0)
                         for instance in range(count)])
    assert composition.average(logits) == pytest.approx(expected, abs=1e-12)


@given(count=st.integers(1, 30), N=st.integers(1, 12), copies=st.integers(1, 3))
def test_the_last_group_is_filled_with_the_first_rows(count, N, copies):
    composition = compose(count, N, 4, copies)
    rows = composition.groups.ravel()
    fillers = rows[count * copies :]
    assert np.array_equal(fillers, np.resize(rows[: count * copies], len(rows))[count * copies :])


def test_tickets_differ_and_repeat():
    first = compose(200, 4, seed=0).groups
    assert np.array_equal(first, compose(200, 4, seed=0).groups)
    assert (first != compose(200, 4, seed=1).groups).mean() > 0.9
    assert not np.array_equal(first.ravel(), np.arange(200))


def test_copies_are_permuted_together():
    """Copies of an instance do not follow one another: the whole of the rows is one permutation."""
    rows = compose(300, 2, seed=0, copies=2).groups.ravel()
    gaps = [np.ptp(np.flatnonzero(rows == instance)) for instance in range(300)]
    assert np.mean(gaps) == pytest.approx(200, rel=0.15)  # a third of 600 rows


def test_inference_keeps_the_order():
    composition = in_order(5, 2)
    assert composition.groups.tolist() == [[0, 1], [2, 3], [4, 0]]
    assert composition.average(np.arange(6.0)[:, None]).ravel().tolist() == [0, 1, 2, 3, 4]
    assert in_order(3, 1).groups.tolist() == [[0], [1], [2]]
    assert in_order(2, 5).groups.tolist() == [[0, 1, 0, 1, 0]]


def test_texts_of_similar_length_share_a_group_and_come_back_in_order():
    lengths = np.array([9, 3, 30, 4, 31, 8, 3])
    composition = by_length(lengths, 3)
    assert composition.groups.tolist() == [[1, 6, 3], [5, 0, 2], [4, 1, 6]]
    assert composition.average(np.arange(9.0)[:, None]).ravel().tolist() == [4, 0, 5, 2, 6, 3, 1]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=200), st.integers(1, 40))
def test_batches_hold_all_groups_in_order_and_sorted_ones_little_padding(lengths, most):
    for sorts, lengths_G in ((False, np.array(lengths)), (True, np.sort(lengths))):
        slices = list(batches(lengths_G, most, sorts))
        assert [group for one in slices for group in range(len(lengths))[one]] == list(range(len(lengths)))
        assert all(1 <= one.stop - one.start <= most for one in slices)
        if sorts:
            assert all(lengths_G[one.stop - 1] <= max(1.15 * lengths_G[one.start], lengths_G[one.start] + 2)
                       for one in slices)
        else:
            assert len(slices) == -(-len(lengths) // most)


def test_logits_of_another_size_are_refused():
    with pytest.raises(ValueError, match="5 rows of logits for 6 rows"):
        in_order(5, 2).average(np.zeros((5, 3)))


def test_logits_keep_their_type():
    assert in_order(3, 2).average(np.zeros((4, 2), dtype=np.float32)).dtype == np.float32
