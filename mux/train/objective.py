"""Objectives: what a micro-batch is asked, and how its losses and hits are counted.

A batch is a dict of CPU tensors that the model's forward takes by name. Losses are summed over tokens, not averaged per
micro-batch, so that the same batch gives the same gradient however it is split over ranks and micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mux.model.heads import IGNORED

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """One loss of one micro-batch: its mean over `count` items and how many of these were right."""

    loss: Tensor
    correct: Tensor
    count: int


class Objective(Protocol):
    """`weights` names the parts and says how much each counts; the first one's hits are reported as accuracy."""

    weights: dict[str, float]

    def counts(self, batch: Batch) -> dict[str, int]:
        """Items per part, read from the batch alone (before the forward pass, on the CPU)."""

    def __call__(self, model: Any, batch: Batch) -> dict[str, Part]:
        """Run the model on a batch that is already on its device."""


class PretrainObjective:
    """Masked LM ("task") and token retrieval, weighed (1 - r) and r (paper Table 12); r = 1 is the retrieval stage."""

    def __init__(self, retrieval_rate: float) -> None:
        everything = {"task": 1 - retrieval_rate, "retrieval": retrieval_rate}
        self.weights = {name: weight for name, weight in everything.items() if weight > 0}

    def counts(self, batch: Batch) -> dict[str, int]:
        counted = {}
        if "task" in self.weights:
            counted["task"] = int(batch["labels"].ne(IGNORED).sum())
        if "retrieval" in self.weights:
            counted["retrieval"] = int(batch["retrieval_slots"].ge(0).sum())
        return counted

    def __call__(self, model: Any, batch: Batch) -> dict[str, Part]:
        out = model(**batch)
        parts = {}
        if "task" in self.weights:
            targets = batch["labels"][batch["labels"].ne(IGNORED)]
            parts["task"] = Part(out.task_loss, hits(out.logits, targets), len(targets))
        if "retrieval" in self.weights:
            targets = out.retrieval_targets
            parts["retrieval"] = Part(out.retrieval_loss, hits(out.retrieval_logits, targets), len(targets))
        return parts


class SequenceObjective:
    """Classification or regression of whole instances."""

    def __init__(self, regression: bool) -> None:
        self.weights = {"task": 1.0}
        self.regression = regression

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"task": len(batch["labels"])}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Part]:
        out = model(**batch)
        labels = batch["labels"]
        correct = torch.full((), float("nan")) if self.regression else hits(out.logits, labels)
        return {"task": Part(out.task_loss, correct, len(labels))}


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """How many of the highest logits are the targets."""
    return logits.detach().argmax(-1).eq(targets).sum()
