"""What the stages that train have in common: which checkpoints are theirs, going on from one, saving memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from mux.event import Notice
from mux.manifest import Identity, folder_name, must_be_converted, resized
from mux.stages.context import Context
from mux.stages.conversion import load_resized
from mux.train.checkpoint import Checkpoints
from mux.train.engine import Engine
from mux.train.health import Limits
from mux.train.loop import Position
from mux.train.profile import Profile, Table


def identity(context: Context, training: str) -> Identity:
    """What a checkpoint of this run must agree with to be gone on from."""
    engine = context.recipe.engine
    return Identity(recipe_digest=context.plan.recipe_digest, stage=training, world_size=context.ranks.size,
                    zero_stage=engine.zero_stage, precision=engine.precision)


def limits(context: Context) -> Limits:
    return Limits(**context.recipe.health.model_dump())


def resume(context: Context, checkpoints: Checkpoints, engine: Engine, stage_id: str) -> Position:
    """Load the newest valid checkpoint, if there is one, whatever number of ranks and ZeRO stage has saved it: where
    the training stands."""
    manifest = checkpoints.newest_valid(
        lambda text: context.say(Notice(text=text, level="warning", stage=stage_id)))
    if manifest is None:
        return Position()
    there, here = manifest.identity, checkpoints.identity
    if must_be_converted(there, here):
        load_resized(context, checkpoints, engine, manifest)
    else:
        engine.load(checkpoints.folder, folder_name(manifest.step))
    if there != here:
        context.say(Notice(text=f"goes on from step {manifest.step}, {resized(there, here)}", stage=stage_id))
    return Position.from_progress(manifest.step, manifest.progress)


def profiling(context: Context, stage_id: str, folder: Path, result: dict[str, Any]) -> Callable[[], Profile] | None:
    """What begins the recording of a few steps, if the recipe asks for it and this is the first rank. The trace goes to
    `folder`, the table to `result`."""
    def done(table: Table, trace: str) -> None:
        result["profile"] = table
        whole = sum(table.values())
        shares = ", ".join(f"{part} {seconds / whole:.0%}" for part, seconds in
                           sorted(table.items(), key=lambda row: -row[1]) if whole and seconds / whole >= 0.01)
        context.say(Notice(text=f"a step takes {whole:.3f} s: {shares}; {trace}",
                           stage=stage_id))

    asked = context.recipe.engine.profile and context.ranks.first
    return partial(Profile, folder, context.ranks.device, done) if asked else None


def save_memory(context: Context, model: PreTrainedModel) -> None:
    """Compute activations again in the backward pass, if the recipe says so. Raises ValueError if the model cannot."""
    if context.recipe.engine.activation_checkpointing:
        model.gradient_checkpointing_enable()
