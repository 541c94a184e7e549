"""Copies: what reading each text several times buys, and what it costs (section 5.4 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from mux.report.drawing import Drawing, draw, legend_below, series, shown
from mux.report.measures import counted, title
from mux.report.results import Run
from mux.report.scores import Scores
from mux.report.section import Section, slug
from mux.report.tables import Table, number, spread, text

Points = dict[Run, dict[int, Scores]]  # by copies


def section(runs: Sequence[Run]) -> Section:
    tasks = list(dict.fromkeys(task for run in runs for stage in run.stages("ensemble")
                               for entry in stage.copies.values() for task in entry.tasks))
    taken: set[str] = set()
    drawings, tables = [], []
    for task, points in ((task, points) for task in tasks if (points := _points(runs, task))):
        name = slug(f"ensembling_{task}", taken)
        drawings.append(_drawing(name, task, points))
        tables.append(_table(name, task, points))
    return Section("ensembling", "Ensembling: copies of each text",
                   "Each text k times, all rows permuted together, the k logits averaged: a dial between accuracy and "
                   "speed that is turned after training. Bars: one standard deviation over tickets.",
                   "An ensemble stage fills this: `kind = \"ensemble\"`, `copies = [1, 2]` behind the fine-tuning.",
                   drawings, tables)


def _points(runs: Sequence[Run], task: str) -> Points:
    """Scores of every run by copies; where an ensemble stage did not take one copy, the fine-tuning's own."""
    points: Points = {}
    for run in runs:
        copied = {copies: of[task] for copies, of in run.results.copied(run.tuners.get(task, "")) if task in of}
        if copied:
            alone = {1: run.tuned[task]} if task in run.tuned else {}
            points[run] = dict(sorted((alone | copied).items()))
    return points


def _drawing(name: str, task: str, points: Points) -> Drawing:
    def plot(figure: Figure) -> dict[str, str]:
        accuracy, speed = figure.subplots(1, 2)
        tips = {}
        for run, scores in points.items():
            look = series(run.place)
            spreads = {copies: counted(task, one) for copies, one in scores.items()}
            known = {k: one for k, one in spreads.items() if one.mean is not None}
            accuracy.errorbar(list(known), [100 * (one.mean or 0) for one in known.values()],
                              [100 * (one.std or 0) for one in known.values()], elinewidth=1, markersize=0, **look)
            for panel, axes in enumerate((accuracy, speed)):
                for copies, one in scores.items():
                    value = known[copies].mean if panel == 0 and copies in known else one.instances_per_second
                    if value is not None:
                        gid = f"copies-{panel}-{run.place}-{copies}"
                        axes.scatter(copies, value * (100 if panel == 0 else 1), s=36, gid=gid, zorder=4, **look)
                        tips[gid] = _tip(run.label, task, copies, one)
            timed = {k: one.instances_per_second for k, one in scores.items() if one.instances_per_second}
            speed.plot(list(timed), list(timed.values()), label=shown(run.label), markersize=5, **look)
        accuracy.set(title="accuracy", xlabel="copies k", ylabel=f"{title(task)}, %")
        speed.set(title="speed of the evaluation", xlabel="copies k", ylabel="instances/s")
        speed.set_ylim(bottom=0)
        for axes in (accuracy, speed):
            axes.xaxis.get_major_locator().set_params(integer=True)
        legend_below(figure, speed)
        return tips

    description = "; ".join(f"{run.label}: {', '.join(map(str, scores))} copies" for run, scores in points.items())
    return draw(name, title(task), f"{title(task)} against copies. {description}", (8.6, 3.8), plot, choice=title(task))


def _tip(run: str, task: str, copies: int, scores: Scores) -> str:
    one = counted(task, scores)
    accuracy = spread(one.mean, one.std, 2).text
    return f"{run}, k = {copies}\n{accuracy} %\n{number(scores.instances_per_second).text} instances/s"


def _table(name: str, task: str, points: Points) -> Table:
    rows = []
    for run, scores in points.items():
        first = counted(task, next(iter(scores.values())))
        for copies, one in scores.items():
            now = counted(task, one)
            gain = None if now.mean is None or first.mean is None else 100 * (now.mean - first.mean)
            rows.append([text(run.label), number(copies), spread(now.mean, now.std, 2), number(gain, 2),
                         number(one.instances_per_second)])
    return Table(name, f"Copies: {title(task)}", ["run", "copies", "%", "gain over the first, points", "instances/s"],
                 rows, choice=title(task))
