"""What a training adds up between two log lines."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from mux.train.engine import Ranks


@dataclass
class Interval:
    """What has been added up since the last StepDone, or since a start between two."""

    started: float = field(default_factory=time.monotonic)
    steps: int = 0  # since then
    data: float = 0.0  # seconds
    save: float = 0.0
    tokens: int = 0
    # These three go on where a checkpoint left them, so that the next StepDone is of all its steps.
    loss: dict[str, torch.Tensor] = field(default_factory=dict)  # sums over this rank's items, on the device
    correct: dict[str, torch.Tensor] = field(default_factory=dict)
    count: dict[str, float] = field(default_factory=dict)  # over all ranks

    def add(self, name: str, loss: torch.Tensor, correct: torch.Tensor) -> None:
        """A micro-batch's part of the objective, as sums over its items."""
        self.loss[name] = self.loss[name] + loss if name in self.loss else loss
        self.correct[name] = self.correct[name] + correct if name in self.correct else correct

    def add_step(self, totals: dict[str, float]) -> None:
        """A step is done; `totals` counts its items over all ranks."""
        self.steps += 1
        for name, total in totals.items():
            self.count[name] = self.count.get(name, 0.0) + total

    def to_json(self, ranks: Ranks) -> dict[str, Any]:
        """For `from_json`: the sums of every rank, since in another order they would round to other numbers.

        All ranks must call it.
        """
        mine = {"loss": _numbers(self.loss), "correct": _numbers(self.correct)}
        return {"count": dict(self.count), "ranks": ranks.gather(mine) if self.count else []}

    @classmethod
    def from_json(cls, values: dict[str, Any], ranks: Ranks) -> Interval:
        """On as many ranks as before each has its own sums back; else the first has all."""
        kept = values["ranks"]
        if len(kept) == ranks.size:
            kept = [kept[ranks.rank]]
        elif not ranks.first:
            kept = []
        made = cls(count=dict(values["count"]))
        for name in made.count:
            loss, correct = (_sum(one[what][name] for one in kept) for what in ("loss", "correct"))
            # As they were added up: losses in single precision, hits as whole numbers.
            made.add(name, torch.tensor(loss, dtype=torch.float32, device=ranks.device),
                     torch.tensor(correct, dtype=torch.float64, device=ranks.device))
        return made


def _numbers(sums: dict[str, torch.Tensor]) -> dict[str, float | None]:
    """As JSON has them, which knows no NaN (the hits of a task of numbers)."""
    return {name: value if math.isfinite(value := float(total)) else None for name, total in sums.items()}


def _sum(numbers: Iterable[float | None]) -> float:
    return sum(math.nan if number is None else number for number in numbers)
