"""Where the time of a step goes: what `engine.profile` has recorded, part by part."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from mux.report.drawing import draw, legend_below, series, shown
from mux.report.measures import title
from mux.report.results import Run
from mux.report.section import Section
from mux.report.tables import Table, number, text

Recorded = tuple[str, dict[str, float]]  # a training's name, and seconds of a step by part


def section(runs: Sequence[Run]) -> Section:
    found = [recorded for run in runs for recorded in _recorded(run)]
    parts = list(dict.fromkeys(part for _, seconds in found for part in seconds))
    drawings = []
    if found:
        def plot(figure: Figure) -> None:
            axes = figure.subplots()
            for place, (_, seconds) in enumerate(found):
                left, whole = 0.0, sum(seconds.values()) or 1.0
                for index, part in enumerate(parts):
                    share = 100 * seconds.get(part, 0.0) / whole
                    axes.barh(place, share, left=left, label=part if place == 0 else None, height=0.6,
                              color=series(index)["color"], alpha=1.0 if index < 8 else 0.5)
                    left += share
            axes.set_yticks(range(len(found)), [shown(name, 60) for name, _ in found])
            axes.set_xlabel("% of a step")
            axes.grid(axis="y", visible=False)
            legend_below(figure, axes)

        description = "; ".join(f"{name}: {sum(seconds.values()):.3f} s a step" for name, seconds in found)
        drawings.append(draw("profile", "Where the time of a step goes", description,
                             (8.4, 1.8 + 0.4 * max(len(found), 2)), plot))
    rows = [[text(name), number(1000 * sum(seconds.values()), 1),
             *(number(1000 * seconds[part], 2) if part in seconds else text("") for part in parts)]
            for name, seconds in found]
    tables = [Table("profile", "Milliseconds of a step", ["training", "whole step", *parts], rows)] if found else []
    return Section("profile", "Profile",
                   "Seconds of an optimizer step by part, on the first rank, as torch's profiler counts them (a GPU's "
                   "own time, where there is one); a part inside another counts once.",
                   "`mux-launch RECIPE --set engine.profile=true` records a few steps of every training.",
                   drawings, tables)


def _recorded(run: Run) -> list[Recorded]:
    of_stages = [(f"{run.label}, {stage.id}", stage.profile) for stage in run.stages("retrieval", "pretrain")]
    of_tasks = [(f"{run.label}, {title(task)}", scores.profile) for task, scores in run.tuned.items()]
    return [(name, known) for name, seconds in (*of_stages, *of_tasks)
            if (known := {part: value for part, value in seconds.items() if value is not None})]
