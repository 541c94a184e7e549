"""Multiplexing beside compression: int8 linear layers and bf16, smaller encoders, and N on top of each.

Sequence classification on a CPU, all in one race, against transformers' BERT BASE in fp32. Beside a ratio stands the
largest change of a logit that the precision causes, in standard deviations of the logits over rows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from benchmarks.contestants import bert, fed, ours, rows
from benchmarks.inference import conditions
from benchmarks.protocol import Contestant, race
from benchmarks.records import Record, record
from mux.model.precision import PRECISIONS, multiplied, to_precision
from mux.report.drawing import MUTED, draw, legend_below, series
from mux.report.paper import paper

TRIED = [precision for precision in PRECISIONS if precision != "fp16"]  # on a CPU four times slower than fp32
NS, SIZES = (1, 2, 5, 10), ("SMALL", "BASE")
BERT = "transformers' BERT BASE, fp32"


def measure(device: str, short: bool) -> Iterator[Record]:
    under = conditions(device, short)
    contestants, changes = {BERT: fed(bert("sequence", "BASE"), under.groups, under)}, {}
    for size in SIZES[:1] if short else SIZES:
        for N in NS:
            model = ours("sequence", size, N).eval()
            for precision in TRIED:
                name = f"{size}, N = {N}, {precision}"
                other = to_precision(copy.deepcopy(model), precision, torch.device(device))  # type: ignore[arg-type]
                changes[name] = change(model, other, precision, N, under.length)
                contestants[name] = within(precision, fed(other, under.groups * N, under, keep=True))
    found = race(contestants, under.rounds, device, under.runs)
    for name, changed in changes.items():
        yield record("stacking", f"{name} (a logit changes by {changed:.2g} at most)", BERT, found.ratio(name, BERT),
                     None, str(under).replace("float32, ", ""), change=round(changed, 5), model=name)


def within(precision: str, contestant: Contestant) -> Contestant:
    def run() -> object:
        with multiplied(precision):
            return contestant.run()

    return replace(contestant, run=run)


@torch.inference_mode()
def change(model: nn.Module, other: nn.Module, precision: str, N: int, length: int) -> float:
    batch = rows(4 * N, length, torch.Generator().manual_seed(1))
    exact = model(**batch).logits
    with multiplied(precision):
        near = other(**batch).logits.float()
    return float((exact - near).abs().max() / exact.std(0).mean())


def picture(records: Iterable[Record], path: Path) -> None:
    """Speed, as measured here, against accuracy, as the paper has it, of each size and precision over N."""
    speeds = {one.more["model"]: one.value for one in records if one.benchmark == "stacking" and one.conditions}
    accuracies = {row.model: row.values[-2] for row in paper().tables["9"].rows}
    lines = {f"{size}, {precision}": [(N, speeds[f"{size}, N = {N}, {precision}"],
                                       float(accuracies[f"bert_{size.lower()}_n{N}"]))  # type: ignore[arg-type]
                                      for N in NS if f"{size}, N = {N}, {precision}" in speeds]
             for size in SIZES for precision in TRIED}

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot(xscale="log", xlabel="texts per second, times transformers' BERT BASE in fp32",
                                  ylabel="GLUE, mean of 9 tasks (paper, Table 9)")
        for index, (name, points) in enumerate((name, points) for name, points in lines.items() if points):
            axes.plot([x for _, x, _ in points], [y for _, _, y in points], label=name, **series(index))
            for N, x, y in points:
                axes.annotate(f"{N}", (x, y), (3, 4), textcoords="offset points", color=MUTED, fontsize=7)
        ticks = [1, 3, 10, 30, 100, 300]
        axes.set_xticks(ticks, [f"{tick}x" for tick in ticks])
        axes.minorticks_off()
        legend_below(figure, axes)

    drawing = draw("stacking", "Multiplexing on top of smaller models and lower precision",
                   "Lines of SMALL and BASE models in each precision over N: speed against accuracy", (7.2, 4.4), plot)
    path.write_text(drawing.svg, encoding="utf-8")
