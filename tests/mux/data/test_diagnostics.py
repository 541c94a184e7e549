"""Diagnostics of predictions, worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import chi2_contingency, kruskal

from mux.data.diagnostics import (
    BINS,
    MOST_CLASSES,
    Predictions,
    calibration,
    companions,
    confusion,
    diagnostics,
    slot_p,
    slots,
)
from mux.data.metrics import MISSING

NAN = np.nan


def predictions(labels, answers, slots, names=("no", "yes"), N=2, confidence=None, rows=None) -> Predictions:
    labels, answers = np.array(labels), np.array(answers)
    confidence = np.full(answers.shape, NAN if confidence is None else confidence, dtype=np.float32)
    return Predictions(names=names, N=N, labels=labels, rows=np.arange(len(labels)) if rows is None else np.array(rows),
                       of_words=rows is not None, answers=answers, confidence=confidence, slots=np.array(slots))


@pytest.fixture
def texts() -> Predictions:
    """Four texts, three tickets."""
    return predictions(labels=[0, 1, 1, 0],
                       answers=[[0, 1, 0, 0], [0, 1, 1, 1], [0, 1, 0, 1]],
                       slots=[[1, 2, 1, 2], [1, 2, 2, 1], [2, 1, 1, 2]],
                       confidence=[[0.95, 0.85, 0.55, 0.65], [0.95, 0.85, 0.55, 0.65], [1.0, 0.81, 0.59, 0.62]])


@pytest.fixture
def words() -> Predictions:
    """Rows of two, one and three words, the last of which was cut away; three classes."""
    return predictions(labels=[0, 1, 2, 2, 0, 1], rows=[0, 0, 1, 2, 2, 2], names=("a", "b", "c"),
                       answers=[[0, 1, 2, 1, 0, MISSING], [0, 2, 2, 1, 0, MISSING]],
                       slots=[[1, 1, 2, 1, 1, 1], [2, 2, 1, 1, 1, 1]],
                       confidence=[[0.9, 0.4, 0.5, 0.6, 0.7, NAN]] * 2)


@pytest.fixture
def numbers() -> Predictions:
    return predictions(labels=[1.0, 2.0, 3.0], answers=[[1.5, 2.0, 1.0], [0.5, 2.0, 2.0]],
                       slots=[[1, 2, 1], [1, 1, 2]], names=())


def test_confusion_has_truth_in_rows_and_predictions_in_columns(texts, words, numbers):
    # no: 4 times taken for no, twice for yes; yes: twice for no, 4 times for yes
    assert confusion(texts) == {"labels": ["no", "yes"], "counts": [[4, 2], [2, 4]]}
    assert confusion(words) == {"labels": ["a", "b", "c"], "counts": [[4, 0, 0], [0, 1, 1], [0, 2, 2]]}
    assert confusion(numbers) is None
    many = tuple(map(str, range(MOST_CLASSES + 1)))
    assert confusion(predictions([0], [[0]], [[1]], names=many)) is None
    assert confusion(predictions([0], [[0]], [[1]], names=many[1:])) is not None


def test_slots_by_accuracy_and_by_distance(texts, words, numbers):
    # slot 1 had rows 0, 2 | 0, 3 | 1, 2, each time one of them right; slot 2 rows 1, 3 | 1, 2 | 0, 3, one wrong
    assert slots(texts) == [{"slot": 1, "score": 3 / 6, "count": 6},
                            {"slot": 2, "score": pytest.approx(5 / 6), "count": 6}]
    assert slots(numbers) == [{"slot": 1, "score": pytest.approx((0.5 + 2 + 0.5 + 0) / 4), "count": 4},
                              {"slot": 2, "score": pytest.approx((0 + 1) / 2), "count": 2}]
    # a word that was cut away is wrong: slot 1 has a b | - a - of the first ticket, c | - a - of the second
    assert slots(words) == [{"slot": 1, "score": pytest.approx((3 + 2) / 9), "count": 9},
                            {"slot": 2, "score": pytest.approx((1 + 1) / 3), "count": 3}]


def test_slots_of_copies_are_of_no_one(texts):
    copies = predictions(texts.labels, texts.answers, np.zeros((3, 4), dtype=int))
    assert slots(copies) == [] and slot_p(copies) is None
    assert companions(copies) == {"changed": pytest.approx(4 / 12), "same_slot": None}


def test_slots_weighed_by_their_counts_give_the_accuracy(words):
    found = slots(words)
    mean = sum(slot["score"] * slot["count"] for slot in found) / sum(slot["count"] for slot in found)
    assert mean == pytest.approx(np.mean(words.answers == words.labels))


def test_the_chance_of_slots_is_that_of_the_chi_squared_test():
    draw = np.random.default_rng(0)
    labels, where = np.zeros(500, dtype=int), draw.permuted(np.tile(np.arange(500) % 5 + 1, (4, 1)), axis=1)
    for worse in (0.0, 0.1):
        answers = (draw.random((4, 500)) < 0.2 + worse * (where == 3)).astype(int)
        table = [[((where == slot) & (answers == answer)).sum() for slot in range(1, 6)] for answer in (0, 1)]
        by_hand = chi2_contingency(table, correction=False).pvalue
        assert slot_p(predictions(labels, answers, where, N=5)) == pytest.approx(by_hand, rel=0.02)
        assert (by_hand < 0.01) == bool(worse)


def test_the_words_of_a_row_are_one_draw():
    """Ten rows of ten words, each right or wrong as a whole: ten draws, not a hundred."""
    right = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 1])
    of_rows = predictions(np.ones(10, dtype=int), [right], [[1, 1, 1, 1, 1, 2, 2, 2, 2, 2]])
    of_words = predictions(np.ones(100, dtype=int), [right.repeat(10)], [np.repeat([1, 2], 50)],
                           rows=np.arange(10).repeat(10))
    assert slot_p(of_words) == pytest.approx(slot_p(of_rows))
    assert 0.05 < slot_p(of_rows) < 0.1


def test_rows_of_many_words_weigh_no_more():
    """A row's error is the share of its wrong words: by their number long rows would look worse than short ones."""
    lengths = [6, 2, 4, 1, 3, 8, 5, 2]  # of rows in slots 1 1 1 1 2 2 2 2
    wrong = [3, 1, 1, 0, 3, 6, 5, 1]
    errors = [np.arange(length) < bad for length, bad in zip(lengths, wrong, strict=True)]
    rows, where = np.arange(8).repeat(lengths), np.array([1, 1, 1, 1, 2, 2, 2, 2])
    made = predictions(np.zeros(len(rows), dtype=int), [np.concatenate(errors).astype(int)], [where.repeat(lengths)],
                       rows=rows)
    assert slot_p(made) == pytest.approx(kruskal([0.5, 0.5, 0.25, 0], [1, 0.75, 1, 0.5]).pvalue)


