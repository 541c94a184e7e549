"""Who shares a group: compositions of the test rows (what section 6.3 of the paper leaves open)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from mux.report.drawing import Drawing, draw, legend_below, series, shown
from mux.report.measures import counted, title
from mux.report.results import Run
from mux.report.scores import Scores
from mux.report.section import Section, slug
from mux.report.tables import MINUS, Cell, Table, number, spread, text

Found = dict[str, dict[Run, dict[str, Scores]]]  # by task, run and composition
BASE = "random"
NOISE = 2  # standard errors


def section(runs: Sequence[Run]) -> Section:
    found: Found = {}
    for run in runs:
        for stage in run.stages("evaluate"):
            for composition, entry in stage.compositions.items():
                for task, scores in entry.tasks.items():
                    if run.tuners.get(task) == stage.source:
                        found.setdefault(task, {}).setdefault(run, {})[composition] = scores
    taken: set[str] = set()
    return Section(
        "composition", "Composition of groups",
        "The same models on the same rows, grouped differently: anyone together (random), rows of similar length, with "
        "common words, or with as few as possible. Padding is the share of computed tokens that hold nothing."
        + _findings(found),
        "An evaluate stage fills this: `kind = \"evaluate\"`, "
        "`compositions = [\"random\", \"length\", \"similar\", \"dissimilar\"]`.",
        [_drawing(slug(f"composition_{task}", taken), task, by_run) for task, by_run in found.items()],
        [_summary(found), _table(found)] if found else [])


@dataclass(frozen=True)
class Gain:
    """Of scores over those of random groups, in points, with one standard error over tickets."""

    value: float
    error: float | None  # None: of a single ticket

    @property
    def sign(self) -> int:
        """1 or -1 if it is a difference beyond noise, else 0."""
        beyond = self.error is not None and abs(self.value) > NOISE * self.error
        return (self.value > 0) - (self.value < 0) if beyond else 0


def _gain(task: str, scores: Scores, base: Scores) -> Gain | None:
    one, other = counted(task, scores), counted(task, base)
    if one.mean is None or other.mean is None:
        return None
    variances = [None if of.std is None or len(tickets) < 2 else of.std ** 2 / len(tickets)
                 for of, tickets in ((one, scores.tickets), (other, base.tickets))]
    known = [variance for variance in variances if variance is not None]
    return Gain(100 * (one.mean - other.mean), 100 * math.sqrt(sum(known)) if len(known) == 2 else None)


def _together(gains: Sequence[Gain]) -> Gain | None:
    """The mean of independent gains."""
    errors = [gain.error for gain in gains if gain.error is not None]
    error = math.hypot(*errors) / len(gains) if errors and len(errors) == len(gains) else None
    return Gain(statistics.fmean(gain.value for gain in gains), error) if gains else None


def _findings(found: Found) -> str:
    """What helps, by the numbers: of each composition the mean gain over all tasks of all runs."""
    gains: dict[str, list[Gain]] = {}
    for task, by_run in found.items():
        for compositions in by_run.values():
            for composition, scores in compositions.items():
                if composition != BASE and BASE in compositions and (gain := _gain(task, scores, compositions[BASE])):
                    gains.setdefault(composition, []).append(gain)
    parts = []
    for composition, of in gains.items():
        if mean := _together(of):
            verdict = {1: "helps", -1: "hurts", 0: "within noise"}[mean.sign]
            error = " (one ticket)" if mean.error is None else f" ± {mean.error:.2f}"
            parts.append(f"{composition} {f'{mean.value:+.2f}'.replace('-', MINUS)}{error} points, {verdict}")
    tasks = max(map(len, gains.values()), default=0)
    return (f" Over random groups, mean of {tasks} {'score' if tasks == 1 else 'scores'} ± one standard error over "
            f"tickets; within {NOISE} of them is noise: {'; '.join(parts)}." if parts else "")


def _summary(found: Found) -> Table:
    """What each composition changes, over all tasks of a run."""
    rows: list[list[Cell]] = []
    for run in dict.fromkeys(run for by_run in found.values() for run in by_run):
        of = {task: by_run[run] for task, by_run in found.items() if run in by_run}
        for composition in dict.fromkeys(name for compositions in of.values() for name in compositions):
            both = [(task, compositions[composition], compositions[BASE]) for task, compositions in of.items()
                    if composition in compositions and BASE in compositions]
            gains = [gain for task, one, base in both if (gain := _gain(task, one, base))]
            mean = _together(gains)
            padding = [_percent(one.padding) for _, one, _ in both]
            speed = [one.instances_per_second / base.instances_per_second for _, one, base in both
                     if one.instances_per_second and base.instances_per_second]
            rows.append([text(run.label), text(composition), number(len(both)), _gained(mean),
                         number(sum(gain.sign > 0 for gain in gains)), number(sum(gain.sign < 0 for gain in gains)),
                         number(_mean(padding), 1),
                         number(_mean(speed), 2, "×")])
    return Table("composition_summary", "Over all tasks",
                 ["run", "composition", "tasks", "over random, points", "tasks that gain", "tasks that lose",
                  "padding %", "x speed of random"], rows,
                 note=f"± one standard error over tickets. A task gains or loses by more than {NOISE} of them.")


def _gained(gain: Gain | None) -> Cell:
    if gain is None:
        return number(None)
    return spread(gain.value / 100, None if gain.error is None else gain.error / 100, 2)


def _table(found: Found) -> Table:
    rows: list[list[Cell]] = []
    for task, by_run in found.items():
        for run, compositions in by_run.items():
            base = counted(task, compositions.get(BASE))
            for composition, scores in compositions.items():
                one = counted(task, scores)
                rows.append([text(title(task)), text(run.label), text(composition), spread(one.mean, one.std, 2),
                             number(_points(one.mean, base.mean), 2), spread(one.max, None, 2),
                             spread(one.min, None, 2), number(len(scores.tickets)),
                             spread(scores.padding, None), number(scores.instances_per_second)])
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
