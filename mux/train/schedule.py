"""The learning rate as a function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0 to `peak` over `warmup` steps, then linear decay to 0 at `total` (paper Tables 7, 8)."""

    peak: float
    warmup: int
    total: int

    def __call__(self, step: int) -> float:
        """The rate of optimizer step `step`, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        return self.peak * max(0.0, (self.total - step) / max(1, self.total - self.warmup))
