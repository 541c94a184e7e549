"""The headline: accuracy against throughput, one point a model and number of copies, with the computed frontier."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from mux.recipe.averages import AVERAGES
from mux.report.drawing import INK, PAPER, Drawing, draw, legend_below, series, shown
from mux.report.frontier import SPEEDS, SpeedName, frontier
from mux.report.measures import MEASURES, title
from mux.report.paper import paper
from mux.report.points import Point, points
from mux.report.results import Run
from mux.report.section import Section, slug
from mux.report.tables import Table, number, spread, text

FIGURE_4 = {"glue_without_wnli_cola": "top", "token": "bottom"}  # average -> its half
LEAD = ("One point for each run and number of copies; the line joins the points that no other one beats in both. A "
        "score is that of the model that is kept, the first seed's. Bars: one standard deviation over tickets and "
        "seeds, and the quartiles of the speed. Hover over a point, or step to "
        "it with Tab, for its numbers. In grey the paper's models and their frontier, where it prints score and "
        "throughput (Figure 4); their labels are the size's letter and N.")
NONE_YET = (" None of these runs has evaluated a model yet: a finetune and a throughput stage do, e.g. mux-launch "
            "recipes/bert_base_n2.toml.")
TIMES_BASE, PER_SECOND = "times the instances/s of BERT BASE", "instances/s"


def section(runs: Sequence[Run]) -> Section:
    by_task: dict[str, list[Point]] = {}
    for run in runs:
        for point in points(run.raw, run.label):
            if point.instances_per_second:
                by_task.setdefault(point.task, []).append(point)
    taken: set[str] = set()
    tasks = sorted(by_task, key=_order) + [name for name in FIGURE_4 if name not in by_task]
    places = {run.label: run.place for run in runs}
    planes = [Plane(task, by_task.get(task, ()), slug(f"pareto_{task}", taken), places) for task in tasks]
    return Section("pareto", "Accuracy against throughput", LEAD + ("" if by_task else NONE_YET), "",
                   [plane.drawing() for plane in planes], [plane.table() for plane in planes if plane.points],
                   toggles_paper=any(plane.printed for plane in planes))


def _order(task: str) -> tuple[int, str]:
    """Averages first, then the tasks of the paper, then others."""
    known = [*FIGURE_4, *AVERAGES, *MEASURES]
    return (known.index(task) if task in known else len(known)), task


@dataclass(frozen=True)
class Printed:
    """A model of the paper in the plane."""

    label: str
    short: str  # its size's letter and N, as in the paper's Figure 4
    ratio: float
    accuracy: float  # percent
    std: float


@dataclass(frozen=True)
class Plane:
    task: str
    points: Sequence[Point]
    name: str
    places: Mapping[str, int]  # of the runs

    @property
    def relative(self) -> bool:
        """Whether the axis is the ratio to BERT BASE, which holds across devices, or instances/s, where none has it."""
        return not self.points or any(point.ratio_to_bert_base for point in self.points)

    @property
    def quantity(self) -> SpeedName:
        """What is drawn."""
        return "ratio_to_bert_base" if self.relative else "instances_per_second"

    @property
    def heading(self) -> str:
        half = FIGURE_4.get(self.task)
        return title(self.task) + (f" (Figure 4, {half})" if half else "")

    @property
    def metric(self) -> str:
        return metric_name(self.points[0].metric if self.points else "average")

    @property
    def drawn(self) -> list[Point]:
        return [point for point in self.points if point.ratio_to_bert_base or not self.relative]

    @functools.cached_property
    def best(self) -> list[Point]:
        return frontier(self.drawn, self.quantity)

    @functools.cached_property
    def printed(self) -> list[Printed]:
        return list(printed(self.task)) if self.relative else []

    def speed(self, point: Point) -> float:
        return getattr(point, self.quantity) or 0.0

    def drawing(self) -> Drawing:
        ours = ", ".join(f"{point.run} at {100 * point.accuracy:.1f} %" for point in self.drawn)
        return draw(self.name, self.heading, f"{self.heading} against throughput: {ours or 'none of ours yet'}",
                    (8.4, 5.2), self._plot, choice=self.heading)

    def _plot(self, figure: Figure) -> dict[str, str]:
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set(xlabel=TIMES_BASE if self.relative else PER_SECOND,
                 ylabel=f"{title(self.task)}, {self.metric}, %")
        tips = self._paper(axes)
        alike = SPEEDS[self.quantity]
        for conditions in dict.fromkeys(map(alike, self.best)):
            line = [point for point in self.best if alike(point) == conditions]
            axes.plot([self.speed(point) for point in line], [100 * point.accuracy for point in line],
                      color=INK, linewidth=1.2, drawstyle="steps-pre", gid=f"frontier-{len(axes.lines)}", zorder=2)
        for index, point in enumerate(self.drawn):
            look = series(self.places[point.run])
            gid = f"point-{index}"
            axes.errorbar(self.speed(point), 100 * point.accuracy, yerr=100 * point.accuracy_error,
                          xerr=self._quartiles(point), fmt="none", ecolor=look["color"], elinewidth=1)
            first = point is next(one for one in self.drawn if one.run == point.run)
            axes.scatter(self.speed(point), 100 * point.accuracy, s=70 / point.copies ** 0.5 + 20, gid=gid, zorder=4,
                         edgecolors=INK if point in self.best else "none", linewidths=1.3, **look,
                         label=shown(point.run) if first else None)
            if point in self.best:
                label = f"N = {point.N}" + (f", k = {point.copies}" if point.copies > 1 else "")
                axes.annotate(label, (self.speed(point), 100 * point.accuracy), (6, 5), textcoords="offset points",
                              fontsize=7.5)
            tips[gid] = self.tip(point)
        plain_ticks(axes)
        legend_below(figure, axes)
        return tips

    def _quartiles(self, point: Point) -> list[list[float]] | None:
        if point.throughput_low is None or point.throughput_high is None or not point.instances_per_second:
            return None
        scale = self.speed(point) / point.instances_per_second
        return [[scale * max(point.instances_per_second - point.throughput_low, 0)],
                [scale * max(point.throughput_high - point.instances_per_second, 0)]]

    def _paper(self, axes: Axes) -> dict[str, str]:
        tips = {}
        for index, point in enumerate(self.printed):
            gid = f"paper-{index}"
            axes.scatter(point.ratio, point.accuracy, s=34, color=PAPER, marker="o", gid=gid, zorder=1)
            axes.annotate(point.short, (point.ratio, point.accuracy), (4, -8), textcoords="offset points",
                          fontsize=7, color=PAPER, gid=f"paper-label-{index}")
            tips[gid] = f"the paper's {point.label}\n{point.accuracy} ±{point.std} %\n{point.ratio} x BERT BASE"
        envelope = [one for one in self.printed if not any(
            other.ratio >= one.ratio and other.accuracy >= one.accuracy and other != one for other in self.printed)]
        envelope.sort(key=lambda one: one.ratio)
        axes.plot([one.ratio for one in envelope], [one.accuracy for one in envelope], color=PAPER, linewidth=1,
                  linestyle=(0, (4, 3)), drawstyle="steps-pre", gid="paper-frontier", zorder=0)
        return tips

    def tip(self, point: Point) -> str:
        lines = [f"{point.run}: {point.model}, {point.copies} {'copy' if point.copies == 1 else 'copies'}",
                 f"{100 * point.accuracy:.2f} % {metric_name(point.metric)} ±{100 * point.accuracy_error:.2f}",
                 f"95 %: {100 * point.accuracy_low:.2f} to {100 * point.accuracy_high:.2f}",
                 f"{point.instances_per_second:,.0f} instances/s (by the {point.timed_by})"]
        lines += [f"{point.ratio_to_bert_base:.2f} x BERT BASE"] if point.ratio_to_bert_base else []
        lines += [f"latency {point.latency_ms:.1f} ms"] if point.latency_ms else []
        lines += [", ".join(filter(None, (point.device, point.dtype)))] if point.device else []
        return "\n".join([*lines, "on the frontier" if point in self.best else "not on the frontier"])

    def table(self) -> Table:
        rows = [[text(point.run), text(point.model), number(point.N), number(point.copies),
                 spread(point.accuracy, point.accuracy_error, 2),
                 text(f"{100 * point.accuracy_low:.1f} to {100 * point.accuracy_high:.1f}"),
                 number(point.instances_per_second), number(point.ratio_to_bert_base, 2, "×"),
                 number(point.latency_ms, 1), text(point.device), text(point.dtype), text(point.timed_by),
                 text("yes" if point in self.best else "no")] for point in self.points]
        left = len(self.points) - len(self.drawn)
        note = (f"{left} of these have no throughput stage and are not in the figure: their speed is that of their "
                "evaluation." if left else "")
        return Table(self.name, f"The points: {self.heading}",
                     ["run", "model", "N", "copies", f"{self.metric} %", "95 %", "instances/s",
                      "x BERT BASE", "latency, ms", "device", "dtype", "timed by", "frontier"], rows, note=note,
                     choice=self.heading)


def metric_name(metric: str) -> str:
    return metric.replace("_", " ")


def plain_ticks(axes: Axes) -> None:
    """A logarithmic axis with ordinary numbers."""
    axes.margins(0.09, 0.12)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def printed(task: str) -> Iterable[Printed]:
    """The paper's models of which it prints both this score and the throughput (Figure 4, from Tables 1, 3, 9-11)."""
    ratios: dict[str, float] = {}
    scores: dict[str, tuple[float, float]] = {}
    for table in paper().tables.values():
        for row in table.rows:
            for column, value in zip(table.columns, row.values, strict=True):
                if isinstance(value, float | int) and column.statistic == "ratio":
                    ratios.setdefault(row.model, value)
                elif value is not None and (column.task, column.statistic, column.copies) == (task, "mean", None):
                    mean, std = value if isinstance(value, list) else (value, 0.0)
                    scores.setdefault(row.model, (mean, std))
    for name, (mean, std) in scores.items():
        model = paper().models[name]
        if name in ratios and model.pretrained:
            size = model.size or ""
            label = f"{model.name} {size}".strip() + (f", N = {model.N}" if model.N > 1 else "")
            short = f"{size[0]}{model.N if model.N > 1 else ''}" if size else model.name
            yield Printed(label, short, ratios[name], mean, std)
