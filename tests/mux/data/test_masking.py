from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mux.data.masking import (
    CORRUPTIONS,
    IGNORED,
    Corruption,
    Vocabulary,
    mask_tokens,
    replace_as_published,
    replace_tokens,
    retrieval_slots,
)

SPECIAL, MASK, VOCABULARY = (0, 1, 2, 3, 4), 4, 1000
ALL = pytest.mark.parametrize("corruption", sorted(set(CORRUPTIONS.values()), key=lambda rule: rule.__name__))


def rows(G: int, N: int, L: int) -> np.ndarray:
    """[CLS] words [SEP] and a tail of [PAD] in every third row."""
    ids = np.random.default_rng(G * N * L).integers(5, VOCABULARY, (G, N, L))
    ids[..., 0], ids[..., -1] = 2, 3
    ids.reshape(-1, L)[::3, L // 2 :] = 0
    return ids


def corrupt(corruption: Corruption, ids: np.ndarray, first: int = 0, seed: int = 0, step: int = 0, rate: float = 0.15):
    return corruption(ids, Vocabulary(VOCABULARY, SPECIAL, MASK, pad_id=0), rate, seed, step, first)


def masked(ids: np.ndarray, **how):
    return corrupt(mask_tokens, ids, **how)


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = rows(400, 4, 256)
    return ids, *masked(ids)


def test_labels_are_the_ids_at_chosen_places_and_nothing_else_changes(many):
    ids, corrupted, labels = many
    chosen = labels != IGNORED
    assert corrupted.shape == labels.shape == ids.shape and corrupted.dtype == labels.dtype == np.int64
    assert np.array_equal(labels[chosen], ids[chosen])
    assert np.array_equal(corrupted[~chosen], ids[~chosen])


def test_special_tokens_are_never_masked_and_never_drawn(many):
    ids, corrupted, labels = many
    assert not np.isin(ids[labels != IGNORED], SPECIAL).any()
    changed = corrupted[corrupted != ids]
    assert set(np.unique(changed)) & set(SPECIAL) == {MASK}
    assert changed.max() < VOCABULARY


def test_fifteen_percent_and_of_them_eighty_ten_ten(many):
    ids, corrupted, labels = many
    chosen = labels != IGNORED
    assert chosen.sum() / (ids >= 5).sum() == pytest.approx(0.15, abs=0.003)
    assert (corrupted[chosen] == MASK).mean() == pytest.approx(0.8, abs=0.006)
    assert (corrupted[chosen] == ids[chosen]).mean() == pytest.approx(0.1, abs=0.006)
    random = corrupted[chosen & (corrupted != MASK) & (corrupted != ids)]
    counts = np.histogram(random, bins=5, range=(5, VOCABULARY))[0]
    assert counts / len(random) == pytest.approx(1 / 5, abs=0.03)
    assert len(np.unique(random)) > 950 and random.min() == 5 and random.max() == VOCABULARY - 1


def test_chosen_places_are_spread_evenly(many):
    """Over groups, slots and positions: a stretch of words used twice would show here."""
    ids, _, labels = many
    chosen, open_ = labels != IGNORED, ids >= 5
    for axis in (0, 1, 2):
        others = tuple(other for other in range(3) if other != axis)
        share = chosen.sum(others) / np.maximum(open_.sum(others), 1)
        assert share[open_.sum(others) > 500].std() < 0.02
    assert len(np.unique(chosen.reshape(400, -1), axis=0)) == 400


@pytest.fixture(scope="module")
def replaced() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = rows(300, 4, 256)
    return ids, *corrupt(replace_tokens, ids)


def test_exactly_fifteen_percent_of_each_row_are_replaced_by_other_ordinary_tokens(replaced):
    ids, corrupted, labels = replaced
    open_ = ids >= 5
    assert corrupted.shape == labels.shape == ids.shape and corrupted.dtype == labels.dtype == np.int64
    assert np.array_equal(labels.sum(-1), np.floor(open_.sum(-1) * 0.15 + 0.5))
    assert set(np.unique(labels)) == {0, 1} and np.array_equal(labels == 1, corrupted != ids)
    assert (ids[labels == 1] >= 5).all() and (corrupted[labels == 1] >= 5).all()


def test_what_replaces_is_uniform_and_so_is_where(replaced):
    ids, corrupted, labels = replaced
    drawn = corrupted[labels == 1]
    assert drawn.min() == 5 and drawn.max() == VOCABULARY - 1
    assert np.histogram(drawn, bins=5, range=(5, VOCABULARY))[0] / len(drawn) == pytest.approx(1 / 5, abs=0.01)
    # Which token replaces has nothing to do with the token or with the place that was drawn.
    assert abs(np.corrcoef(drawn, ids[labels == 1])[0, 1]) < 0.02
    assert abs(np.corrcoef(drawn, np.nonzero(labels)[2])[0, 1]) < 0.02
    share = labels.sum((0, 1)) / (ids >= 5).sum((0, 1)).clip(1)
    assert share[1:-1].std() < 0.02


def test_every_other_token_can_replace():
    """With two ordinary ids each is always replaced by the other."""
    ids = np.random.default_rng(0).integers(5, 7, (20, 2, 32))
    corrupted, labels = replace_tokens(ids, Vocabulary(7, SPECIAL, MASK, 0), 0.5, 0, 0, 0)
    assert (labels.sum(-1) == 16).all() and np.array_equal(corrupted, np.where(labels == 1, 11 - ids, ids))


def test_a_row_without_ordinary_tokens_stays():
    ids = np.zeros((1, 2, 8), dtype=np.int64)
    ids[0, 1, :3] = 2, 9, 3
    corrupted, labels = corrupt(replace_tokens, ids, rate=0.5)
    assert np.array_equal(corrupted[0, 0], ids[0, 0]) and not labels[0, 0].any()
    assert labels[0, 1].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]  # half a token: one


