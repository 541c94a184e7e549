"""What the stages that train have in common: which checkpoints are theirs, going on from one, saving memory."""

from __future__ import annotations

from transformers import PreTrainedModel

from mux.event import Notice
from mux.stages.context import Context
from mux.train.checkpoint import Checkpoints, Identity
from mux.train.engine import Engine
from mux.train.loop import Position


def identity(context: Context, training: str) -> Identity:
    """What a checkpoint of this run must agree with to be gone on from."""
    engine = context.recipe.engine
    return Identity(recipe_digest=context.plan.recipe_digest, stage=training, world_size=context.ranks.size,
                    zero_stage=engine.zero_stage, precision=engine.precision)


def resume(context: Context, checkpoints: Checkpoints, engine: Engine, stage_id: str) -> Position:
    """Load the newest valid checkpoint, if there is one: where the training stands."""
    manifest = checkpoints.load(engine, lambda text: context.say(Notice(text=text, level="warning", stage=stage_id)))
    return Position() if manifest is None else Position.from_manifest(manifest)


def save_memory(context: Context, model: PreTrainedModel) -> None:
    """Compute activations again in the backward pass, if the recipe says so. Raises ValueError if the model cannot."""
    if context.recipe.engine.activation_checkpointing:
        model.gradient_checkpointing_enable()
