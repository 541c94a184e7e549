"""Model folders: what a stage leaves behind and the next one starts from, readable by the Auto classes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mux.data.tasks import Task
from mux.model import MuxConfig, MuxForPreTraining, MuxForSequenceClassification
from mux.recipe import ModelSection
from mux.run import pretrained_model, read_json, write_json
from mux.stages.context import Context
from mux.train.engine import Engine

CARD = """---
library_name: transformers
tags: [data-multiplexing, mux-plm]
---
# {name}

A multiplexed BERT encoder: it reads N = {N} texts in one forward pass. Made by stage `{stage}` of the run `{run}`.

```python
import mux.model
from transformers import {auto}
model = {auto}.from_pretrained("{folder}")
```

Rows are grouped N by N in the order given, so **a prediction depends on the other texts of its group**. The last group
is filled with the first rows of the batch. Send batches that are multiples of N.
"""

AUTO_CLASSES: dict[type, str] = {
    MuxForPreTraining: "AutoModelForPreTraining",
    MuxForSequenceClassification: "AutoModelForSequenceClassification",
}


def config_of(section: ModelSection, tokenizer: PreTrainedTokenizerFast, **fields: Any) -> MuxConfig:
    """The model's configuration as the recipe's [model] and the real tokenizer say."""
    shape = section.shape
    return MuxConfig(
        family=section.family, num_instances=section.N, multiplexer=section.multiplexer,
        demultiplexer=section.demultiplexer, demultiplexer_layers=section.demultiplexer_layers,
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, hidden_size=shape.hidden,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, intermediate_size=shape.intermediate,
        hidden_dropout_prob=section.dropout, attention_probs_dropout_prob=section.attention_dropout,
        max_position_embeddings=section.max_positions, **fields)


def task_config(context: Context, task: Task) -> MuxConfig:
    """The recipe's model with a head for the task: its classes by name, or one output for a regression."""
    if not task.labels:
        return config_of(context.recipe.model, context.tokenizer, num_labels=1, problem_type="regression")
    names = dict(enumerate(task.labels))
    return config_of(context.recipe.model, context.tokenizer, id2label=names,
                     label2id={name: index for index, name in names.items()})


def source_folder(context: Context, source: str, task: str | None = None) -> Path:
    """The model folder that a plan's `source` names: a stage id, "run:PATH" or "path:DIR"."""
    if source.startswith("path:"):
        return Path(source.removeprefix("path:"))
    if source.startswith("run:"):
        return newest_model(Path(source.removeprefix("run:")))
    result = read_json(context.run.stage_result(source))
    if result is None:
        raise ValueError(f"stage {source} has not finished, so there is no model to start from")
    model = result["tasks"][task]["model"] if task else result["model"]
    return context.run.path / model


def newest_model(run: Path) -> Path:
    """The model of the last stage of a finished run that pre-trained one."""
    model = pretrained_model(read_json(run / "results.json") or {})
    if model is None:
        raise ValueError(f"{run} has no pre-trained model yet: its results.json names none")
    return run / model


NEW = ("classifier.", "pooler.")  # what a task adds to a pre-trained model

Model = TypeVar("Model", MuxForPreTraining, MuxForSequenceClassification)


def load_model(kind: type[Model], folder: Path, config: MuxConfig) -> Model:
    """The weights of `folder` in a model of `config`. Raises ValueError if they are of another shape."""
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"{folder} is not a model folder: it has no config.json")
    stored = json.loads(path.read_text())
    for key in ("num_instances", "vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size",
                "num_attention_heads", "demultiplexer_layers", "max_position_embeddings"):
        if stored.get(key) != getattr(config, key):
            raise ValueError(f"{folder} has {key} = {stored.get(key)}, this recipe asks for {getattr(config, key)}")
    loaded: Any = kind.from_pretrained(folder, config=config, output_loading_info=True)
    model, info = loaded
    if missing := sorted(name for name in info["missing_keys"] if not name.startswith(NEW)):
        raise ValueError(f"{folder} lacks {len(missing)} weights of this model, {missing[0]} among them")
    return model


def save_model(context: Context, engine: Engine, folder: Path, stage_id: str, home: Path) -> None:
    """Write the engine's weights to `folder`; all ranks must call it. `home` is where the folder will stay."""
    weights = engine.whole_weights()
    if context.ranks.first:
        model = engine.model
        assert isinstance(model, PreTrainedModel)
        card = CARD.format(name=context.plan.name, N=model.config.num_instances, stage=stage_id, run=context.plan.name,
                           folder=home, auto=AUTO_CLASSES[type(model)])
        write_folder(folder, model, weights, context.tokenizer, card)
    context.ranks.barrier()


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
