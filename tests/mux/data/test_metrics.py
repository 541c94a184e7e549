from __future__ import annotations

import warnings

import numpy as np
import pytest

from mux.data.metrics import METRICS, MISSING, WORD_METRICS, majority
from mux.data.tasks import load_task
from mux.recipe.schema import TaskDefinition

TRUTH = np.array([0, 1, 1, 0, 1, 1, 0, 1])
GUESS = np.array([0, 1, 0, 0, 1, 1, 1, 1])


def test_values_worked_out_by_hand():
    # 4 true positives, 1 false positive, 1 false negative, 2 true negatives
    assert METRICS["accuracy"](GUESS, TRUTH) == 6 / 8
    assert METRICS["f1"](GUESS, TRUTH) == pytest.approx(8 / 10)
    assert METRICS["matthews"](GUESS, TRUTH) == pytest.approx((4 * 2 - 1 * 1) / np.sqrt(5 * 5 * 3 * 3))
    assert METRICS["pearson"](np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 8.0])) == pytest.approx(1)
    assert METRICS["spearman"](np.array([1.0, 5.0, 100.0, 7.0]), np.array([0.1, 0.2, 0.4, 0.3])) \
        == pytest.approx(1)


def test_f1_of_several_classes_is_their_mean():
    truth, guess = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])
    assert METRICS["f1"](guess, truth) == pytest.approx(np.mean([2 / 3, 1 / 2, 0]))


def test_words_that_were_cut_are_misses_and_no_class():
    truth, guess = np.array([0, 0, 1, 1]), np.array([0, MISSING, 1, 0])
    assert WORD_METRICS["accuracy"](guess, truth) == 1 / 2
    # class 0: 1 right of 2 named and 2 there; class 1: 1 right of 1 named and 2 there
    assert WORD_METRICS["f1"](guess, truth) == pytest.approx(np.mean([1 / 2, 2 / 3]))
    assert METRICS["f1"](np.array([0, 1, 1, 0]), truth) == 1 / 2  # of texts: the F1 of class 1
    assert WORD_METRICS["f1"](np.array([0, 1, 1, 0]), truth) == pytest.approx(np.mean([1 / 2, 1 / 2]))
    assert majority(WORD_METRICS["f1"], truth, np.array([0, 0, 1])) == pytest.approx(np.mean([4 / 5, 0]))


@pytest.mark.parametrize("name", METRICS)
def test_a_constant_answer_is_a_number_without_warnings(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert METRICS[name](np.zeros_like(TRUTH), TRUTH) == (3 / 8 if name == "accuracy" else 0.0)
        assert np.isfinite(METRICS[name](TRUTH[:1], TRUTH[:1]))


def test_nan_predictions_do_not_make_nan_metrics():
    broken = np.array([np.nan, 1.0, 2.0])
    assert METRICS["pearson"](broken, np.array([1.0, 2.0, 3.0])) == 0.0
    assert METRICS["spearman"](broken, np.array([1.0, 2.0, 3.0])) == 0.0


def test_the_majority_of_the_embedded_task_is_what_its_readme_says():
    task = load_task("topic", TaskDefinition(train="builtin:topic_train", test="builtin:topic_test"))
    assert majority(METRICS["accuracy"], task.train.labels, task.test.labels) == pytest.approx(0.212, abs=5e-4)


def test_the_majority_is_the_test_rows_and_a_tie_goes_to_the_train_rows():
    train, test = np.array([0, 0, 0, 1]), np.array([1, 1, 0])
    assert majority(METRICS["accuracy"], train, test) == pytest.approx(2 / 3)
    assert majority(METRICS["f1"], np.array([1, 1, 0]), np.array([0, 1])) == pytest.approx(2 / 3)
    assert majority(METRICS["f1"], np.array([0, 0, 1]), np.array([0, 1])) == 0.0


def test_regression_has_no_majority():
    values = np.array([0.5, 1.5], dtype=np.float32)
    assert majority(METRICS["spearman"], values, values) is None
