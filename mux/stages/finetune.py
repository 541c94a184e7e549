"""Fine-tuning: every task with every seed at every point of the search grid; the best point's model is kept.

Each of these trainings takes one device and has a result file of its own, so an interrupted stage goes on with those
that are left, and jobs on several devices share them out (`mux.plan.JobPlan.trainings`).
"""

from __future__ import annotations

import shutil
import statistics
import time
from typing import Any

from mux.event import Evaluated, ModelSaved
from mux.plan import Point
from mux.recipe import FinetuneStage, definition_of
from mux.recipe.averages import averages
from mux.run import read_json
from mux.stages import task_training
from mux.stages.context import Context
from mux.stages.micro_batch import Workload


def run(context: Context, stage: FinetuneStage) -> None:
    """Run the trainings that this job is for; if it is for the whole stage, choose the best of each task then."""
    plan = context.plan.stage(stage.id)
    context.start(plan, plan.steps)
    mine = [training for training in plan.trainings if not context.trainings or training.name in context.trainings]
    for task in dict.fromkeys(training.task for training in mine):
        left = [training for training in mine if training.task == task
                and not context.run.training_result(stage.id, training.name).exists()]
        if left:
            material = task_training.material_of(context, stage, task)
            for training in left:
                task_training.run(context, stage, training, material)
    if context.trainings:
        return
    tasks = {task: choose(context, stage, task) for task in stage.tasks}
    alone = {"model": next(iter(tasks.values()))["model"]} if len(tasks) == 1 else {}
    # Seconds of devices: its trainings may have run at the same time, and in starts of long ago.
    seconds = sum(read_json(context.run.training_result(stage.id, training.name))["seconds"] for training in mine)
    result = {"tasks": tasks, "averages": averages(tasks)} | alone
    context.finish(stage.id, result, time.monotonic() - seconds)


def workload(context: Context, stage: FinetuneStage) -> Workload:
    """Of the task with the most answers: one that asks about words, if there is any."""
    of_words = (task for task in stage.tasks if definition_of(task, context.recipe.tasks).tokens)
    return task_training.workload(context, stage, next(of_words, stage.tasks[0]))


def choose(context: Context, stage: FinetuneStage, task: str) -> dict[str, Any]:
    """Keep the model of the point that is best on the rows to choose on, in the mean over seeds; the task's result."""
    plan = context.plan.stage(stage.id)
    results = {training: read_json(context.run.training_result(stage.id, training.name))
               for training in plan.trainings if training.task == task}
    means = {point: statistics.fmean(result["choice"]["mean"] for training, result in results.items()
                                     if training.point == point) for point in plan.points}
    chosen = max(plan.points, key=means.__getitem__)  # the first of equals
    of_seeds = {training.seed: result for training, result in results.items() if training.point == chosen}
    best = of_seeds[stage.seeds[0]]  # the first seed's model is the one that is kept and reported
    model = keep_model(context, stage, task, chosen)
    scores = best["scores"]
    context.say(Evaluated(stage=stage.id, task=task, metric=scores["metric"], mean=scores["mean"], std=scores["std"],
                          majority=scores["majority"]))
    return scores | best["about"] | {
        "model": model,
        "seeds": {str(seed): of_seeds[seed]["scores"]["mean"] for seed in stage.seeds},
        "chosen": described(chosen) | {"on": best["choice"]["on"]},
        "search": [described(point) | {"mean": means[point]} for point in plan.points],
    }


def described(point: Point) -> dict[str, Any]:
    return {"learning_rate": point.learning_rate, "batch": point.batch}


def keep_model(context: Context, stage: FinetuneStage, task: str, point: Point) -> str:
    """Put the chosen point's model where the task's model belongs, and let the others go; its path inside the run."""
    trainings = [training for training in context.plan.stage(stage.id).trainings if training.task == task]
    first = next(training for training in trainings
                 if training.point == point and training.seed == stage.seeds[0])
    chosen, kept = context.run.training(stage.id, first.name) / "model", task_training.kept_model(context, stage, task)
    if chosen.exists():  # else an earlier start has put it there
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        chosen.rename(kept)
    for training in trainings:
        shutil.rmtree(context.run.training(stage.id, training.name), ignore_errors=True)
    context.say(ModelSaved(stage=stage.id, path=str(kept), task=task))
    return str(kept.relative_to(context.run.path))
