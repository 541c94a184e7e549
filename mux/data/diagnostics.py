"""What recorded predictions tell besides their score: confusion, slots, companions, calibration.

T tickets, A answers (one a row, or one a word of a row), R rows, C classes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mux.data.metrics import MISSING

BINS = 10  # of confidence
MOST_CLASSES = 100  # of a confusion matrix that anyone reads


@dataclass(frozen=True)
class Predictions:
    """What one model answered over tickets to the rows of one part of a task."""

    names: tuple[str, ...]  # of the classes; none: the answers are numbers
    N: int
    labels: np.ndarray  # [A] class numbers, or numbers
    rows: np.ndarray  # int64 [A], in order
    of_words: bool
    answers: np.ndarray  # [T, A] class numbers (MISSING: a word that was cut away), or numbers
    confidence: np.ndarray  # float32 [T, A], the largest share of the softmax; NaN where there is none
    slots: np.ndarray  # int16 [T, A], 1 .. N; 0: the row has several copies

    @cached_property
    def errors(self) -> np.ndarray:
        """float [T, A]: 1 for a wrong class, 0 for the right one; of numbers the distance."""
        return np.abs(self.answers - self.labels) if not self.names else (self.answers != self.labels).astype(float)

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 [R]: the first answer of every row."""
        return np.unique(self.rows, return_index=True)[1]

    @property
    def asked(self) -> np.ndarray:
        """bool [A]: whether the model saw what is asked for. Rows are cut alike in all tickets."""
        return self.answers[0] != MISSING if self.names else np.ones(len(self.labels), dtype=bool)


def diagnostics(made: Predictions) -> dict[str, Any]:
    """The entry "diagnostics" of results.json."""
    return {"confusion": confusion(made), "slots": slots(made), "slot_p": slot_p(made), "companions": companions(made),
            "calibration": calibration(made)}


def confusion(made: Predictions) -> dict[str, Any] | None:
    """How often which class was taken for which, over all tickets: truth in rows, predictions in columns [C, C]."""
    if not 0 < len(made.names) <= MOST_CLASSES:
        return None
    counts = np.zeros((len(made.names), len(made.names)), dtype=np.int64)
    truth = np.broadcast_to(made.labels, made.answers.shape)
    np.add.at(counts, (truth[:, made.asked], made.answers[:, made.asked]), 1)
    return {"labels": list(made.names), "counts": counts.tolist()}


def slots(made: Predictions) -> list[dict[str, Any]]:
    """Accuracy, of numbers the mean distance, by slot; nothing for copies, whose logits are of several slots."""
    found = []
    for slot in np.unique(made.slots[made.slots > 0]):
        errors = made.errors[made.slots == slot]
        found.append({"slot": int(slot), "score": _number(1 - errors.mean() if made.names else errors.mean()),
                      "count": len(errors)})
    return found


def slot_p(made: Predictions) -> float | None:
    """How likely slots are to differ so much by chance: Kruskal and Wallis' test of the errors of rows, which for right
    and wrong is the chi-squared test. The words of a row share its slot and are no draws of their own: a row's error is
    the share of them that are wrong. None with one slot, or with equal errors everywhere.
    """
    from scipy.stats import kruskal

    words_R = np.diff(np.append(made.starts, len(made.rows)))
    errors_TR = np.add.reduceat(made.errors, made.starts, axis=1) / words_R
    slots_TR = made.slots[:, made.starts]
    samples = [errors_TR[slots_TR == slot] for slot in np.unique(slots_TR[slots_TR > 0])]
    if len(samples) < 2 or np.ptp(errors_TR) == 0:
        return None
    return _number(kruskal(*samples).pvalue)


def companions(made: Predictions) -> dict[str, float | None] | None:
    """How often an answer differs between two tickets (of numbers: by how much), in which the row has other companions;
    and the same of those pairs of tickets where it stayed in its slot, so that companions alone have changed.
    """
    tickets = len(made.answers)
    if tickets < 2 or made.N == 1:
        return None
    changed, stayed = [], []  # a mean, and a (sum, count), for each pair of tickets
    for one, other in itertools.combinations(range(tickets), 2):
        differ = (made.answers[one] != made.answers[other] if made.names
                  else np.abs(made.answers[one] - made.answers[other]))[made.asked]
        same = ((made.slots[one] == made.slots[other]) & (made.slots[one] > 0))[made.asked]
        changed.append(_mean(differ.sum(), differ.size))
        stayed.append((differ[same].sum(), same.sum()))
    return {"changed": _number(np.mean(changed)), "same_slot": _number(_mean(*np.sum(stayed, axis=0)))}


def calibration(made: Predictions) -> dict[str, Any] | None:
    """Whether answers are right as often as their confidence says, in ten bins of equal width; the expected calibration
    error is the mean distance, weighed by the answers in a bin.
    """
    known = np.isfinite(made.confidence)
    if not made.names or not known.any():
        return None
    confidence, right = made.confidence[known].astype(float), 1 - made.errors[known]
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, weights=values, minlength=BINS) for values in (confidence, right)]
    return {"error": float(np.abs(sums[0] - sums[1]).sum() / counts.sum()),
            "bins": [{"confidence": _number(_mean(sure, count)), "accuracy": _number(_mean(share, count)),
                      "count": int(count)} for sure, share, count in zip(*sums, counts, strict=True)]}


def _mean(total: Any, count: Any) -> float:
    return float(total) / float(count) if count else math.nan


def _number(value: Any) -> float | None:
    """JSON has no NaN: nothing to take the mean of, or a model that has diverged."""
    return float(value) if math.isfinite(value) else None
