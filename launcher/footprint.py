"""What the stages of a run take: parameters, memory per device, disk. The formulas are `launcher.memory`'s."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, lcm
from pathlib import Path
from typing import Any

from launcher import memory
from mux.plan import StagePlan
from mux.recipe import (
    FinetuneStage,
    PretrainStage,
    Recipe,
    Refusal,
    RetrievalStage,
    TrainingStage,
    definition_of,
    files,
)
from mux.recipe.lines import PACKED

UNPACKED = 4  # English text is about so many times as large as its .gz or .xz


def parameters(recipe: Recipe) -> memory.Parameters | None:
    """Of the pre-training model; None for an encoder of family "hub" that is not in a folder here."""
    model = recipe.model
    if model.family == "hub":
        scheme, _, place = (model.source or "").partition(":")
        return memory.of_folder(Path(place)) if scheme == "path" else None
    return memory.pretraining(model, recipe.tokenizer.vocabulary)


def memory_rows(recipe: Recipe, plans: Sequence[StagePlan]) -> list[dict[str, Any]]:
    """`memory.rows` of each training stage, under "stage" its id; none of an encoder whose shape is its own."""
    model, engine, vocabulary = recipe.model, recipe.engine, recipe.tokenizer.vocabulary
    if model.family == "hub":
        return []
    table: list[dict[str, Any]] = []
    for stage, plan in zip(recipe.stages, plans, strict=True):
        if not isinstance(stage, TrainingStage) or plan.sequence_length is None:
            continue
        micro_batch = max((point.micro_batch or 1 for point in plan.points), default=plan.micro_batch or 1)
        length, finetunes = plan.sequence_length, isinstance(stage, FinetuneStage)
        demultiplexed, decoded = _read_states(recipe, stage, length)
        kept = memory.activations(
            model, engine, vocabulary, micro_batch=micro_batch, demultiplexed=demultiplexed, decoded=decoded,
            positions=model.positions(length, pretraining=not finetunes))
        rows = memory.rows(memory.pretraining(model, vocabulary), engine, plan.devices, kept)
        table += [{"stage": stage.id} | row for row in rows]
    return table


def _read_states(recipe: Recipe, stage: TrainingStage, length: int) -> tuple[float, float]:
    """States of a group that are (demultiplexed, decoded into logits of the vocabulary) in a training step."""
    N, retrieved = recipe.model.N, float(length)
    if isinstance(stage, RetrievalStage):
        return retrieved, retrieved
    assert isinstance(stage, PretrainStage | FinetuneStage)
    if not stage.retrieval_rate:
        retrieved = 0
    if isinstance(stage, FinetuneStage):
        words = any(definition_of(task, recipe.tasks).tokens for task in stage.tasks)
        return N * (length if words else 1) + retrieved, retrieved
    if recipe.model.family == "electra":
        return N * length + retrieved, retrieved
    masked = N * length * stage.mask_rate
    return masked + retrieved, masked + retrieved


def disk(recipe: Recipe, plans: Sequence[StagePlan], devices: int) -> dict[str, int]:
    """Bytes that each stage, and the token store, may come to need at once.

    A training keeps its last checkpoints, those of `keep_every` and its model, and a new checkpoint is whole before an
    old one goes; fine-tuning trains each task with each seed at each point, one on each of the cluster's `devices` at
    a time, and keeps the checkpoints of the unfinished ones alone; all their models stay until the tasks' are chosen.
    The token store of texts on the hub is unknown and left out, and so is an encoder that is there.
    """
    size = parameters(recipe)
    needs: dict[str, int] = {}
    for stage, plan in zip(recipe.stages, plans, strict=True):
        if not isinstance(stage, TrainingStage) or size is None:
            continue
        longest = max(plan.task_steps.values(), default=plan.steps or 0)
        for_ever = longest // lcm(stage.save_every, stage.keep_every) if stage.keep_every else 0
        kept = min(stage.keep_checkpoints + for_ever, ceil(longest / stage.save_every))
        at_once = min(len(plan.trainings), devices) or 1
        models = (max(1, len(plan.task_steps)) + len(plan.trainings)) * memory.model_folder(size)
        needs[f"stage {stage.id}"] = at_once * (kept + 1) * memory.checkpoint(size, recipe.engine) + models
    if any(isinstance(stage, RetrievalStage | PretrainStage) for stage in recipe.stages):
        here = [source for source in recipe.corpus.sources if not source.startswith("hub:")]
        what = "token store" if here == list(recipe.corpus.sources) else "token store, without hub: texts"
        needs[what] = memory.token_store(sum(map(_text_bytes, here)), recipe.tokenizer.vocabulary)
    return needs


def _text_bytes(source: str) -> int:
    """Size of a corpus source on this disk, unpacked; 0 if it is not here, which preflight reports."""
    try:
        return sum(path.stat().st_size * (UNPACKED if path.suffix in PACKED else 1) for path in files.expand(source))
    except (Refusal, OSError):
        return 0
