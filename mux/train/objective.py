"""Objectives: what a micro-batch is asked, and how its losses and hits are counted.

A batch is a dict of CPU tensors that the model's forward takes by name. Losses are summed over items (tokens, words,
texts), not averaged per micro-batch, so that the same batch gives the same gradient however it is split over ranks and
micro-batches. R rows, L positions, M asked tokens, C classes or the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mux.model.retrieval import IGNORED
from mux.model.rows import moved

Batch = dict[str, Tensor]
TEACHER_LOGITS = "teacher_logits"  # [R, C], or of words [R, L, C], in a batch: no model's own, so none is fed it


@dataclass(frozen=True)
class Part:
    """One loss of one micro-batch: its mean over `count` items and how many of these were right."""

    loss: Tensor
    correct: Tensor
    count: int


@dataclass(frozen=True)
class Answers:
    """How a head answers its labels: how many it is asked for, and how many of its logits are right; and how far from
    another model's they are."""

    asked: Callable[[Tensor], int]  # of the labels
    right: Callable[[Tensor, Tensor], Tensor]  # of the logits and the labels
    far: Callable[[Tensor, Tensor, float], Tensor] | None = None  # of logits [..., C], a teacher's, a temperature
    usual: int | None = None  # a label that is right so often that accuracy is to be read beside its share


@dataclass(frozen=True)
class Objective:
    """The task's loss ("task"), what a teacher answered ("teacher"), token retrieval ("retrieval"), by their weights.

    `weights` names the parts that there are; the first one's hits are reported as accuracy.
    """

    weights: dict[str, float]
    answers: Answers
    temperature: float = 1.0  # of the teacher

    def counts(self, batch: Batch) -> dict[str, int]:
        """Items per part, read from the batch alone (before the forward pass, on the CPU)."""
        counted: dict[str, int] = {}
        for name in ("task", "teacher"):
            if name in self.weights:
                counted[name] = self.answers.asked(batch["labels"])
        if "retrieval" in self.weights:
            counted["retrieval"] = int(batch["retrieval_slots"].ge(0).sum())
        return counted

    def __call__(self, model: Any, batch: Batch, counted: dict[str, int]) -> dict[str, Part]:
        """Run the model on a batch that is where it wants it (`mux.model.muxed.placed`). `counted`: its items, as
        `counts` says; asking the device for them would have the host wait until all that is queued there is done."""
        out = model(**{name: tensor for name, tensor in batch.items() if name != TEACHER_LOGITS})
        parts = {}
        if "task" in self.weights:
            labels, count = batch["labels"], counted["task"]
            # Heads of other encoders have one loss alone, and theirs of nothing is NaN.
            loss = getattr(out, "task_loss", out.loss) if count else out.logits.float().sum() * 0.0
            parts["task"] = Part(loss, self.answers.right(out.logits.detach(), labels), count)
        if "teacher" in self.weights:
            parts["teacher"] = self.taught(out.logits, batch, counted["teacher"])
        if "retrieval" in self.weights:
            targets = out.retrieval_targets
            if len(targets) != (asked := counted["retrieval"]):
                raise RuntimeError(f"the model retrieved {len(targets)} tokens where {asked} were asked for")
            parts["retrieval"] = Part(out.retrieval_loss, highest(out.retrieval_logits.detach(), targets), len(targets))
        return parts


    def taught(self, logits: Tensor, batch: Batch, count: int) -> Part:
        """The mean distance from a teacher's answers over the labelled items."""
        assert self.answers.far is not None
        asked = moved(batch["labels"], logits.device).ne(IGNORED)
        far = self.answers.far(logits.float(), batch[TEACHER_LOGITS], self.temperature)
        loss = far.where(asked, 0.0).sum() / max(count, 1)
        agreed = (logits.argmax(-1).eq(batch[TEACHER_LOGITS].argmax(-1)) & asked).sum()
        return Part(loss, agreed, count)


def weighed(retrieval_rate: float, scale: float = 1.0, teacher_rate: float = 0.0) -> dict[str, float]:
    """(1 - r) task + r retrieval (paper Table 12), times `scale`; r = 1 is the retrieval stage. With a teacher the
    task's share is (1 - t) of its own loss + t of the teacher's."""
    everything = {"task": (1 - retrieval_rate) * (1 - teacher_rate), "teacher": (1 - retrieval_rate) * teacher_rate,
                  "retrieval": retrieval_rate}
    return {name: scale * weight for name, weight in everything.items() if weight > 0}


def labelled(labels: Tensor) -> int:
    """Labels that ask for something."""
    return int(labels.ne(IGNORED).sum())


def highest(logits: Tensor, labels: Tensor) -> Tensor:
    """How many of the highest logits [..., C] are the labels [...]."""
    labels = moved(labels, logits.device)
    return (logits.argmax(-1).eq(labels) & labels.ne(IGNORED)).sum()


def highest_of_asked(logits_MC: Tensor, labels_RL: Tensor) -> Tensor:
    """The same where there are logits for the labelled places alone, in row-major order. Labels on a GPU have to be
    waited for."""
    return highest(logits_MC, labels_RL[labels_RL.ne(IGNORED)])


def right_sign(logits: Tensor, labels: Tensor) -> Tensor:
    """How many logits of a yes-or-no question are above 0 for 1 and not for 0."""
    labels = moved(labels, logits.device)
    return (logits.gt(0).eq(labels) & labels.ne(IGNORED)).sum()


def none_is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Numbers are near or far, not right."""
    return torch.full((), float("nan"))


def divergence(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || ours) [...] of classes [..., C], both softened by T (Hinton, Vinyals and Dean 2015)."""
    ours, theirs = (F.log_softmax(x / temperature, -1) for x in (logits, teacher))
    return temperature**2 * F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)


def difference(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The squared difference [R] of numbers [R, 1], which no temperature softens."""
    return (logits - teacher).square().squeeze(-1)


MASKED_TOKENS = Answers(labelled, highest_of_asked)
REPLACED_TOKENS = Answers(labelled, right_sign, usual=0)
CLASSES = Answers(labelled, highest, divergence)  # of texts or of words
NUMBERS = Answers(len, none_is_right, difference)
