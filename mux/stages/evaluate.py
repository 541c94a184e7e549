"""Evaluate the fine-tuned models of an earlier stage again, over as many tickets as one likes."""

from __future__ import annotations

import time

from mux.recipe import EvaluateStage
from mux.stages.context import Context
from mux.stages.evaluation import evaluate_tasks


def run(context: Context, stage: EvaluateStage) -> None:
    started = time.monotonic()
    context.start(context.plan.stage(stage.id))
    context.finish(stage.id, {"tasks": evaluate_tasks(context, stage.id, stage.tickets, copies=1)}, started)
