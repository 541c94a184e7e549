"""Evaluating a fine-tuned model over tickets: compositions of the test rows into groups, drawn by seeds.

R rows of a batch, L positions, A answers that rows ask for (one a row, or one a word), C classes, T tickets.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from mux.data.compositions import COMPOSITIONS, Rows
from mux.data.diagnostics import Predictions, diagnostics
from mux.data.encoding import NOT_ASKED, Encoded, encode
from mux.data.grouping import Composition
from mux.data.metrics import MISSING, majority, score
from mux.data.tasks import Examples, Task, load_task
from mux.event import Evaluated
from mux.model.muxed import placed
from mux.recipe import FinetuneStage, TaskDefinition
from mux.run import read_json, write_json
from mux.stages.context import Context
from mux.stages.predictions import SUFFIX, write_predictions
from mux.stages.sources import definition_of, source_folder

BATCH_GROUPS = 64


@dataclass(frozen=True)
class Part:
    """Rows that are scored together: the test rows, or others that are reported beside them."""

    examples: Examples
    encoded: Encoded

    @cached_property
    def rows(self) -> Rows:
        """As strategies of composition look at them."""
        examples = self.examples
        texts = [text if isinstance(text, str) else " ".join(text) for text in examples.texts]
        if examples.pairs:
            texts = [f"{first} {second}" for first, second in zip(texts, examples.pairs, strict=True)]
        return Rows(self.encoded.lengths, texts)


@dataclass(frozen=True)
class Ticket:
    """What the model answered under one composition."""

    answers: np.ndarray  # [A] class numbers (MISSING: a word that was cut away), or numbers
    confidence: np.ndarray  # float32 [A], NaN where there is none
    slots: np.ndarray  # int16 [A], 1 .. N; 0: several copies
    padding: float  # share of the groups' tokens, each row being as long as the longest of its group
    seconds: float  # of forward passes


@dataclass(frozen=True)
class Evaluation:
    """Rows of a task and what they are scored by."""

    definition: TaskDefinition
    names: tuple[str, ...]  # of the classes; none: numbers
    parts: Mapping[str, Part]  # the first one's scores stand on top, the others' under "also"
    train: Examples  # for the majority class

    def over_tickets(self, model: nn.Module, N: int, tickets: int, copies: int, device: torch.device,
                     progress: Callable[[int, int, str], None], composition: str = "random",
                     record: Path | None = None) -> dict[str, Any]:
        """Scores over `tickets` compositions of each part, every instance `copies` times: an entry of results.json.

        All rows count once whatever N is, and words that a cut row has lost count as wrong. The "max" over tickets is
        the paper's best ticket (Table 6), chosen by the very labels it is scored on: an upper end, which nobody has who
        does not know the labels. `progress` is called as (tickets done, tickets, unit); every prediction is written to
        `record`, if given.
        """
        model.eval()
        warm_up(model, next(iter(self.parts.values())), N, device)
        different = 1 if N == 1 else tickets  # a row by itself is answered alike in every composition
        total, made, scores = different * len(self.parts), {}, {}
        for number, (name, part) in enumerate(self.parts.items()):
            drawn = []
            for seed in range(different):
                progress(number * different + seed, total, "tickets")
                drawn.append(self.ticket(model, part, COMPOSITIONS[composition](part.rows, N, seed, copies), device))
            drawn += drawn[:1] * (tickets - different)
            made[name] = self.predictions(part, drawn, N)
            scores[name] = self.scores(part, drawn)
        progress(total, total, "tickets")
        if record:
            write_predictions(record, made)
        first, *others = self.parts
        also = {name: scores[name] for name in others}
        return scores[first] | {"words": self.parts[first].examples.of_words, "also": also,
                                "diagnostics": diagnostics(made[first])}

    def scores(self, part: Part, drawn: Sequence[Ticket]) -> dict[str, Any]:
        """A part's scores by all metrics, and what always naming its most frequent class would reach."""
        first, *others = (self.definition.metric, *self.definition.others)
        by = {name: [score(name, ticket.answers, part.examples, self.names) for ticket in drawn]
              for name in (first, *others)}
        return {
            "metric": first, **summary(by[first]), "tickets": by[first],
            "majority": majority(first, self.train, part.examples, self.names),
            "others": {name: summary(by[name]) for name in others},
            "test_rows": len(part.examples),
            "instances_per_second": statistics.median(len(part.examples) / ticket.seconds for ticket in drawn),
            "padding": statistics.fmean(ticket.padding for ticket in drawn),
        }

    def predictions(self, part: Part, drawn: Sequence[Ticket], N: int) -> Predictions:
        return Predictions(
            names=self.names, N=N, labels=part.examples.labels, rows=part.examples.rows,
            of_words=part.examples.of_words, answers=np.stack([ticket.answers for ticket in drawn]),
            confidence=np.stack([ticket.confidence for ticket in drawn]),
            slots=np.stack([ticket.slots for ticket in drawn]))

    def ticket(self, model: nn.Module, part: Part, composition: Composition, device: torch.device) -> Ticket:
        sums_AC, copies_A, seconds = forward(model, part, composition, device)
        seen_A = copies_A > 0
        places = np.arange(composition.rows)
        slots = np.zeros(len(part.examples), dtype=np.int16)
        if composition.copies == 1:
            slots[composition.groups.ravel()[places]] = places % composition.groups.shape[1] + 1
        logits_AC = sums_AC / np.maximum(copies_A, 1)[:, None]
        if not self.names:
            answers, confidence = logits_AC[:, 0], np.full(len(logits_AC), np.nan)
        else:
            answers = np.where(seen_A, logits_AC.argmax(-1), MISSING)
            confidence = np.where(seen_A, softmax(logits_AC, axis=-1).max(-1), np.nan)
        return Ticket(answers, confidence.astype(np.float32), slots[part.examples.rows],
                      padding(part.encoded, composition), seconds)


