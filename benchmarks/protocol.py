"""How things are timed against each other: in turns in one process, so that a busy machine slows all alike.

A ratio is the median over rounds of the ratio within each round; its spread is the quartiles.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

WARM_UP = 2  # runs of each that are not counted; the first one compiles


@dataclass(frozen=True)
class Ratio:
    """How many times as fast: median and quartiles over rounds, by the clock and by the processors' time."""

    median: float
    low: float
    high: float
    cpu: float | None  # None: the work is not done by this process's processors

    def __str__(self) -> str:
        cpu = "" if self.cpu is None else f", {self.cpu:.2f} by CPU time"
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f}{cpu})"


@dataclass(frozen=True)
class Race:
    """Seconds [rounds] of each contestant's runs, and how many instances each run was of."""

    wall: dict[str, np.ndarray]
    cpu: dict[str, np.ndarray]
    instances: dict[str, int]

    def ratio(self, contestant: str, other: str) -> Ratio:
        """Instances per second of a contestant over those of another."""
        def per_round(seconds: dict[str, np.ndarray]) -> np.ndarray:
            return (seconds[other] / self.instances[other]) / (seconds[contestant] / self.instances[contestant])

        low, median, high = np.quantile(per_round(self.wall), (0.25, 0.5, 0.75))
        cpu = float(np.median(per_round(self.cpu))) if all((self.cpu[one] > 0).all() for one in self.cpu) else None
        return Ratio(float(median), float(low), float(high), cpu)

    def per_second(self, contestant: str) -> float:
        """Instances per second, the median over rounds. Means something on a GPU, or an idle machine."""
        return self.instances[contestant] / float(np.median(self.wall[contestant]))


@dataclass(frozen=True)
class Contestant:
    """`run` is called again and again, each time on something new, and works on `instances`."""

    run: Callable[[], object]
    instances: int


def race(contestants: Mapping[str, Contestant], rounds: int, device: str = "cpu", runs: int = 1) -> Race:
    """A B C A B C ...: `rounds` rounds, in each of which everyone runs `runs` times in a row."""
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():
        for _ in range(WARM_UP):
            contestant.run()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, contestant in contestants.items():
                synchronize(device)
                begun, begun_cpu = time.perf_counter(), time.process_time()
                for _ in range(runs):
                    contestant.run()
                synchronize(device)
                wall[name].append((time.perf_counter() - begun) / runs)
                cpu[name].append((time.process_time() - begun_cpu) / runs if device == "cpu" else 0.0)
    finally:
        gc.enable()
    return Race({name: np.array(seconds) for name, seconds in wall.items()},
                {name: np.array(seconds) for name, seconds in cpu.items()},
                {name: contestant.instances for name, contestant in contestants.items()})


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
