"""Curves of any length at a bounded number of points: what the dashboard draws and results.json keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

POINTS = 160  # the widest curve that is drawn in a terminal has about as many columns


@dataclass(frozen=True)
class Trace:
    """A series at a bounded number of points: when full, neighbours are averaged, each point covers more."""

    points: tuple[tuple[int, float], ...] = ()  # (step, mean of `stride` values up to that step)
    stride: int = 1
    held: int = 0  # values of the point that is not full yet, and their sum
    total: float = 0.0

    def add(self, step: int, value: float) -> Trace:
        """With one more value; points at or after `step` go, because a resumed stage writes them again."""
        if self.points and self.points[-1][0] >= step:
            kept = tuple(point for point in self.points if point[0] < step)
            return Trace(kept, self.stride if kept else 1).add(step, value)
        held, total = self.held + 1, self.total + value
        if held < self.stride:
            return Trace(self.points, self.stride, held, total)
        points = (*self.points, (step, total / held))
        if len(points) < POINTS:
            return Trace(points, self.stride)
        pairs = zip(points[::2], points[1::2], strict=True)
        halved = tuple((step, (first + second) / 2) for (_, first), (step, second) in pairs)
        return Trace(halved, 2 * self.stride)


@dataclass(frozen=True)
class Curve:
    """How a training went: its loss, and its accuracy where it has one, by step."""

    loss: Trace = field(default_factory=Trace)
    accuracy: Trace = field(default_factory=Trace)

    def add(self, step: int, loss: float, accuracy: float | None) -> Curve:
        """With one more step; one whose loss is no number (fp16 before its scale has settled) is passed over."""
        if not math.isfinite(loss):
            return self
        known = self.accuracy if accuracy is None else self.accuracy.add(step, accuracy)
        return Curve(self.loss.add(step, loss), known)

    def columns(self) -> dict[str, list[Any]]:
        """{"step", "loss", "accuracy"}: lists of one length, None where there is no accuracy. As in results.json."""
        accuracy = dict(self.accuracy.points)
        return {"step": [step for step, _ in self.loss.points], "loss": [loss for _, loss in self.loss.points],
                "accuracy": [accuracy.get(step) for step, _ in self.loss.points]}

    def to_json(self) -> dict[str, Any]:
        """For `from_json`: a curve that is gone on with."""
        return {"loss": vars(self.loss), "accuracy": vars(self.accuracy)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Curve:
        return cls(*(Trace(**(values[name] | {"points": tuple(map(tuple, values[name]["points"]))}))
                     for name in ("loss", "accuracy")))
