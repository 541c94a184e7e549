"""Goal 4: the contextual multiplexer and the prefix demultiplexer, against the limits of their arithmetic.

A limit is how many times fewer multiplications a model takes per instance than BERT of its size, with the last layer
computed in full on both sides; sequence classification.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.contestants import bert, fed, ours
from benchmarks.inference import BERT, NS, conditions
from benchmarks.protocol import race
from benchmarks.records import Record, record

# kind -> (fields of the model, share of the limit that is the goal, limits at N = 2, 5, 10 by size)
KINDS = {
    "contextual multiplexer": ({"multiplexer": "contextual"}, 0.95,
                               {"SMALL": (1.15, 1.56, 1.77), "BASE": (1.60, 2.87, 3.90)}),
    "prefix demultiplexer": ({"demultiplexer": "prefix"}, 0.97,
                             {"SMALL": (1.95, 4.76, 9.15), "BASE": (1.95, 4.77, 9.18)}),
}


def measure(device: str, short: bool) -> Iterator[Record]:
    under = conditions(device, short)
    for size in ("SMALL",) if short else ("SMALL", "BASE"):
        for kind, (fields, share, limits) in KINDS.items():
            torch.compiler.reset()
            contestants = {BERT: fed(bert("sequence", size), under.groups, under)}
            contestants |= {f"N = {N}": fed(ours("sequence", size, N, **fields), under.groups * N, under) for N in NS}
            found = race(contestants, under.rounds, device, under.runs)
            for N, limit in zip(NS, limits[size], strict=True):
                yield record("limits", f"{size}, N = {N}, {kind}", BERT, found.ratio(f"N = {N}", BERT),
                             round(share * limit, 3), str(under), limit=limit)
