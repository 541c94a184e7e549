"""Measurements over time, at a bounded size however long the run: the loss curve and the pace of work."""

from __future__ import annotations

from dataclasses import dataclass

LOSSES = 160  # points of a loss curve; the widest one drawn has about as many columns
SAMPLES = 30  # logging intervals that a rate is measured over


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
        if len(points) < LOSSES:
            return Trace(points, self.stride)
        pairs = zip(points[::2], points[1::2], strict=True)
        halved = tuple((step, (first + second) / 2) for (_, first), (step, second) in pairs)
        return Trace(halved, 2 * self.stride)


@dataclass(frozen=True)
class Pace:
    """How fast a count grows, over the last samples. All times come from one clock, that of the writer."""

    samples: tuple[tuple[float, int], ...] = ()  # (time in seconds, count)

    def add(self, time: float, done: int) -> Pace:
        """With one more sample; a count or a clock that went back starts the measurement anew."""
        if self.samples and (done < self.samples[-1][1] or time < self.samples[-1][0]):
            return Pace(((time, done),))
        return Pace((*self.samples[-(SAMPLES - 1):], (time, done)))

    @property
    def rate(self) -> float | None:
        """Counts per second; None before two samples differ."""
        if not self.samples:
            return None
        (start, first), (end, last) = self.samples[0], self.samples[-1]
        return (last - first) / (end - start) if end > start and last > first else None
