"""The answer to which N, which size, which copies: the models of the frontier that do what is asked of them.

A condition is a bound on accuracy, throughput or latency. Confidence is the probability, under a normal distribution
with the point's own mean and error (see `mux.report.points`), that a bound really holds; None where no error is known.
Quartiles lie 0.674 standard deviations from the mean of a normal distribution.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from mux.report.frontier import frontier
from mux.report.points import Point

QUARTILE = NormalDist().inv_cdf(0.75)


@dataclass(frozen=True)
class Quantity:
    """Something that can be asked of a model."""

    value: Callable[[Point], float | None]
    low: Callable[[Point], float | None]
    high: Callable[[Point], float | None]
    error: Callable[[Point], float | None]  # one standard deviation
    more_is_better: bool


def _from_quartiles(low: float | None, high: float | None) -> float | None:
    return None if low is None or high is None else (high - low) / (2 * QUARTILE)


QUANTITIES = {
    "accuracy": Quantity(
        lambda point: point.accuracy, lambda point: point.accuracy_low, lambda point: point.accuracy_high,
        lambda point: point.total_error, True),
    "throughput": Quantity(
        lambda point: point.instances_per_second, lambda point: point.throughput_low,
        lambda point: point.throughput_high,
        lambda point: _from_quartiles(point.throughput_low, point.throughput_high), True),
    "latency": Quantity(
        lambda point: point.latency_ms, lambda point: point.latency_low, lambda point: point.latency_high,
        lambda point: _from_quartiles(point.latency_low, point.latency_high), False),
}


@dataclass(frozen=True)
class Condition:
    """A bound on a quantity: at least so much, or of latency at most."""

    name: str  # in QUANTITIES
    bound: float

    @property
    def quantity(self) -> Quantity:
        return QUANTITIES[self.name]

    def surplus(self, value: float) -> float:
        """How far a value is on the good side of the bound; negative: on the other."""
        return value - self.bound if self.quantity.more_is_better else self.bound - value

    def holds(self, point: Point) -> bool:
        value = self.quantity.value(point)
        return value is not None and self.surplus(value) >= 0

    def confidence(self, point: Point) -> float | None:
        value, error = self.quantity.value(point), self.quantity.error(point)
        if value is None or error is None:
            return None
        return NormalDist().cdf(self.surplus(value) / error) if error > 0 else float(self.surplus(value) >= 0)


@dataclass(frozen=True)
class Choice:
    """The answer for one task among the models that were timed in one way on one kind of device."""

    task: str
    metric: str
    device: str
    dtype: str
    sequence_length: int | None
    timed_by: str
    conditions: tuple[Condition, ...]
    models: tuple[Point, ...]  # best first; none: nothing satisfies all conditions
    nearest: tuple[tuple[Condition, Point], ...]  # of each condition alone, the model that does best; where measured


def choose(points: Iterable[Point], conditions: Sequence[Condition]) -> list[Choice]:
    """For every task, and within it for every way and device of timing, the models to take.

    They are the frontier of those that satisfy all conditions. (With bounds on accuracy and throughput alone these are
    the models of the whole frontier that satisfy them; a bound on latency may need a model which others beat in both.)
    Best first: the fastest if accuracy has a bound, for it is then enough, else the most accurate.
    """
    groups: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(point.comparable, []).append(point)
    return [_choice(group, tuple(conditions)) for group in groups.values()]


def _choice(points: Sequence[Point], conditions: tuple[Condition, ...]) -> Choice:
    satisfying = [point for point in points if all(condition.holds(point) for condition in conditions)]
    models = frontier(satisfying)  # from the slowest and most accurate on
    if any(condition.name == "accuracy" for condition in conditions):
        models.reverse()
    one = points[0]
    nearest = tuple((condition, best) for condition in conditions if (best := _best(points, condition)))
    return Choice(one.task, one.metric, one.device, one.dtype, one.sequence_length, one.timed_by, conditions,
                  tuple(models), nearest)


def _best(points: Sequence[Point], condition: Condition) -> Point | None:
    """The point that comes nearest to the bound, or is farthest beyond it; None if none has the quantity."""
    surpluses = [(condition.surplus(value), point) for point in points
                 if (value := condition.quantity.value(point)) is not None]
    return max(surpluses, key=lambda pair: pair[0])[1] if surpluses else None


def commands(point: Point) -> list[str]:
    """What puts a model to work, for each task of a point: predict from the run, or make a folder to give away.

    Copies are a matter of prediction, not of the folder.
    """
    lines = []
    for task in point.tasks:
        model = ["--stage", point.stage, "--task", task]
        copies = ["--copies", str(point.copies)] if point.copies > 1 else []
        lines += [["mux", "predict", point.run, "texts.jsonl", *model, *copies, "--output", "predicted.jsonl"],
                  ["mux", "export", point.run, f"models/{point.name}-{task}", *model]]
    return [shlex.join(line) for line in lines]
