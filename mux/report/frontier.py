"""The Pareto frontier: the points that no other one beats in both accuracy and throughput."""

from __future__ import annotations

import math
from collections.abc import Iterable

from mux.report.points import Point


def frontier(points: Iterable[Point]) -> list[Point]:
    """The points that are not dominated, by rising throughput and so falling accuracy within what is comparable.

    One point dominates another that is `comparable` with it if it is at least as good in accuracy and in throughput and
    better in one; equal points stay together. Points without either number are passed over.
    """
    groups: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        if all(map(math.isfinite, _merits(point))):
            groups.setdefault(point.comparable, []).append(point)
    return [point for group in groups.values() for point in _undominated(group)]


def _undominated(points: list[Point]) -> list[Point]:
    """In one pass from the fastest down: a point stays if it is more accurate than all faster ones."""
    kept: list[Point] = []
    for point in sorted(points, key=_merits, reverse=True):
        if not kept or point.accuracy > kept[-1].accuracy or _merits(point) == _merits(kept[-1]):
            kept.append(point)
    return kept[::-1]


def _merits(point: Point) -> tuple[float, float]:
    speed = point.instances_per_second
    return math.nan if speed is None else speed, point.accuracy
