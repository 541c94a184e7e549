"""What a run's models have read, and what that cost: the budget beside the paper's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mux.recipe.wording import short_commit
from mux.report.paper import paper
from mux.report.results import Run
from mux.report.standing import published
from mux.report.tables import Cell, Table, number, text

TRAINING = ("retrieval", "pretrain")
COLUMNS = ["run", "steps: retrieval + pre-training", "texts", "million tokens", "fine-tuning: steps × groups", "seeds",
           "starts", "wall time", "devices", "commit"]


def table(runs: Sequence[Run]) -> Table:
    return Table("budgets", "Budgets", COLUMNS, [*map(_row, runs), _paper()],
                 note="Texts and tokens of retrieval and pre-training in this run. Wall time (h:mm) of all its starts.")


def _row(run: Run) -> list[Cell]:
    steps, texts, tokens = [], 0, 0
    for stage in run.stages(*TRAINING):
        plan = run.planned(stage.id)
        read = (stage.steps or 0) * (plan.batch or 0) * run.model.N
        steps.append(f"{stage.steps or 0:,}")
        texts, tokens = texts + read, tokens + read * (plan.sequence_length or 0)
    tuned = [f"{_range(scores.steps for scores in stage.tasks.values())} × {run.planned(stage.id).batch or '?'}"
             for stage in run.stages("finetune") if stage.tasks]
    seeds = sorted({len(scores.seeds) for scores in run.tuned.values()})
    on_cpu = run.plan.cluster.device in (None, "cpu")
    return [text(run.label), text(" + ".join(steps) or _elsewhere(run)), number(texts),
            number(tokens / 1e6, 1), text(", ".join(dict.fromkeys(tuned))), text(_range(seeds)),
            number(len(run.starts)), text(_duration(run.seconds)),
            text((on_cpu and run.environment.processors) or run.device),
            text(short_commit(run.environment.commit or ""))]


def _elsewhere(run: Run) -> str:
    """Where a model was pre-trained that was not pre-trained here."""
    if published(run):
        return "by the paper's authors"
    if run.model.family == "hub":
        return "elsewhere"
    return next((stage.source for stage in run.plan.stages if stage.source and stage.source.startswith("run:")), "none")


def _paper() -> list[Cell]:
    asked, tuned = paper().protocol["pretraining"], paper().protocol["finetuning"]
    texts = asked["steps"] * asked["batch"]
    return [text("the paper"), text(f"{asked['steps']:,}"), text(f"N × {texts:,}"),
            text(f"N × {texts * asked['sequence_length'] / 1e6:,.1f}"), text(_range(tuned["steps"].values())),
            text("1"), text(""), text(""), text("8 A100"), text("")]


def _range(counts: Iterable[int | None]) -> str:
    """`100 to 400`."""
    known = sorted({count for count in counts if count is not None})
    return " to ".join(f"{count:,}" for count in (known if len(known) < 3 else (known[0], known[-1])))


def _duration(seconds: float | None) -> str:
    """`1:05` hours and minutes."""
    if seconds is None:
        return ""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}:{minutes:02}"
