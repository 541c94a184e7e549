"""Model folders: what a stage leaves behind and the next one starts from, readable by the Auto classes."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mux.hub.card import model_card
from mux.model.pipelines import attends_padding
from mux.recipe import FinetuneStage, Recipe
from mux.run import write_json
from mux.stages.context import Context
from mux.train.engine import Engine


def save_model(context: Context, engine: Engine, folder: Path, stage_id: str, home: Path,
               sources: Sequence[str]) -> None:
    """Write the engine's weights to `folder`; all ranks must call it.

    `home` is where the folder will stay, `sources` where its training texts came from.
    """
    weights = engine.whole_weights()
    if context.ranks.first:
        assert isinstance(engine.model, PreTrainedModel)
        made_by = f"stage `{stage_id}` of the run `{context.plan.name}`"
        write_model(context, engine.model, weights, folder, stage_id, home, made_by, sources)
    context.ranks.barrier()


def write_model(context: Context, model: PreTrainedModel, weights: dict[str, Tensor], folder: Path, stage_id: str,
                home: Path, made_by: str, sources: Sequence[str]) -> None:
    """Write a stage's model with these weights to `folder`, whole or not at all.

    Its tokenizer cuts texts to the length of the stage's rows: positions behind it are untrained. A model that attends
    to padding says how long its rows were in config.json, too: it has to be fed as long ones ever after.
    """
    length = row_length(context.recipe, stage_id)
    context.tokenizer.model_max_length = length
    if attends_padding(model.config):
        model.config.update({"padded_length": length})
    card = model_card(model.config, name=context.plan.name, folder=str(home), auto_class=auto_class(model),
                      made_by=made_by, sources=sources)
    write_folder(folder, model, weights, context.tokenizer, card)


def row_length(recipe: Recipe, stage_id: str) -> int:
    """Tokens of a row of the stage: of its own, or of the corpus."""
    stage = next(stage for stage in recipe.stages if stage.id == stage_id)
    return stage.sequence_length if isinstance(stage, FinetuneStage) else recipe.corpus.sequence_length


def auto_class(model: PreTrainedModel) -> str:
    """The Auto class that loads it: transformers names all heads alike."""
    found = re.search(r"For(PreTraining|SequenceClassification|TokenClassification)$", type(model).__name__)
    assert found is not None, type(model)
    return f"AutoModel{found[0]}"


def write_folder(folder: Path, model: PreTrainedModel, weights: dict[str, Tensor],
                 tokenizer: PreTrainedTokenizerFast, card: str) -> None:
    """Write the folder whole or not at all: beside its place first, then renamed."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    model.save_pretrained(part, state_dict=weights)
    # The weights are the fp32 masters, whatever precision the module was trained in.
    config = json.loads((part / "config.json").read_text())
    write_json(part / "config.json", config | {"dtype": "float32"})
    tokenizer.save_pretrained(part)
    (part / "README.md").write_text(card)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(part, folder)
