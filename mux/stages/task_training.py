"""One training of a fine-tuning stage: a task with a seed at a point of the search, on one device."""

from __future__ import annotations

import functools
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from mux.data.batches import Share, TaskBatches
from mux.data.encoding import Encoded
from mux.data.masking import retrieval_slots
from mux.data.tasks import Task
from mux.event import TrainingDone, TrainingStarted
from mux.hub.provenance import training_texts
from mux.model.classification import MuxClassifier
from mux.plan import Point, StagePlan, TrainingPlan
from mux.recipe import FinetuneStage
from mux.run import write_json
from mux.stages.context import Context
from mux.stages.evaluation import Evaluation, encoded, evaluation_of, open_task
from mux.stages.micro_batch import Workload
from mux.stages.model_folder import save_model
from mux.stages.teacher import teacher_logits
from mux.stages.training import identity, limits, profiling, resume, save_memory
from mux.train.checkpoint import Checkpoints
from mux.train.engine import Engine
from mux.train.loop import Position, Training, seed_of, train
from mux.train.objective import CLASSES, NUMBERS, TEACHER_LOGITS, Batch, Objective, weighed
from mux.train.schedule import Schedule


@dataclass(frozen=True)
class Material:
    """A task's rows, encoded: once for all its trainings in this process."""

    task: Task
    train: Encoded
    evaluation: Evaluation  # of the rows that are reported
    choice: Evaluation | None  # of the rows on which the search chooses, if those are others
    choice_on: str | None  # what they are, in words; None: there is no choice
    teacher_AC: np.ndarray | None  # logits for the labels of the train rows; None: nobody teaches


def material_of(context: Context, stage: FinetuneStage, name: str) -> Material:
    task = open_task(context, name, stage.id, dev=stage.search.choose_on == "dev")
    train, others, on = task.train, None, None
    if len(context.plan.stage(stage.id).points) > 1:
        if stage.search.choose_on == "held_out":
            train, others = task.held_out(stage.search.held_out)
            on = f"held-out train rows ({100 * stage.search.held_out:g} %)"
        else:
            others, on = (None, "test rows") if task.dev is None else (task.dev, "dev rows")
    choice = evaluation_of(context, task, stage, {on: others}) if on and others else None
    taught = teacher_logits(context, stage, task, train) if stage.teacher else None
    return Material(task, encoded(context, train, stage), evaluation_of(context, task, stage), choice, on, taught)


def run(context: Context, stage: FinetuneStage, training: TrainingPlan, material: Material) -> None:
    """Train, evaluate, save the model; the training's result file is written last."""
    started, folder = time.monotonic(), context.run.training(stage.id, training.name)
    plan, task, N = context.plan.stage(stage.id), material.task, context.recipe.model.N
    engine = Engine(starting_model(context, stage, task, training.seed, plan.source),
                    deepspeed_config(plan, training.point), weight_decay=stage.weight_decay,
                    betas=stage.adam_betas, epsilon=stage.adam_epsilon)
    checkpoints = Checkpoints(folder / "checkpoints", context.ranks, identity(context, f"{stage.id}/{training.name}"),
                              stage.keep_checkpoints, stage.keep_every)
    again = functools.partial(resume, context, checkpoints, engine, stage.id)
    position = again()
    context.say(TrainingStarted(stage=stage.id, training=training.name, task=task.name, steps=training.steps,
                                from_step=position.step))
    profile: dict[str, Any] = {}
    recorded = profiling(context, stage.id, context.run.stage(stage.id) / "profile" / training.name, profile)
    end = train(replace(values(context, stage, training, material, engine), profile=recorded), engine, context.ranks,
                checkpoints, position, again, context.say, context.stop, context.moved)
    record = context.run.predictions(stage.id, training.name)
    evaluate = functools.partial(_scores, context, stage, engine, N)
    scores = evaluate(material.evaluation, f"evaluating {task.name}", record)
    scores["predictions"] = str(record.relative_to(context.run.path))
    choice = evaluate(material.choice, f"choosing on {material.choice_on}", None) if material.choice else scores
    save_model(context, engine, folder / "model", stage.id, kept_model(context, stage, task.name),
               training_texts(context.plan, stage.id, task.name))
    engine.close()
    seconds = round(time.monotonic() - started, 2)
    write_json(context.run.training_result(stage.id, training.name), {
        "training": training.model_dump(), "scores": scores, "about": about(task, material, training, end) | profile,
        "choice": {"on": material.choice_on, "mean": choice["mean"], "std": choice["std"]}, "seconds": seconds})
    shutil.rmtree(checkpoints.folder)  # a finished training is never gone on with
    context.say(TrainingDone(stage=stage.id, training=training.name, task=task.name, metric=choice["metric"],
                             mean=choice["mean"], std=choice["std"], seconds=seconds))


