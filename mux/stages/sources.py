"""Where a stage's model comes from: another stage, another run, a folder, the hub."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from mux.hub.fetch import local_folder
from mux.recipe import TASKS, FinetuneStage, TaskDefinition
from mux.run import pretrained_model, read_json

if TYPE_CHECKING:
    from mux.stages.context import Context

WEIGHTS = ("*.safetensors", "*.bin")
OUTSIDE = ("run:", "path:", "hub:", "princeton:")


def source_folder(context: Context, source: str, task: str | None = None) -> Path:
    """The model folder that a plan's `source` names: a stage id (with the model of which task), "run:PATH", "path:DIR",
    "hub:ID[@REVISION]" or "princeton:NAME".

    Raises ValueError if it is not to be had, or is another one than when the run began.
    """
    if not source.startswith(OUTSIDE):
        return own_model(context, source, task)
    if source not in context.models:
        context.models[source] = from_outside(context, source)
        if context.ranks.first:
            context.same_data(f"model {source}", weights_hash(context.models[source]))
    return context.models[source]


def from_outside(context: Context, source: str) -> Path:
    """Found or fetched by the first rank while the others wait; what it could not have is an error on all."""
    outcome: Path | Exception | None = None
    if context.ranks.first:
        try:
            outcome = (newest_model(Path(source.removeprefix("run:"))) if source.startswith("run:")
                       else local_folder(source, context.run.cache))
        except ValueError as problem:
            outcome = problem
    outcome = context.ranks.from_first(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    assert outcome is not None
    return outcome


def own_model(context: Context, stage: str, task: str | None) -> Path:
    """What an earlier stage of this run left."""
    result = read_json(context.run.stage_result(stage))
    if result is None:
        raise ValueError(f"stage {stage} has not finished, so there is no model to start from")
    return context.run.path / (result["tasks"][task]["model"] if task else result["model"])


def newest_model(run: Path) -> Path:
    """The model of the last stage of a finished run that pre-trained one."""
    model = pretrained_model(read_json(run / "results.json") or {})
    if model is None:
        raise ValueError(f"{run} has no pre-trained model yet: its results.json names none")
    return run / model


def definition_of(context: Context, task: str) -> TaskDefinition:
    """The recipe's own, or the one that goes by this name."""
    return context.recipe.tasks.define.get(task) or TASKS[task]


def training_texts(context: Context, source: str | None) -> tuple[str, ...]:
    """What this run has trained the model of a plan's `source` on, as the recipe names it."""
    if source is None or source.startswith(OUTSIDE):
        return ()
    stage = next(stage for stage in context.recipe.stages if stage.id == source)
    if not isinstance(stage, FinetuneStage):
        return context.recipe.corpus.sources
    rows = (definition_of(context, task).train for task in stage.tasks)
    return (*training_texts(context, context.plan.stage(source).source), *rows)


def weights_hash(folder: Path) -> str:
    """sha256, in hex, of all files with weights."""
    content = hashlib.sha256()
    for path in sorted(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        with open(path, "rb") as file:
            content.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return content.hexdigest()
