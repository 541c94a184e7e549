"""How fast: the throughput stages' rows, as ratios to BERT BASE timed in the same process."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from mux.report.drawing import Drawing, draw, series, shown
from mux.report.paper import paper
from mux.report.results import Run, Timed
from mux.report.section import Section
from mux.report.tables import Table, number, text

CONVENTIONS = {
    ("sequence", "instances"): "Sequence head, batches of instances (the paper's words)",
    ("token", "instances"): "Token head, batches of instances",
    ("sequence", "groups"): "Sequence head, batches of groups (what the paper's scripts did)",
    ("token", "groups"): "Token head, batches of groups",
    ("sequence", "ragged"): "Sequence head, texts of all lengths, 27 tokens or less on average, sorted",
    ("token", "ragged"): "Token head, texts of all lengths, 27 tokens or less on average, sorted",
    ("sequence", "one_group"): "Sequence head, one group: the latency",
    ("token", "one_group"): "Token head, one group: the latency",
}
SHOWN = 40  # models in a figure


def section(runs: Sequence[Run]) -> Section:
    rows = [(run, row) for run in runs for stage in run.stages("throughput") for row in stage.rows]
    asked = paper().protocol["throughput"]
    drawings, tables = [], []
    for (head, batches_of), heading in CONVENTIONS.items():
        of = [(run, row) for run, row in rows if (row.head, row.batches_of) == (head, batches_of)]
        if of:
            drawings.append(_drawing(f"throughput_{head}_{batches_of}", heading, [row for _, row in of]))
            tables.append(_table(f"throughput_{head}_{batches_of}", heading, of))
    return Section("throughput", "Throughput",
                   "Each model is timed in turns with BERT BASE of transformers and with its own N = 1, in one "
                   "process; a ratio is the median over the rounds, with its quartiles. The paper: "
                   f"{asked['trials']} trials of "
                   f"{asked['batches']} batches of {asked['batch']} texts of {asked['sequence_length']} tokens on one "
                   f"{asked['device']}.",
                   "A throughput stage fills this, e.g. `mux-launch recipes/throughput_table.toml`.", drawings, tables)


def _drawing(name: str, heading: str, rows: Sequence[Timed]) -> Drawing:
    rows = sorted((row for row in rows if row.ratio_to_bert_base), key=lambda row: row.ratio_to_bert_base or 0)[-SHOWN:]

    def plot(figure: Figure) -> dict[str, str]:
        axes, tips = figure.subplots(), {}
        devices = list(dict.fromkeys((row.device, row.mode) for row in rows))
        for place, row in enumerate(rows):
            look = series(devices.index((row.device, row.mode)))
            ratio = row.ratio_to_bert_base or 0.0
            low, high = row.ratio_to_bert_base_quartiles or (ratio, ratio)
            axes.errorbar(ratio, place, xerr=[[max(ratio - (low or ratio), 0)], [max((high or ratio) - ratio, 0)]],
                          fmt="none", elinewidth=1, ecolor=look["color"])
            axes.scatter(ratio, place, s=34, gid=(gid := f"row-{place}"), zorder=3, **look)
            axes.annotate(f"{ratio:.2f}×", (ratio, place), (8, -3), textcoords="offset points", fontsize=7.5)
            tips[gid] = _tip(row)
        axes.set_yticks(range(len(rows)), [shown(row.model, 60) for row in rows])
        axes.set_xlabel("times the instances/s of BERT BASE")
        axes.set_xlim(left=0)
        axes.margins(x=0.12)
        axes.grid(axis="y", visible=False)
        return tips

    description = "; ".join(f"{row.model}: {row.ratio_to_bert_base:.2f} x BERT BASE" for row in rows)
    return draw(name, heading, f"{heading}. {description}", (8.4, 1.2 + 0.26 * max(len(rows), 2)), plot, choice=heading)


def _tip(row: Timed) -> str:
    lines = [row.model, f"{number(row.instances_per_second).text} instances/s",
             f"{number(row.milliseconds_per_batch, 1).text} ms a batch of {row.batch}",
             f"{row.trials} x {row.batches} batches, {row.mode}, {row.dtype}", row.device or ""]
    return "\n".join(filter(None, lines))


def _table(name: str, heading: str, rows: Sequence[tuple[Run, Timed]]) -> Table:
    cells = [[text(run.label), text(row.model), number(row.N), text(row.mode), number(row.instances_per_second),
              number(row.ratio_to_bert_base, 2, "×"), text(_quartiles(row.ratio_to_bert_base_quartiles)),
              number(row.ratio_to_n1, 2, "×"), number(row.milliseconds_per_batch, 1), number(row.batch),
              number(row.sequence_length), text(f"{row.trials} x {row.batches}"), text(row.dtype), text(row.device)]
             for run, row in rows]
    return Table(name, heading, ["run", "model", "N", "mode", "instances/s", "x BERT BASE", "quartiles", "x own N = 1",
                                 "ms a batch", "batch", "length", "trials x batches", "dtype", "device"], cells,
                 choice=heading)


def _quartiles(quartiles: Sequence[float | None] | None) -> str:
    return " to ".join(f"{value:.2f}" for value in quartiles or () if value is not None)
