"""Goals 1 to 3 and 7: classification of sequences and of tokens, against transformers' BERT and our own N = 1.

Constant groups per batch at every N (128 tokens a row); all models of a size and head run in one race.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.contestants import Conditions, bert, fed, ours
from benchmarks.protocol import race
from benchmarks.records import Record, record

NS = (2, 5, 10)
BERT, SINGLE = "transformers' BERT (SDPA)", "own N = 1"

# (device, head, size, against) -> goals at N = 2, 5, 10
GOALS: dict[tuple[str, str, str, str], tuple[float | None, ...]] = {
    ("cpu", "sequence", "BASE", BERT): (2.12, 5.3, 10.5),
    ("cpu", "sequence", "SMALL", BERT): (2.55, 6.2, 12.2),
    ("cpu", "sequence", "BASE", SINGLE): tuple(0.97 * N for N in NS),
    ("cpu", "sequence", "SMALL", SINGLE): tuple(0.92 * N for N in NS),
    ("cpu", "token", "BASE", BERT): (1.90, 4.5, 8.5),
    ("cpu", "token", "SMALL", BERT): (1.8, 4.0, 6.6),
    ("cuda", "sequence", "BASE", SINGLE): tuple(0.97 * N for N in NS),
    ("cuda", "sequence", "BASE", BERT): NS,
    ("cuda", "sequence", "SMALL", SINGLE): (None, None, 9.0),
    ("cuda", "token", "BASE", BERT): (None, None, 8.3),
}


def conditions(device: str, short: bool, compiled: bool = False) -> Conditions:
    if device == "cuda":
        return Conditions(device, torch.bfloat16, length=128, groups=128, rounds=3, runs=50 if short else 200,
                          compiled=True)
    return Conditions(device, torch.float32, length=128, groups=8, rounds=5 if short else 9, runs=1, compiled=compiled)


def measure(device: str, short: bool) -> Iterator[Record]:
    under = conditions(device, short)
    for size in ("SMALL",) if short else ("SMALL", "BASE"):
        for head in ("sequence", "token"):
            torch.compiler.reset()
            contestants = {BERT: fed(bert(head, size), under.groups, under),
                           SINGLE: fed(ours(head, size, 1), under.groups, under)}
            contestants |= {f"N = {N}": fed(ours(head, size, N), under.groups * N, under) for N in NS}
            found = race(contestants, under.rounds, device, under.runs)
            for against in (BERT, SINGLE):
                goals = GOALS.get((device, head, size, against), (None,) * len(NS))
                for N, goal in zip(NS, goals, strict=True):
                    name = f"N = {N}"
                    yield record("inference", f"{size}, {name}, {head} classification", against,
                                 found.ratio(name, against), goal and round(goal, 3), str(under),
                                 instances_per_second=round(found.per_second(name), 1))
