"""Fine-tuning: every task with every seed at every point of the search grid; the best point's model is kept.

A point is finished when its file in `<stage>/<task>/points/` exists, so an interrupted stage goes on with the next one.
"""

from __future__ import annotations

import functools
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from mux.data.batches import Share, TaskBatches
from mux.data.encoding import Encoded
from mux.data.tasks import Task
from mux.event import Evaluated, ModelSaved
from mux.hub.provenance import training_texts
from mux.model.classification import MuxClassifier
from mux.recipe import FinetuneStage
from mux.run import Point, StagePlan, read_json, write_json
from mux.stages.context import Context
from mux.stages.evaluation import Evaluation, encoded, evaluation_of, open_task
from mux.stages.model_folder import save_model
from mux.stages.training import identity, resume, save_memory
from mux.train.checkpoint import Checkpoints
from mux.train.engine import Engine
from mux.train.loop import Training, seed_of, train
from mux.train.objective import CLASSES, NUMBERS, Objective, weighed
from mux.train.schedule import Schedule


def run(context: Context, stage: FinetuneStage) -> None:
    started = time.monotonic()
    context.start(context.plan.stage(stage.id))
    tasks = {name: run_task(context, stage, name) for name in stage.tasks}
    alone = {"model": next(iter(tasks.values()))["model"]} if len(tasks) == 1 else {}
    context.finish(stage.id, {"tasks": tasks} | alone, started)


@dataclass(frozen=True)
class Material:
    """A task with its rows encoded: once for all points and seeds."""

    task: Task
    train: Encoded
    evaluation: Evaluation


def run_task(context: Context, stage: FinetuneStage, name: str) -> dict[str, Any]:
    """Train every point with every seed, and choose the point with the best mean over seeds and tickets."""
    task = open_task(context, name)
    material = Material(task, encoded(context, task.train, stage), evaluation_of(context, task, stage))
    points = context.plan.stage(stage.id).points
    results = {point: [run_point(context, stage, material, point, seed) for seed in stage.seeds] for point in points}
    means = {point: statistics.fmean(result["mean"] for result in results[point]) for point in points}
    chosen = max(points, key=means.__getitem__)  # the first of equals
    best = results[chosen][0]  # the first seed's model is the one that is kept and reported
    model = keep_model(context, stage, name, chosen, stage.seeds[0])
    context.say(Evaluated(stage=stage.id, task=name, metric=best["metric"], mean=best["mean"], std=best["std"],
                            majority=best["majority"]))
    return best | {
        "model": model, "labels": list(task.labels), "train_rows": len(task.train),
        "seeds": {str(seed): result["mean"] for seed, result in zip(stage.seeds, results[chosen], strict=True)},
        "chosen": {"learning_rate": chosen.learning_rate, "batch": chosen.batch, "on": "the test rows"},
        "search": [{"learning_rate": point.learning_rate, "batch": point.batch, "mean": means[point]}
                   for point in points],
    }


def training_name(point: Point, seed: int) -> str:
    return f"seed{seed}_lr{point.learning_rate:g}_batch{point.batch}"


def run_point(context: Context, stage: FinetuneStage, material: Material, point: Point, seed: int) -> dict[str, Any]:
    """Train and evaluate one point with one seed, or read what an earlier start found."""
    task = material.task
    folder, name = context.run.stage(stage.id) / task.name / "points", training_name(point, seed)
    finished = read_json(folder / f"{name}.json")
    if finished is not None:
        return finished
    plan = context.plan.stage(stage.id)
    steps, N = plan.task_steps[task.name], context.recipe.model.N
    engine = Engine(starting_model(context, stage, task, seed), deepspeed_config(plan, point),
                    weight_decay=stage.weight_decay, betas=stage.adam_betas, epsilon=stage.adam_epsilon)
    checkpoints = Checkpoints(folder / name / "checkpoints", context.ranks,
                              identity(context, f"{stage.id}/{task.name}/{name}"), stage.keep_checkpoints)
    position = resume(context, checkpoints, engine, plan, steps)
    batches = TaskBatches(
        material.train, task.content_hash, N, seed,
        Share(context.ranks.rank, context.ranks.size, point.batch, point.micro_batch), stage.retrieval_rate > 0,
        retrieves_first=retrieves_first(engine.model))
    last = train(
        Training(stage=stage.id, steps=steps, batches=batches, task=task.name,
                 objective=Objective(weighed(stage.retrieval_rate), NUMBERS if task.definition.regression else CLASSES),
                 schedule=Schedule(point.learning_rate, round(stage.warmup_fraction * steps), steps),
                 groups=point.batch, N=N, seed=seed, log_every=stage.log_every, save_every=stage.save_every),
        engine, context.ranks, checkpoints, position, context.say, context.stop, context.moved)
    result: dict[str, Any] = {"steps": steps} | material.evaluation.over_tickets(
        engine.model, N, stage.tickets, 1, context.ranks.device,
        functools.partial(context.progress, f"evaluating {task.name}"))
    if last is not None:
        result |= {"training_loss": last.loss, "training_instances_per_second": last.instances_per_second}
    save_model(context, engine, folder / name / "model", stage.id, kept_model(context, stage, task.name),
               training_texts(context.plan, stage.id, task.name))
    engine.close()
    write_json(folder / f"{name}.json", result)
    shutil.rmtree(checkpoints.folder)  # a finished point is never gone on with
    return result


def retrieves_first(model: Any) -> bool:
    """Whether a retrieval loss decodes the first token of a row; other encoders have no such loss."""
    return not isinstance(model, MuxClassifier) or model.mux.prepare.retrieves_first


def deepspeed_config(plan: StagePlan, point: Point) -> dict[str, Any]:
    """The stage's DeepSpeed config with the point's batch arithmetic."""
    assert plan.deepspeed is not None
    return plan.deepspeed | {"train_micro_batch_size_per_gpu": point.micro_batch,
                             "gradient_accumulation_steps": point.accumulation}


def starting_model(context: Context, stage: FinetuneStage, task: Task, seed: int) -> PreTrainedModel:
    """The pre-trained weights of the stage's source (none: new ones) below a new head drawn from the seed."""
    torch.manual_seed(seed_of(seed, "head", task.name))
    model = context.encoder.starting(stage, task, context.plan.stage(stage.id).source)
    save_memory(context, model)
    return model


def kept_model(context: Context, stage: FinetuneStage, task: str) -> Path:
    """Where the task's model stays."""
    return context.run.model(stage.id, task if len(stage.tasks) > 1 else None)


def keep_model(context: Context, stage: FinetuneStage, task: str, point: Point, seed: int) -> str:
    """Put the chosen point's model where the task's model belongs, and let the others go; its path inside the run."""
    points = context.run.stage(stage.id) / task / "points"
    chosen = points / training_name(point, seed) / "model"
    kept = kept_model(context, stage, task)
    if chosen.exists():  # else an earlier start has put it there
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        chosen.rename(kept)
    for folder in points.glob("*/"):
        shutil.rmtree(folder)
    context.say(ModelSaved(stage=stage.id, path=str(kept), task=task))
    return str(kept.relative_to(context.run.path))
