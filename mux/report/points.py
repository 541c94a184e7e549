"""Points of the accuracy/throughput plane: each evaluated model of a run, on each task, at each number of copies.

They come from results.json alone, and say how sure they are:

- accuracy, in the task's own metric: the mean over tickets of the model that is kept, the first seed's. Other seeds
  only widen `accuracy_error`, one standard deviation over tickets and seeds; those of one copy stand for any number of
  copies. The 95 % interval adds the sampling error of the test rows, R of them: of a share p, sqrt(p (1 - p) / R) with
  two successes and two failures added (Agresti and Coull: 20 of 20 is no proof of 1); of a correlation r,
  (1 - r^2) / sqrt(R - 1). F1 counts as a share; rows are counted, not words, since the words of one row fall and stand
  together: cautious for both.
- throughput: the throughput stage's row of this model divided by the copies (appendix C: batches of instances), its
  error the quartiles of the ratio to BERT BASE, round by round. Without such a stage it is the speed of the evaluation
  itself, at the rows' real lengths and without an error: `timed_by` says which.
- latency: one group alone, times the copies, which are in as many groups.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mux.recipe.averages import AVERAGES
from mux.report.results import Model, Results, Stage, Timed
from mux.report.scores import Scores

NORMAL_95 = 1.959964  # standard deviations of the normal distribution on either side


def _share(p: float, rows: int) -> float:
    p = (min(max(p, 0.0), 1.0) * rows + 2) / (rows + 4)
    return math.sqrt(p * (1 - p) / (rows + 4))


def _correlation(r: float, rows: int) -> float:
    return (1 - min(r * r, 1.0)) / math.sqrt(max(rows - 1, 1))


# Metric -> one standard deviation of its value over test sets of so many rows.
SAMPLING_ERRORS: dict[str, Callable[[float, int], float]] = {
    "accuracy": _share, "f1": _share, "entity_f1": _share,
    "matthews": _correlation, "spearman": _correlation, "pearson": _correlation,
}
LOWEST = {"matthews": -1.0, "spearman": -1.0, "pearson": -1.0}  # other metrics: 0


@dataclass(frozen=True)
class Estimate:
    """A model's accuracy: its mean, and its standard deviations over tickets and seeds, and over test rows."""

    mean: float
    error: float
    sampling: float
    lowest: float  # that the metric can be

    @property
    def total_error(self) -> float:
        return math.hypot(self.error, self.sampling)


@dataclass(frozen=True)
class Speed:
    """How fast a model is, `low` and `high` being quartiles; None where it was not measured."""

    instances_per_second: float | None = None
    throughput_low: float | None = None
    throughput_high: float | None = None
    ratio_to_bert_base: float | None = None
    latency_ms: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    device: str = ""  # "cpu, 2 threads"
    dtype: str = ""  # empty: not said
    sequence_length: int | None = None  # None: the rows' own lengths
    timed_by: Literal["throughput", "evaluation"] = "evaluation"


@dataclass(frozen=True)
class Point(Speed):
    """One model of one run at one number of copies, on one task or on an average of tasks."""

    run: str = ""  # its directory
    name: str = ""  # what the run calls itself
    model: str = ""  # "bert BASE, N = 2"
    N: int = 1
    size: str = ""
    copies: int = 1
    stage: str = ""  # the fine-tuning stage that has the model
    task: str = ""  # or the name of an average
    tasks: tuple[str, ...] = ()  # that one, or those of the average, each with a model of its own
    metric: str = ""
    accuracy: float = 0.0
    accuracy_error: float = 0.0  # one standard deviation over tickets and seeds
    total_error: float = 0.0  # ... and over test sets
    accuracy_low: float = 0.0  # 95 %
    accuracy_high: float = 0.0

    @property
    def conditions(self) -> tuple[str, str, int | None, str]:
        """Only points that agree in this are compared, be it by their ratios to BERT BASE."""
        return self.task, self.dtype, self.sequence_length, self.timed_by

    @property
    def comparable(self) -> tuple[object, ...]:
        """Only points that agree in this are compared by their speeds: another device's say nothing."""
        return self.device, *self.conditions


def points(results: Mapping[str, Any], run: str | Path) -> list[Point]:
    """The points of a run, `results` being the content of its results.json and `run` its directory, as people write it.

    Stages that are not done have none, nor has a task without a mean. An average has one wherever all of its tasks
    have. Raises pydantic's ValidationError (a ValueError) for what is not a results.json.
    """
    read = Results.model_validate(results)
    rows = [row for stage in read.stages for row in stage.rows]
    found: list[Point] = []
    for stage, copies, tasks in _evaluated(read):
        measured = {task: scores for task, scores in tasks.items() if scores.mean is not None}
        metrics = {task: {task: scores.metric} for task, scores in measured.items()}
        metrics |= {name: dict(of) for name, of in AVERAGES.items() if set(of) <= set(measured)}
        for name, of in metrics.items():
            scores = [measured[task] for task in of]
            estimates = [estimate(measured[task], metric, stage.tasks.get(task)) for task, metric in of.items()]
            if all(estimates):
                found.append(Point(
                    **vars(_speed(read.model, read.device, rows, scores, copies)),
                    **_interval([one for one in estimates if one]),
                    run=str(run), name=read.name, model=label(read.model), N=read.model.N, size=read.model.size or "",
                    copies=copies, stage=stage.id, task=name, tasks=tuple(of), metric=of.get(name, "average")))
    return found