def test_slots_that_cannot_differ_have_no_chance():
    assert slot_p(predictions([0, 1], [[0, 1]], [[1, 2]])) is None  # all right
    assert slot_p(predictions([0, 1], [[0, 0]], [[1, 1]], N=1)) is None  # one slot


def test_companions_change_predictions(texts, words, numbers):
    # pairs of tickets differ at rows 2 3 | 3 | 2; in the same slot were rows 0 1 | 2 3 | none
    assert companions(texts) == {"changed": pytest.approx(4 / 12), "same_slot": pytest.approx(1 / 4)}
    # row 1 moved by 1, row 2 by 0, row 3 by 1; only row 1 was in its slot again
    assert companions(numbers) == {"changed": pytest.approx(2 / 3), "same_slot": pytest.approx(1)}
    # of five words that were not cut away the second changed; in the same slot were the two of the last row
    assert companions(words) == {"changed": pytest.approx(1 / 5), "same_slot": 0}
    assert companions(predictions([0], [[0], [1]], [[1], [1]], N=1)) is None
    assert companions(predictions([0, 1], [[0, 1]], [[1, 2]])) is None
    assert companions(predictions([0, 1], [[0, 1], [0, 1]], [[1, 2], [2, 1]])) == {"changed": 0, "same_slot": None}


def test_calibration_in_ten_bins(texts, words, numbers):
    found = calibration(texts)
    bins = {index: entry for index, entry in enumerate(found["bins"]) if entry["count"]}
    assert len(found["bins"]) == BINS and list(bins) == [5, 6, 8, 9]
    assert found["bins"][0] == {"confidence": None, "accuracy": None, "count": 0}
    # row 0 always right, row 1 always right, row 2 right once of three, row 3 right once of three
    assert bins[9] == {"confidence": pytest.approx((0.95 + 0.95 + 1) / 3), "accuracy": 1, "count": 3}
    assert bins[8] == {"confidence": pytest.approx((0.85 + 0.85 + 0.81) / 3), "accuracy": 1, "count": 3}
    assert [bins[5]["accuracy"], bins[6]["accuracy"]] == pytest.approx([1 / 3, 1 / 3])
    gaps = [(3 - 2.9) / 3, (3 - 2.51) / 3, (1.69 - 1) / 3, (1.92 - 1) / 3]
    assert found["error"] == pytest.approx(np.mean(gaps))
    assert sum(entry["count"] for entry in calibration(words)["bins"]) == 10  # the words that were not cut away
    assert calibration(numbers) is None


def test_a_model_that_has_diverged_still_makes_json():
    classes = predictions([0, 1], [[0, 0], [0, 0]], [[1, 2], [2, 1]], confidence=NAN)
    numbers = predictions([0.0, 1.0], [[NAN, NAN], [NAN, NAN]], [[1, 2], [2, 1]], names=())
    for made in (classes, numbers):
        assert json.dumps(diagnostics(made), allow_nan=False)
    assert diagnostics(classes)["calibration"] is None and diagnostics(numbers)["slots"][0]["score"] is None
