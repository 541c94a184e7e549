"""What was run: models, budgets beside the paper's, devices, dates, states."""

from __future__ import annotations

from collections.abc import Sequence

from mux.report.measures import measured, title
from mux.report.paper import paper
from mux.report.results import Model, Run, Stage
from mux.report.scores import inert
from mux.report.section import Section
from mux.report.sections import budget as budgets
from mux.report.standing import Standing, published, standings
from mux.report.tables import Cell, Table, number, spread, text

BUDGET = "pre-training: steps × groups × tokens"
AVERAGES_SHOWN = ("glue_without_wnli_cola", "token")


def section(runs: Sequence[Run]) -> Section:
    tables = [_runs(runs), budgets.table(runs), _stages(runs)]
    if others := [run for run in runs if _why_apart(run, runs)]:
        tables.append(_others(others, runs))
    return Section("runs", "What was run", _lead(runs), "", tables=tables)


def _lead(runs: Sequence[Run]) -> str:
    states = [run.results.status for run in runs]
    unfinished = [f"{run.label} is {run.results.status}" for run in runs if run.results.status != "finished"]
    counted = f"{len(runs)} runs" if len(runs) > 1 else "One run"
    all_done = ", all finished" if len(runs) > 1 else ", finished"
    return f"{counted}{all_done if states.count('finished') == len(states) else ': ' + '; '.join(unfinished)}."


def _runs(runs: Sequence[Run]) -> Table:
    asked = paper().protocol["pretraining"]
    rows = []
    for run in runs:
        model = run.model
        rows.append([text(run.label, note=inert(str(run.path))), text(run.results.status), text(described(model)),
                     number(model.N), number(None if model.parameters is None else model.parameters / 1e6, 1),
                     text("published" if model.compat else "ours"), text(budget(run)), text(run.device or "not said"),
                     text(run.began), text(run.ended)])
    return Table("runs", "Runs", ["run", "status", "model", "N", "million parameters", "numerics",
                                  BUDGET, "devices", "began (UTC)", "last event"], rows,
                 note=f"The paper pre-trained for {asked['steps']:,} steps of {asked['batch']} groups of "
                      f"{asked['sequence_length']} tokens ({asked['where']}), on 8 A100.")


def described(model: Model) -> str:
    """`MUX-BERT BASE, gaussian + rsa`."""
    if model.family == "hub":
        return model.source or "an encoder of transformers"
    name = f"{'MUX-' if model.N > 1 else ''}{model.family.upper()} {model.size or ''}".strip()
    parts = [part for part in (model.multiplexer, model.demultiplexer) if part] if model.N > 1 else []
    return ", ".join(filter(None, (name, " + ".join(parts))))


def budget(run: Run) -> str:
    """Steps × groups × tokens of every pre-training stage that is done."""
    parts = []
    for stage in run.stages(*budgets.TRAINING):
        if stage.steps is not None:
            plan = run.planned(stage.id)
            factors = [f"{stage.steps:,}", *(str(size) for size in (plan.batch, plan.sequence_length) if size)]
            parts.append(f"{stage.id} {' × '.join(factors)}")
    if parts:
        return ", ".join(parts)
    return "by the paper's authors" if published(run) else "elsewhere" if run.model.family == "hub" else "none"


def _stages(runs: Sequence[Run]) -> Table:
    rows = [[text(run.label), text(stage.id), text(stage.kind), text(stage.status),
             number(stage.seconds), number(stage.steps), number(stage.loss, 3),
             number(None if stage.accuracy is None else 100 * stage.accuracy, 1), text(_chosen(stage))]
            for run in runs for stage in run.results.stages]
    return Table("stages", "Stages", ["run", "stage", "kind", "status", "seconds", "steps", "loss", "accuracy %",
                                      "chosen on"], rows, folded=True,
                 note="Loss and accuracy of retrieval and pre-training: of the tokens asked for, in held-out rows.")


def _chosen(stage: Stage) -> str:
    """The rows that the best points of a search were chosen on."""
    return ", ".join(dict.fromkeys(scores.chosen.on for scores in stage.tasks.values() if scores.chosen.on))


def _why_apart(run: Run, runs: Sequence[Run]) -> str:
    """Why the run's scores are in no table of the paper; empty if some are there."""
    why = "the paper has no such model"
    for model in paper().models.values():
        order = standings(model, runs)
        for standing in (standing for standing in order if standing.run is run):
            why = standing.why_not or _shadowed(standing, order)
            if not why:
                return ""
    return why


def _shadowed(standing: Standing, order: Sequence[Standing]) -> str:
    """Why none of the scores that may stand there does; empty if one does."""
    first = [next(other.run for other in order if task in other.tuned) for task in standing.tuned]
    if standing.run in first:
        return ""
    return f"{first[0].label} has its place" if first else "; ".join(standing.lacks.values()) or "nothing is fine-tuned"


def _others(others: Sequence[Run], runs: Sequence[Run]) -> Table:
    names = [name for name in AVERAGES_SHOWN if any(measured(name, "mean", run.tuned) for run in others)]
    names += list(dict.fromkeys(task for run in others for task in run.tuned))
    rows: list[list[Cell]] = []
    for run in others:
        found = [measured(name, "mean", run.tuned) for name in names]
        rows.append([text(run.label), text(described(run.model)), number(run.model.N), text(budget(run)),
                     *(spread(None if one is None else one.value / 100,
                              None if one is None or one.std is None else one.std / 100) for one in found),
                     text(_why_apart(run, runs))])
    return Table("other_runs", "Our other runs, not comparable with the paper",
                 ["run", "model", "N", BUDGET, *map(title, names), "why apart"], rows,
                 note="In percent, mean ± standard deviation over tickets.")
