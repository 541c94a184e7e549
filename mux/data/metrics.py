"""The metrics of GLUE-like tasks and of words, and what a constant answer would reach.

None is ever NaN: a model that gives every row the same answer has an undefined correlation, which counts as 0
(the value that says "no relation"), so that means over tickets and seeds stay numbers.
"""

# scikit-learn and scipy take a second to import and only evaluation needs them, so they are imported where
# used.

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Measuring = Callable[[np.ndarray, np.ndarray], float]
MISSING = -1  # the prediction for a word that the model did not see, because its row was cut: always wrong


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose class is right."""
    return float(np.mean(predictions == labels))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1 where the classes are 0 and 1 (MRPC, QQP), else the mean of the classes' F1."""
    from sklearn.metrics import f1_score

    binary = max(np.max(predictions), np.max(labels)) <= 1
    return float(f1_score(labels, predictions, average="binary" if binary else "macro", zero_division=0.0))


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews' correlation coefficient (CoLA)."""
    from sklearn.metrics import matthews_corrcoef

    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(matthews_corrcoef(labels, predictions))


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's rank correlation of numbers (STS-B)."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, labels)


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation of numbers (STS-B)."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, labels)


def _correlation(measure: Callable, predictions: np.ndarray, labels: np.ndarray) -> float:
    if len(labels) < 2 or np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    value = float(measure(predictions, labels).statistic)
    return value if np.isfinite(value) else 0.0


def f1_of_words(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The mean of the F1 of all classes; a word without a prediction is a miss of its class."""
    from sklearn.metrics import f1_score

    classes = np.setdiff1d(np.union1d(predictions, labels), [MISSING])
    return float(f1_score(labels, predictions, labels=classes, average="macro", zero_division=0.0))


METRICS: dict[str, Measuring] = {
    "accuracy": accuracy, "f1": f1, "matthews": matthews, "spearman": spearman, "pearson": pearson,
}
WORD_METRICS: dict[str, Measuring] = METRICS | {"f1": f1_of_words}


def majority(measure: Measuring, train_labels: np.ndarray, test_labels: np.ndarray) -> float | None:
    """What always naming the most frequent class of the test rows would reach; None for regression.

    Equally frequent classes: the one that is more frequent in the train rows (it matters for F1).
    """
    if np.issubdtype(test_labels.dtype, np.floating):
        return None
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    test, train = np.bincount(test_labels, minlength=classes), np.bincount(train_labels, minlength=classes)
    answer = max(range(classes), key=lambda number: (test[number], train[number], -number))
    return measure(np.full_like(test_labels, answer), test_labels)
