"""The metrics of the paper's tasks, and what a constant answer would reach.

None is ever NaN: a model that gives every row the same answer has an undefined correlation, which counts as 0
(the value that says "no relation"), so that means over tickets and seeds stay numbers.
"""

# scikit-learn, scipy and seqeval take a second to import and only evaluation needs them, so they are imported where
# used.

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mux.data.tasks import Examples

MISSING = -1  # the prediction for a word that the model did not see, because its row was cut
OUTSIDE = "O"  # the tag of words that are in no entity
NO_TAG = "\ufffd\ufffd"  # two letters, so that seqeval sees a kind in it


@dataclass(frozen=True)
class Answers:
    """Predictions for A answers beside the truth."""

    predictions: np.ndarray  # [A] numbers of classes or, of a regression, floats; MISSING
    examples: Examples
    names: tuple[str, ...]  # of the classes; empty for a regression

    @property
    def labels(self) -> np.ndarray:
        """[A]"""
        return self.examples.labels


def score(metric: str, predictions: np.ndarray, examples: Examples, names: tuple[str, ...]) -> float:
    """What predictions [A] for all answers of `examples` reach; KeyError where no metric has the name."""
    return MEASURES[metric](Answers(predictions, examples, names))


def majority(metric: str, train: Examples, test: Examples, names: tuple[str, ...]) -> float | None:
    """What always naming the most frequent class of the test rows would reach; None for a regression.

    Equally frequent classes: the one that is more frequent in the train rows (it matters for F1).
    """
    if not names:
        return None
    in_test, in_train = (np.bincount(part.labels, minlength=len(names)) for part in (test, train))
    answer = max(range(len(names)), key=lambda number: (in_test[number], in_train[number], -number))
    return score(metric, np.full_like(test.labels, answer), test, names)


def accuracy(answers: Answers) -> float:
    """Share of answers that are right; a missing one is not."""
    return float(np.mean(answers.predictions == answers.labels))


def f1(answers: Answers) -> float:
    """F1 of class 1 of texts with two classes (MRPC, QQP), else the mean of the F1 of all classes that occur.

    A word without a prediction is a miss of its class.
    """
    from sklearn.metrics import f1_score

    occurring = np.setdiff1d(np.union1d(answers.predictions, answers.labels), [MISSING])
    only_one = len(answers.names) == 2 and not answers.examples.of_words
    return float(f1_score(answers.labels, answers.predictions, labels=[1] if only_one else occurring, average="macro",
                          zero_division=0.0))


def entity_f1(answers: Answers) -> float:
    """F1 of entities of all kinds together (CoNLL-2003): one counts if its kind, its first and its last word are right.

    By seqeval's default, as the paper: tags may be IOB1 or IOB2. It reads a tag as one letter and a kind, so of tags
    without B- and I- (POS) neighbours of a kind are one entity, CCONJ and SCONJ are of one kind, and X is of none.
    A word without a prediction is in no entity or, where no tag says that, one of no kind.
    """
    from seqeval.metrics import f1_score

    tags = np.array([*answers.names, OUTSIDE if OUTSIDE in answers.names else NO_TAG])  # MISSING is the last of them
    bounds = list(itertools.pairwise(answers.examples.offsets))
    truth, found = ([tags[numbers[first:last]].tolist() for first, last in bounds]
                    for numbers in (answers.labels, answers.predictions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tags without B- and I-, and of no entity at all
        return float(f1_score(truth, found))


def matthews(answers: Answers) -> float:
    """Matthews' correlation coefficient (CoLA)."""
    from sklearn.metrics import matthews_corrcoef

    if np.ptp(answers.predictions) == 0 or np.ptp(answers.labels) == 0:
        return 0.0
    return float(matthews_corrcoef(answers.labels, answers.predictions))


def spearman(answers: Answers) -> float:
    """Spearman's rank correlation of numbers (STS-B)."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, answers)


def pearson(answers: Answers) -> float:
    """Pearson's correlation of numbers (STS-B)."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, answers)


def _correlation(measure: Callable, answers: Answers) -> float:
    predictions, labels = answers.predictions, answers.labels
    if len(labels) < 2 or np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    value = float(measure(predictions, labels).statistic)
    return value if np.isfinite(value) else 0.0


MEASURES: dict[str, Callable[[Answers], float]] = {
    "accuracy": accuracy, "f1": f1, "entity_f1": entity_f1, "matthews": matthews, "spearman": spearman,
    "pearson": pearson,
}
