"""Ensembling with copies: each instance `copies` times, all rows permuted together, logits averaged.

Throughput falls by the number of copies, accuracy rises (paper section 5.4 and appendix D.1).
"""

from __future__ import annotations

import functools
import time
from typing import Any

from torch import nn

from mux.data.tasks import load_task
from mux.event import Evaluated
from mux.model import MuxForSequenceClassification
from mux.recipe import EnsembleStage, FinetuneStage
from mux.stages.context import Context
from mux.stages.finetune import definition_of, evaluation_of, task_config
from mux.stages.model_folder import load_model, source_folder


def run(context: Context, stage: EnsembleStage) -> None:
    started = time.monotonic()
    context.start(context.plan.stage(stage.id))
    copies = {str(k): {"tasks": evaluate_tasks(context, stage.id, stage.tickets, k)} for k in stage.copies}
    context.finish(stage.id, {"copies": copies}, started)


def evaluate_tasks(context: Context, stage_id: str, tickets: int, copies: int) -> dict[str, Any]:
    """The scores of every model of the fine-tuning stage that this stage's source names, by task."""
    source = context.plan.stage(stage_id).source
    tuned = next(stage for stage in context.recipe.stages if stage.id == source)
    assert source is not None and isinstance(tuned, FinetuneStage)
    scores = {}
    for name in tuned.tasks:
        task = load_task(name, definition_of(context, name))
        model = load_model(MuxForSequenceClassification, source_folder(context, source, name),
                           task_config(context, task))
        nn.Module.to(model, context.ranks.device)
        what = f"evaluating {name}, {copies} {'copy' if copies == 1 else 'copies'}"
        scores[name] = evaluation_of(context, task, tuned.sequence_length).over_tickets(
            model, context.recipe.model.N, tickets, copies, context.ranks.device,
            functools.partial(context.progress, what))
        context.say(Evaluated(stage=stage_id, task=name, metric=scores[name]["metric"], mean=scores[name]["mean"],
                                std=scores[name]["std"], majority=scores[name]["majority"], copies=copies))
    return scores
