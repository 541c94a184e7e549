"""A teacher: another run's model of the same task, whose answers a student learns beside the labels.

Each train row is asked for once, before the training; so a teacher at N = 1 costs a forward pass of the train rows.
A answers that rows ask for (one a row, or one a word), C classes.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from mux.data.encoding import encode
from mux.data.grouping import compose
from mux.data.tasks import Examples, Task
from mux.model.opening import open_model
from mux.model.pipelines import attends_padding, open_tokenizer
from mux.recipe import FinetuneStage
from mux.recipe.wording import some
from mux.run import fine_tuned_model, read_json
from mux.stages.context import Context
from mux.stages.encoders import AUTO_HEADS, head_of
from mux.stages.evaluation import Part, forward
from mux.stages.sources import weights_hash

SEED = 0  # of the composition of the rows into the teacher's groups


def teacher_logits(context: Context, stage: FinetuneStage, task: Task, train: Examples) -> np.ndarray:
    """float32 [A, C]: what the stage's teacher answers about these rows.

    Raises ValueError if that run has no model of the task, or one of other classes or another tokenizer.
    """
    assert stage.teacher is not None
    folder = teacher_folder(Path(stage.teacher.removeprefix("run:")), task.name)
    context.same_data(f"teacher of {task.name}", weights_hash(folder))
    model = open_teacher(context, folder, task)
    nn.Module.to(model, context.ranks.device)
    segments = "token_type_ids" in inspect.signature(model.forward).parameters
    rows = encode(train, context.tokenizer, stage.sequence_length, segments=segments,
                  pad=attends_padding(model.config))
    composition = compose(len(rows), getattr(model.config, "num_instances", 1), SEED)
    sums_AC, copies_A, _ = forward(model, Part(train, rows), composition, context.ranks.device,
                                   functools.partial(context.progress, f"asking the teacher of {task.name}"))
    # Words that rows are too long for have no answer, and no student is asked for them.
    return sums_AC / np.maximum(copies_A, 1, dtype=np.float32)[:, None]


def teacher_folder(run: Path, task: str) -> Path:
    """The folder of that run's model of the task."""
    model = fine_tuned_model(read_json(run / "results.json") or {}, task)
    if model is None:
        raise ValueError(f"{run} has no model of the task {task}: its results.json names none")
    return run / model


def open_teacher(context: Context, folder: Path, task: Task) -> PreTrainedModel:
    model = open_model(AUTO_HEADS[head_of(task)], folder, dtype=torch.float32, use_safetensors=True)
    theirs = tuple(name for _, name in sorted((model.config.id2label or {}).items()))
    if theirs != (task.labels or theirs[:1]):  # one number has one name, whichever
        raise ValueError(f"the teacher in {folder} answers {some(theirs)}; {task.name} asks for "
                         f"{some(task.labels or ['a number'])}")
    if open_tokenizer(folder, model.config).get_vocab() != context.tokenizer.get_vocab():
        raise ValueError(f"the teacher in {folder} has another tokenizer than this run: it cannot read its rows")
    return model.eval()