@torch.no_grad()
def forward(model: nn.Module, part: Part, composition: Composition, device: torch.device,
            progress: Callable[[int, int, str], None] = lambda *_: None) -> tuple[np.ndarray, np.ndarray, float]:
    """Logits summed over copies [A, C], the number of copies that answered [A], and the seconds of forward passes."""
    answers = len(part.examples.labels)
    sums_AC: np.ndarray | None = None
    copies_A, seconds = np.zeros(answers, dtype=np.int64), 0.0
    # Groups of one length together: a batch is as long as its longest row, and no group's answers depend on the others.
    by_length = np.argsort(part.encoded.lengths[composition.groups].max(axis=1, initial=0), kind="stable")
    for first in range(0, len(by_length), BATCH_GROUPS):
        progress(first, len(by_length), "groups")
        groups = by_length[first : first + BATCH_GROUPS]
        rows, counted = composition.groups[groups].ravel(), composition.counted[groups].ravel()
        batch = fed(model, part, rows, device)
        started = time.perf_counter()
        logits = model(**batch).logits.float().cpu().numpy()  # [R, C], of words [R, L, C]
        seconds += time.perf_counter() - started
        asked = part.encoded.asked(rows, batch["input_ids"].shape[1])[counted]
        wanted = asked != NOT_ASKED
        sums_AC = np.zeros((answers, logits.shape[-1]), dtype=np.float32) if sums_AC is None else sums_AC
        np.add.at(sums_AC, asked[wanted], logits[counted][wanted])
        np.add.at(copies_A, asked[wanted], 1)
    assert sums_AC is not None
    return sums_AC, copies_A, seconds


@torch.no_grad()
def warm_up(model: nn.Module, part: Part, N: int, device: torch.device) -> None:
    """One batch that is not timed: the first one of a process or of a shape is slower than the others."""
    rows = np.arange(min(BATCH_GROUPS * N, len(part.examples)))
    model(**fed(model, part, rows, device))


