"""What was run: models, budgets beside the paper's, devices, dates, states."""

from __future__ import annotations

from collections.abc import Sequence

from mux.report.paper import paper
from mux.report.results import Model, Run, Stage
from mux.report.scores import inert
from mux.report.section import Section
from mux.report.sections import budget
from mux.report.standing import Standing, standings
from mux.report.tables import Table, number, text


def section(runs: Sequence[Run]) -> Section:
    tables = [_runs(runs), budget.table(runs), _stages(runs)]
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
    rows = []
    for run in runs:
        model = run.model
        rows.append([text(run.label, note=inert(str(run.path))), text(run.results.status), text(described(model)),
                     number(model.N), number(None if model.parameters is None else model.parameters / 1e6, 1),
                     text("published" if model.compat else "ours"), text(run.began)])
    return Table("runs", "Runs", ["run", "status", "model", "N", "million parameters", "numerics",
                                  "began (UTC)"], rows)


def described(model: Model) -> str:
    """`MUX-BERT BASE, gaussian + rsa`."""
    if model.family == "hub":
        return model.source or "an encoder of transformers"
    name = f"{'MUX-' if model.N > 1 else ''}{model.family.upper()} {model.size or ''}".strip()
    parts = [part for part in (model.multiplexer, model.demultiplexer) if part] if model.N > 1 else []
    return ", ".join(filter(None, (name, " + ".join(parts))))


def _stages(runs: Sequence[Run]) -> Table:
    rows = [[text(run.label), text(stage.id), text(stage.kind), text(stage.status),
             number(stage.seconds), number(stage.steps), text(_chosen(stage))]
            for run in runs for stage in run.results.stages]
    return Table("stages", "Stages", ["run", "stage", "kind", "status", "seconds", "steps", "chosen on"], rows,
                 folded=True)


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
    rows = [[text(run.label), text(described(run.model)), text(_why_apart(run, runs))] for run in others]
    return Table("other_runs", "Our other runs, not comparable with the paper", ["run", "model", "why apart"], rows)