def label(model: Model) -> str:
    """"bert BASE, N = 2", and what is not the paper's main configuration."""
    variants = [value for value in (model.multiplexer, model.demultiplexer, model.compat)
                if value not in (None, "gaussian", "rsa")]
    return ", ".join([model.source or f"{model.family} {model.size}", f"N = {model.N}", *map(str, variants)])


def estimate(scores: Scores, metric: str, tuned: Scores | None = None) -> Estimate | None:
    """What is known of one task's score, in its own metric or in another that it has; None: nothing.

    `tuned`: the fine-tuning's own scores of the task, which know other seeds.
    """
    measure = scores.measure(metric)
    if measure is None or measure.mean is None:
        return None
    seeds = [mean for mean in tuned.seeds.values() if mean is not None] if tuned and metric == tuned.metric else []
    error = math.hypot(measure.std or 0.0, statistics.stdev(seeds) if len(seeds) > 1 else 0.0)
    sampling = SAMPLING_ERRORS.get(metric, _share)(measure.mean, scores.test_rows or 1)
    return Estimate(measure.mean, error, sampling, LOWEST.get(metric, 0.0))


def _interval(estimates: Sequence[Estimate]) -> dict[str, Any]:
    """The mean of tasks, whose errors are independent of each other; of a single task, that task."""
    mean = statistics.fmean(one.mean for one in estimates)
    error = math.hypot(*(one.error for one in estimates)) / len(estimates)
    total = math.hypot(*(one.total_error for one in estimates)) / len(estimates)
    return {"accuracy": mean, "accuracy_error": error, "total_error": total,
            "accuracy_low": max(mean - NORMAL_95 * total, statistics.fmean(one.lowest for one in estimates)),
            "accuracy_high": min(mean + NORMAL_95 * total, 1.0)}


def _evaluated(results: Results) -> Iterator[tuple[Stage, int, Mapping[str, Scores]]]:
    """(fine-tuning stage, copies, scores by task) of everything that was evaluated.

    An ensemble's single copies are the fine-tuning's own scores again.
    """
    for stage in results.stages:
        if stage.status == "done" and stage.kind == "finetune":
            yield stage, 1, stage.tasks
            yield from ((stage, copies, tasks) for copies, tasks in results.copied(stage.id) if copies > 1)


def _speed(model: Model, device: str, rows: Sequence[Timed], scores: Sequence[Scores], copies: int) -> Speed:
    """By the throughput stage, else by the evaluations themselves: all their rows in all their seconds."""
    head = "token" if any(one.words for one in scores) else "sequence"
    timed, group = (own_row(model, rows, head, batches_of) for batches_of in ("instances", "one_group"))
    latency = copies * group.milliseconds_per_batch if group and group.milliseconds_per_batch else None
    latency_high, latency_low = (latency / share if latency and share else None for share in _quartiles(group))
    if timed is None or timed.instances_per_second is None:
        rates = [(one.test_rows or 0, one.instances_per_second) for one in scores if one.instances_per_second]
        rate = sum(count for count, _ in rates) / sum(count / rate for count, rate in rates) if rates else None
        return Speed(rate, latency_ms=latency, latency_low=latency_low, latency_high=latency_high, device=device)
    rate = timed.instances_per_second / copies
    low, high = (None if share is None else rate * share for share in _quartiles(timed))
    threads = f", {timed.threads} threads" if timed.device == "cpu" and timed.threads else ""
    return Speed(rate, low, high, timed.ratio_to_bert_base and timed.ratio_to_bert_base / copies,
                 latency, latency_low, latency_high, re.sub(r"^cuda:\d+ +", "", timed.device or device) + threads,
                 timed.dtype or "", timed.sequence_length, "throughput")


def own_row(model: Model, rows: Sequence[Timed], head: str, batches_of: str) -> Timed | None:
    """The row of a run's own model; eager where there is a choice, for `mux predict` compiles nothing."""
    keys = ("family", "source", "size", "N", *(("multiplexer", "demultiplexer") if model.N > 1 else ()))
    found = [row for row in rows if (row.head, row.batches_of) == (head, batches_of)
             and all(getattr(row, key) == getattr(model, key) for key in keys)]
    return min(found, key=lambda row: row.mode != "eager", default=None)


def _quartiles(row: Timed | None) -> tuple[float | None, float | None]:
    """The quartiles of the ratio to BERT BASE as shares of it: so far a speed may be below and above, a time the
    other way round."""
    quartiles = row.ratio_to_bert_base_quartiles if row else None
    if row is None or not row.ratio_to_bert_base or not quartiles or len(quartiles) != 2 or None in quartiles:
        return None, None
    low, high = ((quartile or 0.0) / row.ratio_to_bert_base for quartile in quartiles)
    return low, high