def fed(model: nn.Module, part: Part, rows: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
    arrays = part.encoded.batch(rows)
    return placed(model, {name: torch.from_numpy(array) for name, array in arrays.items()}, device)


def padding(encoded: Encoded, composition: Composition) -> float:
    """The share of padding among a composition's tokens, its rows being as long as the longest of their group."""
    lengths_GN = encoded.lengths[composition.groups]
    longest_G = np.full(len(lengths_GN), encoded.pad_to) if encoded.pad_to else lengths_GN.max(axis=1)
    return 1 - float(lengths_GN.sum() / (longest_G.sum() * lengths_GN.shape[1]))


def summary(scores: list[float]) -> dict[str, float]:
    """Mean, standard deviation over tickets (of the sample), extremes."""
    return {"mean": statistics.fmean(scores), "std": statistics.stdev(scores) if len(scores) > 1 else 0.0,
            "max": max(scores), "min": min(scores)}


# --- of the tasks of a run ---------------------------------------------------------------------------------------
def open_task(context: Context, name: str, stage_id: str, dev: bool = False) -> Task:
    """A task of the recipe or a known one, with the rows that the run began with; with its `dev` rows, if asked."""
    task = load_task(name, definition_of(context, name), dev)
    context.same_data(f"task {name}", task.content_hash)
    if task.left_out:
        context.remark(stage_id, f"task {name}: {len(task.left_out)} lines without a value for each column are left "
                                 f"out, the first is {task.left_out[0]}")
    return task


def encoded(context: Context, examples: Examples, stage: FinetuneStage) -> Encoded:
    """Rows as the recipe's model reads them."""
    encoder = context.encoder
    return encode(examples, context.tokenizer, stage.sequence_length, segments=encoder.takes_segments,
                  pad=encoder.pads)


def evaluation_of(context: Context, task: Task, stage: FinetuneStage,
                  parts: Mapping[str, Examples] | None = None) -> Evaluation:
    """Of the task's test rows and its further ones, or of the rows given."""
    parts = {"test": task.test, **task.also} if parts is None else parts
    return Evaluation(task.definition, task.labels,
                      {name: Part(rows, encoded(context, rows, stage)) for name, rows in parts.items()}, task.train)


@dataclass(frozen=True)
class Variant:
    """One way of composing the groups of all tasks of a stage."""

    file: str  # what its files in a task's folder are called
    copies: int = 1
    composition: str = "random"


def evaluate_tasks(context: Context, stage_id: str, tickets: int, variants: Mapping[str, Variant]) -> dict[str, Any]:
    """{variant: {"tasks": {task: scores}}} of every model of the fine-tuning stage that this stage's source names.

    What an earlier start of the run has evaluated is not evaluated again.
    """
    source = context.plan.stage(stage_id).source
    tuned = next(stage for stage in context.recipe.stages if stage.id == source)
    assert source is not None and isinstance(tuned, FinetuneStage)
    kept = {(task, key): context.run.stage(stage_id) / task / f"{variant.file}.json"
            for task in tuned.tasks for key, variant in variants.items()}
    for task in tuned.tasks:
        left = {variant: kept[task, key] for key, variant in variants.items() if not kept[task, key].exists()}
        if left:
            evaluate_task(context, stage_id, tuned, task, tickets, left)
    return {key: {"tasks": {task: read_json(kept[task, key]) for task in tuned.tasks}} for key in variants}


def evaluate_task(context: Context, stage_id: str, tuned: FinetuneStage, name: str, tickets: int,
                  variants: Mapping[Variant, Path]) -> None:
    """Evaluate the task's model in each variant, and write its scores to the path that goes with it."""
    task = open_task(context, name, stage_id)
    model = context.encoder.tuned(tuned, task, source_folder(context, tuned.id, name))
    nn.Module.to(model, context.ranks.device)
    evaluation = evaluation_of(context, task, tuned)
    for variant, path in variants.items():
        record = path.with_suffix(SUFFIX)
        scores = evaluation.over_tickets(
            model, context.recipe.model.N, tickets, variant.copies, context.ranks.device,
            functools.partial(context.progress, f"evaluating {name}, {variant.file}"),
            variant.composition, record)
        write_json(path, scores | {"predictions": str(record.relative_to(context.run.path))})
        context.say(Evaluated(stage=stage_id, task=name, metric=scores["metric"], mean=scores["mean"],
                              std=scores["std"], majority=scores["majority"], copies=variant.copies,
                              composition=variant.composition))
