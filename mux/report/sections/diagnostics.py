"""Sanity: confusions, slots, companions, calibration and seeds of every fine-tuned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from mux.report.drawing import MUTED, Drawing, draw, legend_below, series, shown
from mux.report.measures import title
from mux.report.results import Run
from mux.report.scores import Calibration, Companions, Scores
from mux.report.section import Section, slug
from mux.report.tables import Cell, Table, number, spread, text

HEAT = LinearSegmentedColormap.from_list("heat", [(*(0.12, 0.44, 0.82), alpha) for alpha in (0, 0.9)])
WRITTEN = 6  # classes: with at most so many the shares are written into the squares
NAMED = 20  # ... and their names beside them
COLUMNS = 4  # panels in a row

Scored = Mapping[Run, Scores]


def section(runs: Sequence[Run]) -> Section:
    taken: set[str] = set()
    drawings, tables = [], []
    for task in dict.fromkeys(task for run in runs for task in run.tuned):
        scored = {run: run.tuned[task] for run in runs if task in run.tuned}
        name = slug(task, taken)
        tables += [_doubts(name, task, scored), _scores(name, task, scored)]
        if sensible := {run: scores for run, scores in scored.items()
                        if len(scores.diagnostics.slots) > 1 or scores.diagnostics.calibration}:
            drawings.append(_sanity(f"sanity_{name}", task, sensible))
        if confused := {run: scores for run, scores in scored.items() if scores.diagnostics.confusion}:
            drawings.append(_confusions(f"confusion_{name}", task, confused))
    return Section("diagnostics", "Task by task",
                   "Confusions of the fine-tuned models over all tickets; whether any slot of a group is worse than "
                   "the others (p: of slots being alike); how often a prediction changes when the row gets other "
                   "companions; whether confidence is to be believed.",
                   "A finetune stage fills this, e.g. `mux-launch recipes/quickstart.toml`.", drawings, tables)


def _scores(name: str, task: str, scored: Scored) -> Table:
    rows = []
    for run, scores in scored.items():
        chosen = scores.chosen
        others = ", ".join(f"{other} {spread(one.mean, None, 2).text}" for other, one in scores.others.items())
        also = ", ".join(f"{part} {spread(one.mean, one.std, 2).text}" for part, one in scores.also.items())
        point = f"{chosen.learning_rate:g}, batch {chosen.batch}" if chosen.learning_rate else ""
        seeds = ", ".join(spread(mean, None, 2).text for mean in scores.seeds.values())
        rows.append([text(run.label), text(scores.metric.replace("_", " ")), spread(scores.mean, scores.std, 2),
                     text(others), text(also), _share(scores.majority), text(seeds), number(scores.test_rows),
                     number(scores.steps), text(f"{point} on {chosen.on}" if point and chosen.on else point)])
    return Table(f"task_{name}", f"{title(task)}: scores",
                 ["run", "metric", "%", "other metrics", "other rows", "majority class", "by seed", "test rows",
                  "steps", "learning rate chosen"], rows, choice=title(task))


def _doubts(name: str, task: str, scored: Scored) -> Table:
    rows = []
    for run, scores in scored.items():
        seen = scores.diagnostics
        companions, calibration = seen.companions or Companions(), seen.calibration or Calibration()
        known = [slot.score for slot in seen.slots if slot.score is not None]
        unit = 1 if seen.confusion is None else 100
        rows.append([text(run.label), number(unit * min(known) if known else None, 2),
                     number(unit * max(known) if known else None, 2), number(seen.slot_p, 3),
                     _share(companions.changed), _share(companions.same_slot), _share(calibration.error)])
    return Table(f"sanity_{name}", f"{title(task)}: slots, companions, calibration",
                 ["run", "lowest slot", "highest slot", "slots alike, p", "changes with companions %",
                  "in the same slot %", "calibration error %"], rows, choice=title(task),
                 note="Slots: % correct, of numbers the mean absolute error. Changes: predictions that differ between "
                      "two tickets, of numbers the mean absolute difference times 100.")


def _share(value: float | None) -> Cell:
    return number(None if value is None else 100 * value, 1)


def _sanity(name: str, task: str, scored: Scored) -> Drawing:
    """Slots on the left, reliability on the right, a colour a run."""

    def plot(figure: Figure) -> dict[str, str]:
        slots, reliability = figure.subplots(1, 2)
        tips: dict[str, str] = {}
        for index, (run, scores) in enumerate(scored.items()):
            shift = 0.5 * ((index + 0.5) / len(scored) - 0.5)
            tips |= _slots(slots, shift, run, scores) | _reliability(reliability, run, scores)
        slots.axhline(0, color=MUTED, linewidth=1)
        slots.set(title="slots, ± one standard error", xlabel="slot",
                  ylabel="less the run's mean" + ("" if _classes(scored) else ", absolute error"))
        slots.xaxis.get_major_locator().set_params(integer=True)
        reliability.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        reliability.set(title="reliability", xlabel="confidence, %", ylabel="correct, %", xlim=(0, 103), ylim=(0, 103))
        reliability.set_visible(_classes(scored))
        legend_below(figure, reliability if _classes(scored) else slots)
        return tips

    heading = f"{title(task)}: slots and reliability"
    return draw(name, heading, f"{heading} of {_names(scored)}", (8.8, 3.9), plot, choice=title(task))


def _names(scored: Scored) -> str:
    return ", ".join(run.label for run in scored)


def _classes(scored: Scored) -> bool:
    return any(scores.diagnostics.calibration for scores in scored.values())


def _slots(axes: Axes, shift: float, run: Run, scores: Scores) -> dict[str, str]:
    slots = [slot for slot in scores.diagnostics.slots if slot.score is not None]
    if len(slots) < 2:
        return {}
    values, counts = (np.array(numbers, dtype=float) for numbers in zip(*((slot.score, max(slot.count, 1))
                                                                          for slot in slots), strict=True))
    shares = np.clip(values, 0, 1)
    classes = scores.diagnostics.confusion is not None
    scale = 100 if classes else 1
    places, look = [slot.slot + shift for slot in slots], series(run.place)
    heights = scale * (values - np.average(values, weights=counts))
    if classes:
        axes.errorbar(places, heights, scale * np.sqrt(shares * (1 - shares) / counts), fmt="none", elinewidth=1,
                      ecolor=look["color"])
    axes.plot(places, heights, linestyle="none", markersize=4, gid=(gid := f"slots-{run.place}"),
              label=shown(run.label), **look)
    p = scores.diagnostics.slot_p
    lines = [f"slot {slot.slot}: {scale * (slot.score or 0):.4g}" for slot in slots]
    return {gid: "\n".join([run.label, *lines, "" if p is None else f"p = {p:.3f} that slots are alike"])}


def _reliability(axes: Axes, run: Run, scores: Scores) -> dict[str, str]:
    calibration = scores.diagnostics.calibration
    known = [(one.confidence, one.accuracy, one.count) for one in (calibration.bins if calibration else [])
             if one.count and one.confidence is not None and one.accuracy is not None]
    if not known:
        return {}
    confidence, accuracy, _ = (100 * np.array(numbers) for numbers in zip(*known, strict=True))
    axes.plot(confidence, accuracy, linewidth=1.2, markersize=4, gid=(gid := f"reliability-{run.place}"),
              label=shown(run.label), **series(run.place))
    lines = [f"{said:.0f} % sure, {right:.0f} % right: {count:,} rows"
             for said, right, (_, _, count) in zip(confidence, accuracy, known, strict=True)]
    error = calibration.error if calibration else None
    return {gid: "\n".join([f"{run.label}: calibration error {_share(error).text} %", *lines])}


def _confusions(name: str, task: str, scored: Scored) -> Drawing:
    """A heat map a run."""
    columns = min(COLUMNS, len(scored))
    rows = -(-len(scored) // columns)
    wide = 2.2 if columns > 2 else 3.2

    def plot(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for index, (axes, (run, scores)) in enumerate(zip(grid, scored.items(), strict=False)):
            _confusion(axes, scores, index % columns == 0, index + columns >= len(scored))
            axes.set_title(shown(run.label, 30))
        for axes in grid[len(scored):]:
            axes.set_visible(False)

    heading = f"{title(task)}: confusion, share of each true class"
    size = wide * columns + 0.6, 0.95 * wide * rows + 0.7
    return draw(name, heading, f"{heading}, of {_names(scored)}", size, plot, choice=title(task))


def _confusion(axes: Axes, scores: Scores, leftmost: bool, lowest: bool) -> None:
    """Shares [true, predicted]; classes are named at the margins of the grid only."""
    confusion = scores.diagnostics.confusion
    assert confusion is not None
    counts = np.array(confusion.counts, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap=HEAT, vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    axes.tick_params(length=0, labelsize=7)
    places = range(0, len(counts), 1 if len(counts) <= NAMED else 10)
    names = [shown(confusion.labels[place], 14) for place in places]
    axes.set_xticks(places, names if lowest else [], rotation=45, ha="right")
    axes.set_yticks(places, names if leftmost else [])
    axes.set(xlabel="predicted" if lowest else "", ylabel="true" if leftmost else "")
    if len(counts) <= WRITTEN:
        for row, column in np.ndindex(*shares.shape):
            axes.text(column, row, f"{100 * shares[row, column]:.0f} %", ha="center", va="center", fontsize=7.5)
