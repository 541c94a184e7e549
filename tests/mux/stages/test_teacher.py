"""What a teacher says of the train rows, and which runs cannot teach."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mux.data.tasks import load_task
from mux.model import MuxConfig, MuxForSequenceClassification
from mux.recipe import FinetuneStage
from mux.recipe.tasks import TASKS
from mux.run import write_json
from mux.stages import task_training
from mux.stages.context import Context
from mux.stages.encoders import classes
from mux.stages.teacher import teacher_logits

ROWS = 23
SILENT: Any = SimpleNamespace(progress=lambda *words: None)


@pytest.fixture(scope="module")
def topic():
    return load_task("topic", TASKS["topic"])


@pytest.fixture
def taught(tmp_path, small_tokenizer, topic):
    """taught(N, **config): a run with a model of the task, and a stage that it teaches."""
    def taught(N: int, **fields) -> FinetuneStage:
        torch.manual_seed(0)
        config = MuxConfig(num_instances=N, vocab_size=len(small_tokenizer), hidden_size=32, num_hidden_layers=1,
                           num_attention_heads=2, intermediate_size=32, max_position_embeddings=40,
                           pad_token_id=small_tokenizer.pad_token_id, **classes(topic) | fields)
        folder = tmp_path / "teacher" / "finetune" / "model"
        MuxForSequenceClassification(config).eval().save_pretrained(folder)
        small_tokenizer.save_pretrained(folder)
        write_json(tmp_path / "teacher" / "results.json", {"stages": [
            {"id": "finetune", "kind": "finetune", "status": "done", "tasks": {"topic": {"model": "finetune/model"}}}]})
        return FinetuneStage.model_validate({"kind": "finetune", "id": "finetune", "tasks": ["topic"],
                                             "sequence_length": 24, "teacher": f"run:{tmp_path / 'teacher'}"})

    return taught


@pytest.mark.parametrize("N", [1, 3])
def test_each_row_has_the_logits_of_the_teachers_own_forward_pass(context, taught, topic, N):
    made, stage = context(), taught(N)
    made.voice = SILENT
    train = topic.train.select(np.arange(ROWS))
    logits_AC = teacher_logits(made, stage, topic, train)
    assert logits_AC.shape == (ROWS, len(topic.labels)) and logits_AC.dtype == np.float32
    if N > 1:
        return  # which rows share a group is the composition's
    folder = made.run.path.parent / "teacher" / "finetune" / "model"
    model = MuxForSequenceClassification.from_pretrained(folder).eval()
    for row in (0, ROWS - 1):
        fed = made.tokenizer(train.texts[row], truncation=True, max_length=24, return_tensors="pt")
        with torch.no_grad():
            alone = model(fed["input_ids"], fed["attention_mask"]).logits[0]
        assert logits_AC[row] == pytest.approx(alone.numpy(), abs=1e-5)


def test_the_training_reads_them_beside_the_labels(context, taught, topic):
    made, stage = context(), taught(1)
    made.voice = SILENT
    made.plan = SimpleNamespace(stage=lambda name: SimpleNamespace(points=(None,)))
    material = task_training.material_of(made, stage, "topic")
    batches = task_training.TaskBatches(material.train, "key", 2, 0, task_training.Share(0, 1, 4, 4),
                                        teacher_AC=material.teacher_AC)
    [batch] = batches(0)
    rows = [int(np.flatnonzero((material.teacher_AC == row).all(1))[0]) for row in batch["teacher_logits"].numpy()]
    assert [topic.train.labels[row] for row in rows] == batch["labels"].tolist()
    assert set(task_training.objective_of(stage, topic).weights) == {"task", "teacher"}


def refused(context: Context, stage: FinetuneStage, topic, match: str) -> None:
    context.voice = SILENT
    with pytest.raises(ValueError, match=match):
        teacher_logits(context, stage, topic, topic.train.select(np.arange(4)))


def test_a_run_without_such_a_model_cannot_teach(context, taught, topic, tmp_path):
    stage = taught(1)
    write_json(tmp_path / "teacher" / "results.json", {"stages": []})
    refused(context(), stage, topic, "teacher has no model of the task topic")


def test_a_teacher_of_other_classes_is_refused(context, taught, topic):
    names = {"id2label": {0: "yes", 1: "no"}, "label2id": {"yes": 0, "no": 1}}
    refused(context(), taught(1, **names), topic, "answers yes, no; topic asks for")


def test_a_teacher_with_another_tokenizer_is_refused(context, taught, topic, tmp_path):
    stage, made = taught(1), context()
    made.tokenizer = made.tokenizer.from_pretrained(tmp_path / "teacher" / "finetune" / "model")
    made.tokenizer.add_tokens(["unheard"])
    refused(made, stage, topic, "another tokenizer")