def test_the_published_replacement_draws_from_everything():
    ids = rows(400, 4, 256)
    corrupted, labels = corrupt(replace_as_published, ids)
    assert labels.sum() / (ids >= 5).sum() == pytest.approx(0.15 * 0.85, abs=0.003)
    assert not labels[ids < 5].any()
    drawn = corrupted[labels == 1]
    assert drawn.min() == 0 and drawn.max() == VOCABULARY - 1
    same = (drawn == ids[labels == 1]).mean()
    assert 0 < same < 0.003  # the own token, labelled 1 all the same
    assert np.array_equal(corrupted[labels == 0], ids[labels == 0])


@ALL
@given(cuts=st.lists(st.integers(1, 11), max_size=4), first=st.integers(0, 100), N=st.integers(1, 3),
       L=st.integers(4, 19))
@settings(max_examples=50, deadline=None)
def test_the_result_does_not_depend_on_how_groups_are_split(corruption, cuts, first, N, L):
    ids = rows(12, N, L)
    real = ids != 0
    whole, slots = corrupt(corruption, ids, first, rate=0.5), retrieval_slots(real, 0, 0, first)
    bounds = [0, *sorted(set(cuts)), 12]
    for start, stop in itertools.pairwise(bounds):
        part = corrupt(corruption, ids[start:stop], first + start, rate=0.5)
        assert np.array_equal(part[0], whole[0][start:stop]) and np.array_equal(part[1], whole[1][start:stop])
        assert np.array_equal(retrieval_slots(real[start:stop], 0, 0, first + start), slots[start:stop])


@ALL
def test_seed_step_and_group_change_the_draw(corruption):
    ids = rows(8, 2, 64)
    first = corrupt(corruption, ids)[1]
    for other in ({"seed": 1}, {"step": 1}, {"first": 8}):
        assert 0.05 < (first != corrupt(corruption, ids, **other)[1]).mean() < 0.5
    assert np.array_equal(first, corrupt(corruption, ids)[1])


def test_all_or_nearly_nothing_can_be_masked():
    ids = rows(2, 2, 64)
    assert np.array_equal(masked(ids, rate=1.0)[1] != IGNORED, ids >= 5)
    assert (masked(ids, rate=1e-9)[1] == IGNORED).all()


@ALL
def test_the_input_is_left_alone(corruption):
    ids = rows(4, 2, 32)
    before = ids.copy()
    corrupt(corruption, ids)
    assert np.array_equal(ids, before)


def test_retrieval_draws_among_the_slots_that_hold_a_token():
    G, N, L = 500, 4, 24
    real = np.random.default_rng(0).random((G, N, L)) < 0.5
    real[:, :, :4] = True
    real[:, :, -4:] = False
    slots = retrieval_slots(real, 0, 0, 0)
    assert slots.shape == (G, L) and slots.dtype == np.int64
    has = real.any(axis=1)
    assert np.array_equal(slots >= 0, has) and (slots[~has] == -1).all()
    group, position = np.nonzero(has)
    assert real[group, slots[group, position], position].all()


@pytest.mark.parametrize("present", [(0, 1, 2, 3, 4), (0, 2, 3), (4,)])
def test_retrieval_is_uniform_over_them(present):
    real = np.zeros((200, 5, 100), dtype=bool)
    real[:, present] = True
    slots = retrieval_slots(real, 0, 0, 0)
    assert np.bincount(slots.ravel(), minlength=5)[list(present)] / slots.size \
        == pytest.approx(1 / len(present), abs=0.015)


def test_retrieval_slots_differ_by_seed_and_step():
    real = np.ones((4, 2, 64), dtype=bool)
    first = retrieval_slots(real, 0, 0, 0)
    for seed, step, group in ((1, 0, 0), (0, 1, 0), (0, 0, 4)):
        assert 0.3 < (first != retrieval_slots(real, seed, step, group)).mean() < 0.7
