"""Evaluating a fine-tuned model over tickets: compositions of the test rows into groups, drawn by seeds.

G groups, N slots, C classes.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mux.data.grouping import compose
from mux.data.metrics import METRICS, majority
from mux.data.tasks import Encoded, Examples, Task, encode, load_task
from mux.event import Evaluated
from mux.model import MuxForSequenceClassification
from mux.recipe import TASKS, FinetuneStage, TaskDefinition
from mux.stages.context import Context
from mux.stages.model_folder import load_model, source_folder, task_config

BATCH_GROUPS = 64


@dataclass(frozen=True)
class Evaluation:
    """Test rows and what they are scored by."""

    definition: TaskDefinition
    test: Examples
    encoded: Encoded
    train: Examples  # for the majority class

    @torch.no_grad()
    def over_tickets(self, model: nn.Module, N: int, tickets: int, copies: int, device: torch.device,
                     progress: Callable[[int, int, str], None]) -> dict[str, Any]:
        """Scores over `tickets` compositions with each instance `copies` times: the entry of results.json.

        `progress` is called as (tickets done, tickets, unit).
        """
        model.eval()
        names = (self.definition.metric, *self.definition.others)
        scores: dict[str, list[float]] = {name: [] for name in names}
        rates = []
        for ticket in range(tickets):
            progress(ticket, tickets, "tickets")
            logits_RC, seconds = self._logits(model, N, ticket, copies, device)
            rates.append(len(self.test.labels) / seconds)
            predictions = logits_RC[:, 0] if self.definition.regression else logits_RC.argmax(-1)
            for name in names:
                scores[name].append(float(METRICS[name](predictions, self.test.labels)))
        progress(tickets, tickets, "tickets")
        first, *others = names
        return {
            "metric": first, **summary(scores[first]), "tickets": scores[first],
            "majority": None if self.definition.regression
            else majority(first, self.train.labels, self.test.labels),
            "others": {name: summary(scores[name]) for name in others},
            "instances_per_second": statistics.median(rates),
            "test_rows": len(self.test.labels),
        }

    def _logits(self, model: nn.Module, N: int, ticket: int, copies: int,
                device: torch.device) -> tuple[np.ndarray, float]:
        """Logits [test rows, C] averaged over copies, and the seconds that the forward passes took."""
        composition = compose(len(self.test.labels), N, seed=ticket, copies=copies)
        collected, seconds = [], 0.0
        for first in range(0, len(composition.groups), BATCH_GROUPS):
            rows = composition.groups[first : first + BATCH_GROUPS].ravel()
            batch = {name: torch.from_numpy(array).to(device) for name, array in self.encoded.batch(rows).items()}
            started = time.perf_counter()
            collected.append(model(**batch).logits.float().cpu())
            seconds += time.perf_counter() - started
        return composition.average(torch.cat(collected).numpy()), seconds


def open_task(context: Context, name: str) -> Task:
    """A task of the recipe or a known one, with the rows that the run began with."""
    task = load_task(name, context.recipe.tasks.define.get(name) or TASKS[name])
    context.same_data(f"task {name}", task.content_hash)
    return task


def evaluation_of(context: Context, task: Task, sequence_length: int) -> Evaluation:
    encoded = encode(task.test, context.tokenizer, sequence_length)
    return Evaluation(task.definition, task.test, encoded, task.train)


def evaluate_tasks(context: Context, stage_id: str, tickets: int, copies: int) -> dict[str, Any]:
    """The scores of every model of the fine-tuning stage that this stage's source names, by task."""
    source = context.plan.stage(stage_id).source
    tuned = next(stage for stage in context.recipe.stages if stage.id == source)
    assert source is not None and isinstance(tuned, FinetuneStage)
    scores = {}
    for name in tuned.tasks:
        task = open_task(context, name)
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


def summary(scores: list[float]) -> dict[str, float]:
    """Mean, standard deviation over tickets (of the sample), extremes."""
    return {"mean": statistics.fmean(scores), "std": statistics.stdev(scores) if len(scores) > 1 else 0.0,
            "max": max(scores), "min": min(scores)}
