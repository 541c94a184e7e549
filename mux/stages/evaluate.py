"""Evaluate the fine-tuned models of an earlier stage again: over as many tickets as one likes, and with other
strategies of who shares a group (paper section 6.3).
"""

from __future__ import annotations

import time

from mux.recipe import EvaluateStage
from mux.stages.context import Context
from mux.stages.evaluation import Variant, evaluate_tasks


def run(context: Context, stage: EvaluateStage) -> None:
    started = time.monotonic()
    context.start(context.plan.stage(stage.id))
    variants: dict[str, Variant] = {name: Variant(name, composition=name) for name in stage.compositions}
    compositions = evaluate_tasks(context, stage.id, stage.tickets, variants)
    source = context.plan.stage(stage.id).source
    context.finish(stage.id, {"source": source, "compositions": compositions}, started)
