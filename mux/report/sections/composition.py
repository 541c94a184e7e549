"""Who shares a group: compositions of the test rows (what section 6.3 of the paper leaves open)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure

from mux.report.drawing import Drawing, draw, legend_below, series, shown
from mux.report.measures import counted, title
from mux.report.results import Run, Scores
from mux.report.section import Section, slug
from mux.report.tables import Cell, Table, number, spread, text

Found = dict[str, dict[Run, dict[str, Scores]]]  # by task, run and composition
BASE = "random"


def section(runs: Sequence[Run]) -> Section:
    found: Found = {}
    for run in runs:
        for stage in run.stages("evaluate"):
            for composition, entry in stage.compositions.items():
                for task, scores in entry.tasks.items():
                    found.setdefault(task, {}).setdefault(run, {})[composition] = scores
    taken: set[str] = set()
    return Section(
        "composition", "Composition of groups",
        "The same models on the same rows, grouped differently: anyone together (random), rows of similar length, with "
        "common words, or with as few as possible. Padding is the share of computed tokens that hold nothing.",
        "An evaluate stage fills this: `kind = \"evaluate\"`, "
        "`compositions = [\"random\", \"length\", \"similar\", \"dissimilar\"]`.",
        [_drawing(slug(f"composition_{task}", taken), task, by_run) for task, by_run in found.items()],
        [_summary(found), _table(found)] if found else [])


def _summary(found: Found) -> Table:
    """What each composition changes, over all tasks of a run."""
    rows: list[list[Cell]] = []
    for run in dict.fromkeys(run for by_run in found.values() for run in by_run):
        of = {task: by_run[run] for task, by_run in found.items() if run in by_run}
        for composition in dict.fromkeys(name for compositions in of.values() for name in compositions):
            both = [(task, compositions[composition], compositions[BASE]) for task, compositions in of.items()
                    if composition in compositions and BASE in compositions]
            gains = [_points(counted(task, one).mean, counted(task, base).mean) for task, one, base in both]
            padding = [_percent(one.padding) for _, one, _ in both]
            speed = [one.instances_per_second / base.instances_per_second for _, one, base in both
                     if one.instances_per_second and base.instances_per_second]
            rows.append([text(run.label), text(composition), number(len(both)), number(_mean(gains), 2),
                         number(sum(gain > 0 for gain in gains if gain is not None)), number(_mean(padding), 1),
                         number(_mean(speed), 2, "×")])
    return Table("composition_summary", "Over all tasks",
                 ["run", "composition", "tasks", "over random, points", "tasks that gain", "padding %",
                  "x speed of random"], rows)


def _table(found: Found) -> Table:
    rows: list[list[Cell]] = []
    for task, by_run in found.items():
        for run, compositions in by_run.items():
            base = counted(task, compositions.get(BASE))
            for composition, scores in compositions.items():
                one = counted(task, scores)
                rows.append([text(title(task)), text(run.label), text(composition), spread(one.mean, one.std, 2),
                             number(_points(one.mean, base.mean), 2), number(_percent(one.max), 2),
                             number(_percent(one.min), 2), number(len(scores.tickets)),
                             number(_percent(scores.padding), 1), number(scores.instances_per_second)])
    return Table("composition", "By task",
                 ["task", "run", "composition", "%", "over random, points", "best ticket %", "worst ticket %",
                  "tickets", "padding %", "instances/s"], rows, folded=True,
                 note="The best ticket is chosen on the rows it is scored on: an oracle, which no deployment has.")


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _points(one: float | None, base: float | None) -> float | None:
    return None if one is None or base is None else 100 * (one - base)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _drawing(name: str, task: str, by_run: dict[Run, dict[str, Scores]]) -> Drawing:
    names = list(dict.fromkeys(name for compositions in by_run.values() for name in compositions))

    def plot(figure: Figure) -> dict[str, str]:
        axes, tips = figure.subplots(1, 2, sharey=True), {}
        for row, (run, compositions) in enumerate(by_run.items()):
            for composition, scores in compositions.items():
                index = names.index(composition)
                one, base = counted(task, scores), counted(task, compositions.get(BASE))
                height, look = row + 0.16 * (index - (len(names) - 1) / 2), series(index)
                over, padding = _points(one.mean, base.mean), _percent(scores.padding)
                if over is not None:
                    axes[0].errorbar(over, height, xerr=100 * (one.std or 0), fmt="none", elinewidth=1,
                                     ecolor=look["color"])
                for panel, value in enumerate((over, padding)):
                    if value is not None:
                        gid = f"composition-{panel}-{row}-{index}"
                        axes[panel].scatter(value, height, s=34, gid=gid, zorder=3, **look)
                        tips[gid] = (f"{run.label}, {composition}\n{spread(one.mean, one.std, 2).text} %\n"
                                     f"padding {number(padding, 1).text} %")
        for index, composition in enumerate(names):
            axes[0].scatter([], [], s=34, label=shown(composition), **series(index))
        axes[0].set(title="score less that of random", xlabel="points, ± one standard deviation over tickets",
                    ylim=(len(by_run) - 0.5, -0.5))
        axes[0].set_yticks(range(len(by_run)), [shown(run.label) for run in by_run])
        axes[1].set(title="padding", xlabel="% of the computed tokens")
        axes[1].set_xlim(left=0)
        legend_below(figure, axes[0])
        return tips

    return draw(name, title(task), f"{title(task)}: scores and padding of {', '.join(names)} groups",
                (9.2, 1.6 + 0.5 * len(by_run)), plot, choice=title(task))
