"""Which of our runs may stand beside which model of the paper: task by task, and if not, why not.

What counts is how the model that was fine-tuned came to be: the chain of `source`s in the plan, from the fine-tuning
stage back to new weights or to a model from outside. Other stages of the run say nothing about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mux.report.paper import PaperModel, paper
from mux.report.results import Run, Stage, Timed
from mux.report.scores import Scores

ENDED = ("finished", "partial")  # partial: all stages that --stages asked for
LENGTH_WITH_PREFIX = 500  # of 512 positions a prefix takes up to 10
PUBLISHED = "princeton:"


@dataclass(frozen=True)
class Descent:
    """What a model was before it was fine-tuned."""

    stages: tuple[Stage, ...]  # of the run that trained it, the last one first
    outside: str | None  # the model from outside that the first of them, or else the fine-tuning, started from

    @property
    def published(self) -> bool:
        """Whether it is a model of the paper's authors."""
        return not self.stages and (self.outside or "").startswith(PUBLISHED)


@dataclass(frozen=True)
class Tuned:
    stage: str  # the fine-tuning stage
    scores: Scores


@dataclass(frozen=True)
class Standing:
    """How a run relates to a model of the paper: the scores that may stand beside it, and why others may not."""

    run: Run
    tuned: dict[str, Tuned]  # by task
    lacks: dict[str, str]  # why the scores of further tasks may not
    why_not: str  # why none may, whatever the task; else empty


def descent(run: Run, finetune: str) -> Descent:
    by_id, stages = {stage.id: stage for stage in run.results.stages}, list[Stage]()
    planned = run.planned(finetune)
    while planned.source in by_id and by_id[planned.source] not in stages:
        stages.append(by_id[planned.source])
        planned = run.planned(planned.source)
    return Descent(tuple(stages), planned.source)


def published(run: Run) -> bool:
    """Whether it fine-tunes a model of the paper's authors."""
    return any(descent(run, stage.id).published for stage in run.stages("finetune"))


def standings(model: PaperModel, runs: Sequence[Run]) -> list[Standing]:
    """The runs that train this model, those that may stand beside the paper's first."""
    found = [standing for run in runs if (standing := _standing(run, model))]
    return sorted(found, key=lambda standing: bool(standing.why_not))


def _standing(run: Run, model: PaperModel) -> Standing | None:
    stages = [stage for stage in run.stages("finetune") if trains(run, stage, model)]
    if not stages:
        return None
    reasons = {stage.id: why_not(run, stage, model) for stage in stages}
    tuned: dict[str, Tuned] = {}
    lacks: dict[str, str] = {}
    for stage in stages:
        for task, scores in ({} if reasons[stage.id] else stage.tasks).items():
            if reason := unlike(run, stage, task, model):
                lacks[task] = reason
            else:
                tuned[task] = Tuned(stage.id, scores)
    return Standing(run, tuned, {task: reason for task, reason in lacks.items() if task not in tuned},
                    next(iter(reasons.values())) if all(reasons.values()) else "")


def trains(run: Run, finetune: Stage, model: PaperModel) -> bool:
    """Whether this stage fine-tunes this model, whatever the budget."""
    own = run.model
    if not model.same_network(own.family, own.source, own.size, own.N, own.multiplexer, own.demultiplexer):
        return False
    if model.family == "hub":
        return True
    past = descent(run, finetune.id)
    pretraining = next((stage for stage in past.stages if stage.kind == "pretrain"), None)
    if bool(pretraining or past.outside) != model.pretrained:
        return False
    return ((pretraining and pretraining.retrieval_rate) or 0.0) == model.retrieval_rate


def why_not(run: Run, finetune: Stage, model: PaperModel) -> str:
    """Why none of the stage's scores is comparable with the paper's; empty if they may be."""
    if run.results.status not in ENDED:
        return f"the run is {run.results.status}"
    if not run.plan.stages:
        return "plan.json, which says what was fine-tuned, is missing"
    past = descent(run, finetune.id)
    if past.published or (model.family == "hub" and past == Descent((), run.model.source)):
        return ""
    if past.outside:
        return f"its weights are from {past.outside}"
    kinds = tuple(stage.kind for stage in past.stages)
    if kinds != model.stages:
        return f"trained by {_named(kinds)}, the paper's by {_named(model.stages)}"
    return _shorter(run, past.stages[0], "pretraining" if model.pretrained else "retrieval_alone")


def _named(kinds: Sequence[str]) -> str:
    return " and ".join(reversed(kinds)) or "nothing"


def _shorter(run: Run, stage: Stage, protocol: str) -> str:
    """In what the training fell short of the paper's."""
    asked, planned = paper().protocol[protocol], run.planned(stage.id)
    steps, batch, length = stage.steps or 0, planned.batch or 0, planned.sequence_length or 0
    if steps < asked["steps"]:
        return f"trained for {steps:,} of {asked['steps']:,} steps"
    if batch < asked["batch"]:
        return f"trained with {batch} of {asked['batch']} groups a step"
    if length < LENGTH_WITH_PREFIX:
        return f"trained on rows of {length} of {asked['sequence_length']} tokens"
    return ""


def unlike(run: Run, finetune: Stage, task: str, model: PaperModel) -> str:
    """Why the stage's scores on this task are not comparable; empty if they are."""
    asked, planned, scores = paper().protocol["finetuning"], run.planned(finetune.id), finetune.tasks[task]
    steps, length = asked["steps"].get(task, 0), planned.sequence_length or 0
    if (scores.steps or 0) < steps:
        return f"{task} fine-tuned for {scores.steps or 0:,} of {steps:,} steps"
    if length < asked["sequence_length"]:
        return f"{task} in rows of {length} of {asked['sequence_length']} tokens"
    few = few_tickets(scores, model)
    return f"{task} {few}" if few else ""


def few_tickets(scores: Scores, model: PaperModel) -> str:
    """Whether compositions were too few for the paper's statistics; at N = 1 there is nothing to compose."""
    asked = paper().protocol["finetuning"]["tickets"]
    return f"on {len(scores.tickets)} of {asked} tickets" if model.N > 1 and len(scores.tickets) < asked else ""


def timing(model: PaperModel, runs: Sequence[Run]) -> Timed | None:
    """The row that times this model as the paper does, from any of the runs: speed does not depend on training."""
    asked = paper().protocol["throughput"]
    for row in (row for run in runs for stage in run.stages("throughput") for row in stage.rows):
        if (model.same_network(row.family, row.source, row.size, row.N, row.multiplexer, row.demultiplexer)
                and (row.head, row.batches_of, row.mode) == ("sequence", "instances", "eager")
                and row.sequence_length == asked["sequence_length"] and row.ratio_to_bert_base is not None
                and asked["batch"] <= (row.batch or 0) < asked["batch"] + row.N
                and (row.trials or 0) >= asked["trials"] and (row.batches or 0) >= asked["batches"]):
            return row
    return None
