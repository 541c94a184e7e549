"""Where a stage's model comes from: another stage, another run, a folder, the hub."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from mux.hub.fetch import local_folder
from mux.recipe import TaskDefinition, tasks
from mux.run import pretrained_model, read_json

if TYPE_CHECKING:
    from mux.stages.context import Context

SAFE = "*.safetensors"
WEIGHTS = (SAFE, "*.bin")
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
    return context.models[source]


def from_outside(context: Context, source: str) -> Path:
    """Found by the first rank while the others wait, or fetched to where they see it; its failure is one of all."""
    outcome: Path | Exception | None = None
    if context.ranks.first:
        try:
            outcome = folder = (newest_model(Path(source.removeprefix("run:"))) if source.startswith("run:")
                                else local_folder(source, context.run.cache))
            context.same_data(f"model {source}", weights_hash(folder))
        except Exception as problem:  # whatever it is: the others would wait for a first rank that is gone
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
    if not any((run / model).glob(SAFE)):
        raise ValueError(f"{run / model} has no {SAFE}, and of a run nothing else is read")
    return run / model


def definition_of(context: Context, task: str) -> TaskDefinition:
    """The recipe's own, or the one that goes by this name."""
    return tasks.definition_of(task, context.recipe.tasks)


def weights_hash(folder: Path) -> str:
    """sha256, in hex, of all files with weights."""
    content = hashlib.sha256()
    for path in sorted(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        with open(path, "rb") as file:
            content.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return content.hexdigest()
