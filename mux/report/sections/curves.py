"""Learning curves of every training stage, and of fine-tuning by task; what pre-training came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mux.report.drawing import Drawing, draw, legend_below, shown, stroke
from mux.report.measures import title
from mux.report.results import Run
from mux.report.scores import Curve, Number
from mux.report.section import Section, slug
from mux.report.tables import Table, number, spread, text

Curves = Mapping[Run, Curve]


def section(runs: Sequence[Run]) -> Section:
    found: dict[str, dict[Run, Curve]] = {}
    for run in runs:
        for stage in run.stages("retrieval", "pretrain"):
            found.setdefault(f"stage {stage.id}", {})[run] = stage.curve
        for task, scores in run.tuned.items():
            found.setdefault(f"fine-tuning {title(task)}", {})[run] = scores.curve
    taken: set[str] = set()
    drawings = [_drawing(slug(f"curves_{name}", taken), name, drawn) for name, curves in found.items()
                if (drawn := {run: curve for run, curve in curves.items() if curve.step})]
    return Section("curves", "Learning curves",
                   "Loss and accuracy in training, by optimizer step: accuracy of the tokens, or rows, of the batch.",
                   "No training stage has written a curve yet: retrieval, pretrain and finetune do when they are done.",
                   drawings, tables=[learnt] if (learnt := _pretrained(runs)).rows else [])


def _pretrained(runs: Sequence[Run]) -> Table:
    rows = [[text(run.label), number(run.model.N), text(stage.id), number(stage.steps), number(stage.retrieval_rate, 2),
             number(stage.loss, 2), spread(stage.accuracy, None), spread(stage.retrieval_accuracy, None)]
            for run in runs for stage in run.stages("retrieval", "pretrain") if stage.loss is not None]
    return Table("pretraining", "Before fine-tuning", ["run", "N", "stage", "steps", "retrieval rate", "loss",
                                                       "accuracy %", "tokens found again %"], rows,
                 note="Of held-out rows at the stage's end: loss and accuracy of what it trains (masked or replaced "
                      "tokens, in retrieval the tokens themselves), and how many of a group's own tokens its "
                      "demultiplexer still finds, of whole rows in retrieval; in pre-training of rows a part of whose "
                      "tokens is masked or replaced, so that fewer can be found.")


def _drawing(name: str, heading: str, curves: Curves) -> Drawing:
    both = any(value is not None for curve in curves.values() for value in curve.accuracy)

    def plot(figure: Figure) -> None:
        panels = figure.subplots(1, 1 + both, squeeze=False)[0]
        for run, curve in curves.items():
            look = stroke(run.place)
            panels[0].plot(*_known(curve.step, curve.loss), **look, label=shown(run.label))
            if both:
                percent = [None if value is None else 100 * value for value in curve.accuracy]
                panels[1].plot(*_known(curve.step, percent), **look)
        for axes in panels:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        panels[0].set(title="loss", xlabel="step", ylabel="loss")
        if both:
            panels[1].set(title="accuracy", xlabel="step", ylabel="%")
        legend_below(figure, panels[0])

    last = "; ".join(f"{run.label}: loss {curve.loss[-1]} at step {curve.step[-1]}" for run, curve in curves.items()
                     if curve.loss)
    return draw(name, heading, f"Learning curves of {heading}. {last}", (8.6, 3.4), plot, choice=heading)


def _known(steps: Sequence[int], values: Sequence[Number]) -> tuple[list[int], list[float]]:
    pairs = [(step, value) for step, value in zip(steps, values, strict=False) if value is not None]
    return [step for step, _ in pairs], [value for _, value in pairs]