def workload(context: Context, stage: FinetuneStage, name: str) -> Workload:
    """Of one task, with rows of full length that are of its first class."""
    task, N, length = open_task(context, name, stage.id), context.recipe.model.N, stage.sequence_length
    model = starting_model(context, stage, task, seed=0, source=None)

    def batch(groups: int) -> Batch:
        ids = torch.full((groups * N, length), context.tokenizer.mask_token_id)
        labels = torch.zeros_like(ids) if task.definition.tokens else torch.zeros(len(ids), dtype=(
            torch.float32 if task.definition.regression else torch.int64))
        arrays = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        if stage.retrieval_rate > 0:
            real_BNL = np.ones((groups, N, length), bool)
            real_BNL[..., 0] &= retrieves_first(model)
            arrays["retrieval_slots"] = torch.from_numpy(retrieval_slots(real_BNL, 0, 0, 0))
        if stage.teacher:
            arrays[TEACHER_LOGITS] = torch.zeros(*labels.shape, task.outputs)
        return arrays

    return Workload(model, objective_of(stage, task), batch)


def objective_of(stage: FinetuneStage, task: Task) -> Objective:
    teacher_rate = stage.teacher_rate if stage.teacher else 0.0
    return Objective(weighed(stage.retrieval_rate, teacher_rate=teacher_rate),
                     NUMBERS if task.definition.regression else CLASSES, stage.temperature)


def values(context: Context, stage: FinetuneStage, training: TrainingPlan, material: Material,
           engine: Engine) -> Training:
    """The training as the loop takes it."""
    point, steps, task = training.point, training.steps, material.task
    N, ranks = context.recipe.model.N, context.ranks
    assert point.micro_batch is not None
    batches = TaskBatches(
        material.train, task.content_hash, N, training.seed,
        Share(ranks.rank, ranks.size, point.batch, point.micro_batch), stage.retrieval_rate > 0,
        retrieves_first=retrieves_first(engine.model), teacher_AC=material.teacher_AC)
    return Training(
        stage=stage.id, steps=steps, batches=batches, task=task.name, name=training.name,
        objective=objective_of(stage, task),
        schedule=Schedule(point.learning_rate, round(stage.warmup_fraction * steps), steps),
        groups=point.batch, N=N, seed=training.seed, log_every=stage.log_every, save_every=stage.save_every,
        limits=limits(context))


def about(task: Task, material: Material, training: TrainingPlan, end: Position) -> dict[str, Any]:
    """What the task's entry of results.json says besides its scores."""
    last = end.last
    return {
        "labels": list(task.labels), "train_rows": len(material.train), "left_out_lines": len(task.left_out),
        "steps": training.steps,
        "training_loss": last.loss if last else None, "curve": end.curve.columns(),
        "training_instances_per_second": last.instances_per_second if last else None,
    }


def _scores(context: Context, stage: FinetuneStage, engine: Engine, N: int, evaluation: Evaluation, what: str,
            record: Path | None) -> dict[str, Any]:
    return evaluation.over_tickets(engine.model, N, stage.tickets, 1, context.ranks.device,
                                   functools.partial(context.progress, what), record=record)


def retrieves_first(model: Any) -> bool:
    """Whether a retrieval loss decodes the first token of a row; other encoders have no such loss."""
    return not isinstance(model, MuxClassifier) or model.mux.prepare.retrieves_first


def deepspeed_config(plan: StagePlan, point: Point) -> dict[str, Any]:
    """The stage's DeepSpeed config with the point's batch arithmetic."""
    assert plan.deepspeed is not None
    return plan.deepspeed | {"train_micro_batch_size_per_gpu": point.micro_batch,
                             "gradient_accumulation_steps": point.accumulation}


def starting_model(context: Context, stage: FinetuneStage, task: Task, seed: int,
                   source: str | None) -> PreTrainedModel:
    """The pre-trained weights of the stage's source (none: new ones) below a new head drawn from the seed."""
    torch.manual_seed(seed_of(seed, "head", task.name))
    model = context.encoder.starting(stage, task, source)
    save_memory(context, model)
    return model


def kept_model(context: Context, stage: FinetuneStage, task: str) -> Path:
    """Where the task's model stays."""
    return context.run.model(stage.id, task if len(stage.tasks) > 1 else None)
