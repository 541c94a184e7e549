"""Ensembling with copies: each instance `copies` times, all rows permuted together, logits averaged.

Throughput falls by the number of copies, accuracy rises (paper section 5.4 and appendix D.1).
"""

from __future__ import annotations

import time

from mux.recipe import EnsembleStage
from mux.stages.context import Context
from mux.stages.evaluation import Variant, evaluate_tasks


def run(context: Context, stage: EnsembleStage) -> None:
    started = time.monotonic()
    context.start(context.plan.stage(stage.id))
    variants = {str(k): Variant(f"copies{k}", copies=k) for k in stage.copies or range(1, context.recipe.model.N + 1)}
    copies = evaluate_tasks(context, stage.id, stage.tickets, variants)
    context.finish(stage.id, {"source": context.plan.stage(stage.id).source, "copies": copies}, started)
