"""The pace of work, measured over its last moments."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLES = 30  # logging intervals that a rate is measured over


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
