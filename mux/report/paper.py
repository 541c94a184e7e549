"""The paper's numbers (paper.json), and which of our runs may stand beside which of its models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mux.report.results import Run, Timed

DATA = Path(__file__).with_name("paper.json")
ENDED = ("finished", "partial")  # partial: all stages that --stages asked for
LENGTH_WITH_PREFIX = 500  # of 512 positions a prefix takes up to 10


class Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Source(Facts):
    title: str
    authors: str
    identifier: str
    note: str


class Column(Facts):
    """`task` is a task or an average; `copies` = "N": every text in all slots."""

    label: str
    task: str | None = None
    statistic: Literal["mean", "max", "min", "range", "gain", "ratio"]
    copies: Literal["N"] | None = None
    decimals: int | None = None  # else the table's


class Row(Facts):
    keys: list[str | int | float]
    model: str
    values: list[float | list[float] | None]  # two: mean and standard deviation


class PaperTable(Facts):
    title: str
    decimals: int
    keys: list[str]
    columns: list[Column]
    rows: list[Row]


class PaperModel(Facts):
    """A model of the paper; `pretrained` false: the retrieval stage is all that comes before fine-tuning (T-MUX)."""

    name: str
    family: str
    source: str | None = None
    size: str | None = None
    N: int
    multiplexer: str | None = None
    demultiplexer: str | None = None
    retrieval_rate: float = 0.0
    pretrained: bool = True
    recipe: str | None

    def same_network(self, family: str | None, source: str | None, size: str | None, N: int, multiplexer: str | None,
                     demultiplexer: str | None) -> bool:
        """Whether a model is built like this one; at N = 1 nothing is multiplexed."""
        if self.family == "hub":
            return family == "hub" and (source or "").split("@")[0] == self.source
        if (family, size, N) != (self.family, self.size, self.N):
            return False
        return N == 1 or (multiplexer, demultiplexer) == (self.multiplexer, self.demultiplexer)


class Paper(Facts):
    source: Source
    protocol: dict[str, dict[str, Any]]
    instances_per_second: dict[str, Any]
    models: dict[str, PaperModel]
    tables: dict[str, PaperTable]


@cache
def paper() -> Paper:
    return Paper.model_validate_json(DATA.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Standing:
    """How a run relates to a model of the paper: `why_not` empty means that its numbers may stand beside it."""

    run: Run
    why_not: str


def standings(model: PaperModel, runs: Sequence[Run]) -> list[Standing]:
    """The runs that train this model, those that may stand beside the paper's first."""
    found = [Standing(run, why_not(run, model)) for run in runs if trains(run, model)]
    return sorted(found, key=lambda standing: bool(standing.why_not))


def trains(run: Run, model: PaperModel) -> bool:
    """Whether the run trains this model, whatever the budget."""
    own = run.model
    if not model.same_network(own.family, own.source, own.size, own.N, own.multiplexer, own.demultiplexer):
        return False
    if model.family == "hub":
        return True
    pretraining = run.stages("pretrain")
    if bool(pretraining or published(run)) != model.pretrained:
        return False
    return not pretraining or (pretraining[-1].retrieval_rate or 0.0) == model.retrieval_rate


def published(run: Run) -> bool:
    """Whether it starts from a model of the paper's authors."""
    return any(str(run.planned(stage.id).get("source", "")).startswith("princeton:") for stage in run.results.stages)


def why_not(run: Run, model: PaperModel) -> str:
    """Why the run's scores are not comparable with the paper's; empty if they are."""
    if run.results.status not in ENDED:
        return f"the run is {run.results.status}"
    if model.family == "hub" or published(run):
        return ""
    asked = paper().protocol["pretraining" if model.pretrained else "retrieval_alone"]
    stages = run.stages("pretrain" if model.pretrained else "retrieval")
    if not stages or stages[-1].steps is None:
        return "no pre-training of its own that is done"
    steps, plan = stages[-1].steps, run.planned(stages[-1].id)
    if steps < asked["steps"]:
        return f"trained for {steps:,} of {asked['steps']:,} steps"
    if plan.get("batch", asked["batch"]) < asked["batch"]:
        return f"trained with {plan['batch']} of {asked['batch']} groups a step"
    if plan.get("sequence_length", asked["sequence_length"]) < LENGTH_WITH_PREFIX:
        return f"trained on rows of {plan['sequence_length']} of {asked['sequence_length']} tokens"
    return ""


def few_steps(run: Run, task: str) -> str:
    """Why the run's scores on a task are not comparable; empty if they are."""
    asked = paper().protocol["finetuning"]["steps"].get(task, 0)
    steps = run.tuned[task].steps
    return f"{task} fine-tuned for {steps or 0:,} of {asked:,} steps" if (steps or 0) < asked else ""


def timing(model: PaperModel, runs: Sequence[Run]) -> Timed | None:
    """The row that times this model as the paper does, from any of the runs: speed does not depend on training."""
    asked = paper().protocol["throughput"]
    for run in runs:
        for row in (row for stage in run.stages("throughput") for row in stage.rows):
            if (model.same_network(row.family, row.source, row.size, row.N, row.multiplexer, row.demultiplexer)
                    and (row.head, row.batches_of, row.mode) == ("sequence", "instances", "eager")
                    and row.sequence_length == asked["sequence_length"] and row.ratio_to_bert_base is not None
                    and asked["batch"] <= (row.batch or 0) < asked["batch"] + row.N):
                return row
    return None
