"""Evaluating a fine-tuned model over tickets: compositions of the test rows into groups, drawn by seeds.

R rows of a batch, L positions, A answers that the test rows ask for (one a row, or one a word), C classes.
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

from mux.data.encoding import NOT_ASKED, Encoded, encode
from mux.data.grouping import Composition, compose
from mux.data.metrics import METRICS, MISSING, WORD_METRICS, majority
from mux.data.tasks import Examples, Task, load_task
from mux.event import Evaluated
from mux.recipe import FinetuneStage, TaskDefinition
from mux.stages.context import Context
from mux.stages.sources import definition_of, source_folder

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

        `progress` is called as (tickets done, tickets, unit). Words that a cut row has lost count as wrong.
        """
        model.eval()
        measures = WORD_METRICS if self.definition.tokens else METRICS
        names = (self.definition.metric, *self.definition.others)
        scores: dict[str, list[float]] = {name: [] for name in names}
        rates = []
        for ticket in range(tickets):
            progress(ticket, tickets, "tickets")
            composition = compose(len(self.test), N, seed=ticket, copies=copies)
            predictions, seconds = self._predictions(model, composition, device)
            rates.append(len(self.test) / seconds)
            for name in names:
                scores[name].append(float(measures[name](predictions, self.test.labels)))
        progress(tickets, tickets, "tickets")
        first, *others = names
        return {
            "metric": first, **summary(scores[first]), "tickets": scores[first],
            "majority": None if self.definition.regression
            else majority(measures[first], self.train.labels, self.test.labels),
            "others": {name: summary(scores[name]) for name in others},
            "instances_per_second": statistics.median(rates),
            "test_rows": len(self.test),
        }

    def _predictions(self, model: nn.Module, composition: Composition,
                     device: torch.device) -> tuple[np.ndarray, float]:
        """Predictions [A] by logits averaged over copies, and the seconds that the forward passes took."""
        answers = len(self.test.labels)
        sums_AC: np.ndarray | None = None
        copies_A, seconds = np.zeros(answers, dtype=np.int64), 0.0
        for first in range(0, len(composition.groups), BATCH_GROUPS):
            groups = slice(first, first + BATCH_GROUPS)
            rows, counted = composition.groups[groups].ravel(), composition.counted[groups].ravel()
            batch = {name: torch.from_numpy(array).to(device) for name, array in self.encoded.batch(rows).items()}
            started = time.perf_counter()
            logits = model(**batch).logits.float().cpu().numpy()  # [R, C], of words [R, L, C]
            seconds += time.perf_counter() - started
            asked = self.encoded.asked(rows, batch["input_ids"].shape[1])[counted]
            wanted = asked != NOT_ASKED
            sums_AC = np.zeros((answers, logits.shape[-1]), dtype=np.float32) if sums_AC is None else sums_AC
            np.add.at(sums_AC, asked[wanted], logits[counted][wanted])
            np.add.at(copies_A, asked[wanted], 1)
        assert sums_AC is not None
        if self.definition.regression:
            return sums_AC[:, 0] / copies_A, seconds
        return np.where(copies_A > 0, sums_AC.argmax(-1), MISSING), seconds


def open_task(context: Context, name: str) -> Task:
    """A task of the recipe or a known one, with the rows that the run began with."""
    task = load_task(name, definition_of(context, name))
    context.same_data(f"task {name}", task.content_hash)
    return task


def encoded(context: Context, examples: Examples, stage: FinetuneStage) -> Encoded:
    """Rows as the recipe's model reads them."""
    encoder = context.encoder
    return encode(examples, context.tokenizer, stage.sequence_length, segments=encoder.takes_segments,
                  pad=encoder.pads)


def evaluation_of(context: Context, task: Task, stage: FinetuneStage) -> Evaluation:
    return Evaluation(task.definition, task.test, encoded(context, task.test, stage), task.train)


def evaluate_tasks(context: Context, stage_id: str, tickets: int, copies: int) -> dict[str, Any]:
    """The scores of every model of the fine-tuning stage that this stage's source names, by task."""
    source = context.plan.stage(stage_id).source
    tuned = next(stage for stage in context.recipe.stages if stage.id == source)
    assert source is not None and isinstance(tuned, FinetuneStage)
    scores = {}
    for name in tuned.tasks:
        task = open_task(context, name)
        model = context.encoder.tuned(tuned, task, source_folder(context, source, name))
        nn.Module.to(model, context.ranks.device)
        what = f"evaluating {name}, {copies} {'copy' if copies == 1 else 'copies'}"
        scores[name] = evaluation_of(context, task, tuned).over_tickets(
            model, context.recipe.model.N, tickets, copies, context.ranks.device,
            functools.partial(context.progress, what))
        context.say(Evaluated(stage=stage_id, task=name, metric=scores[name]["metric"], mean=scores[name]["mean"],
                              std=scores[name]["std"], majority=scores[name]["majority"], copies=copies))
    return scores


def summary(scores: list[float]) -> dict[str, float]:
    """Mean, standard deviation over tickets (of the sample), extremes."""
    return {"mean": statistics.fmean(scores), "std": statistics.stdev(scores) if len(scores) > 1 else 0.0,
            "max": max(scores), "min": min(scores)}
