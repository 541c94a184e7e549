"""The Pareto frontier: the points that no other one beats in both accuracy and throughput."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

from mux.report.points import Point

# Measure of throughput -> what points must have in common for it to compare them.
SPEEDS: dict[str, Callable[[Point], tuple[object, ...]]] = {
    "instances_per_second": lambda point: point.comparable,
    "ratio_to_bert_base": lambda point: point.conditions,
}
SpeedName = Literal["instances_per_second", "ratio_to_bert_base"]


def frontier(points: Iterable[Point], speed: SpeedName = "instances_per_second") -> list[Point]:
    """The points that are not dominated, by rising throughput and so falling accuracy within what is comparable.

    One point dominates another that is comparable with it if it is at least as good in accuracy and in `speed` and
    better in one; equal points stay together. Points without either number are passed over.
    """
    groups: dict[tuple[object, ...], list[tuple[tuple[float, float], Point]]] = {}
    for point in points:
        merits = (getattr(point, speed), point.accuracy)
        if merits[0] is not None and all(map(math.isfinite, merits)):
            groups.setdefault(SPEEDS[speed](point), []).append((merits, point))
    return [point for group in groups.values() for point in _undominated(group)]


def _undominated(group: list[tuple[tuple[float, float], Point]]) -> list[Point]:
    """In one pass from the fastest down: a point stays if it is more accurate than all faster ones."""
    kept: list[tuple[tuple[float, float], Point]] = []
    for merits, point in sorted(group, key=lambda pair: pair[0], reverse=True):
        if not kept or merits[1] > kept[-1][0][1] or merits == kept[-1][0]:
            kept.append((merits, point))
    return [point for _, point in kept[::-1]]
