"""Whether a training is well: a judge of numbers that all ranks know alike, so that all come to one verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

RECENT = 20  # logged losses: a spike is measured against the median of the last so many
FEWEST = 5  # before there are so many, nothing is a spike


class LossError(Exception):
    """The loss of a training is not what it should be. Going on from the same place with the same batches is no use."""

    def __init__(self, reason: str, step: int, circumstances: str = "") -> None:
        super().__init__(f"{reason} at step {step}{circumstances}")
        self.reason, self.step = reason, step


@dataclass(frozen=True)
class Limits:
    """The recipe's [health]."""

    policy: str = "stop"  # or "rollback"
    rollbacks: int = 3  # of a training; at the next one it stops
    spike: float | None = None  # a loss so many times the median of late is one; None: none is
    overflows: int = 100  # so many skipped steps in a row at the smallest loss scale are too many


@dataclass(frozen=True)
class Health:
    """What must be remembered to judge the next step."""

    recent: tuple[float, ...] = ()  # logged losses, the newest last
    overflows: int = 0  # skipped steps in a row at the smallest loss scale

    def stepped(self, overflowed: bool) -> Health:
        """After an optimizer step that was skipped at the smallest loss scale, or was not."""
        return replace(self, overflows=self.overflows + 1 if overflowed else 0)

    def logged(self, loss: float) -> Health:
        """After a logged loss; one that is no number (fp16 before its scale has settled) is passed over."""
        return replace(self, recent=(*self.recent, loss)[-RECENT:]) if math.isfinite(loss) else self

    def too_many_overflows(self, limits: Limits) -> str | None:
        """What is wrong, in words."""
        if self.overflows < limits.overflows:
            return None
        return f"{self.overflows} steps in a row were skipped, because gradients overflow at the smallest loss scale,"

    def spike(self, loss: float, limits: Limits) -> str | None:
        """What is wrong with a loss that is about to be logged, in words."""
        if limits.spike is None or len(self.recent) < FEWEST or not loss > limits.spike * median(self.recent):
            return None
        return f"the loss is {loss:.4g}, {loss / median(self.recent):.3g} times its median of late,"

    def to_json(self) -> dict[str, Any]:
        return {"recent": list(self.recent), "overflows": self.overflows}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Health:
        return cls(tuple(values["recent"]), values["overflows"])
