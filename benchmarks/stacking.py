"""Multiplexing beside compression: int8 linear layers and bf16, smaller encoders, and N on top of each.

Sequence classification on a CPU, all in one race, against transformers' BERT BASE in fp32. Beside a ratio stands the
largest change of a logit that the precision causes, in standard deviations of the logits over rows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.contestants import bert, fed, ours, rows
from benchmarks.inference import conditions
from benchmarks.protocol import race
from benchmarks.records import Record, record
from mux.model.precision import to_precision

NS, PRECISIONS = (1, 2, 10), ("fp32", "bf16", "int8")
BERT = "transformers' BERT BASE, fp32"


def measure(device: str, short: bool) -> Iterator[Record]:
    under = conditions(device, short)
    contestants, changes = {BERT: fed(bert("sequence", "BASE"), under.groups, under)}, {}
    for size in ("SMALL",) if short else ("SMALL", "BASE"):
        for N in NS:
            model = ours("sequence", size, N).eval()
            for precision in PRECISIONS:
                name = f"{size}, N = {N}, {precision}"
                other = to_precision(copy.deepcopy(model), precision, torch.device(device))  # type: ignore[arg-type]
                changes[name] = change(model, other, N, under.length)
                contestants[name] = fed(other, under.groups * N, under, keep=True)
    found = race(contestants, under.rounds, device, under.runs)
    for name, changed in changes.items():
        yield record("stacking", f"{name} (a logit changes by {changed:.1%} at most)", BERT, found.ratio(name, BERT),
                     None, str(under).replace("float32, ", ""), change=round(changed, 5))


@torch.inference_mode()
def change(model: nn.Module, other: nn.Module, N: int, length: int) -> float:
    batch = rows(4 * N, length, torch.Generator().manual_seed(1))
    exact, near = model(**batch).logits, other(**batch).logits.float()
    return float((exact - near).abs().max() / exact.std(0).mean())
