"""Ensembling with copies: each instance `copies` times, all rows permuted together, logits averaged.

Throughput falls by the number of copies, accuracy rises (paper section 5.4 and appendix D.1).
"""

from __future__ import annotations

import time

from mux.recipe import EnsembleStage
from mux.stages.context import Context
from mux.stages.evaluation import evaluate_tasks


def run(context: Context, stage: EnsembleStage) -> None:
    started = time.monotonic()
    context.start(context.plan.stage(stage.id))
    copies = {str(k): {"tasks": evaluate_tasks(context, stage.id, stage.tickets, k)} for k in stage.copies}
    context.finish(stage.id, {"copies": copies}, started)
