"""One number for a column of the paper: a task's or an average's mean or extremes over tickets, in percent."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from mux.recipe.averages import AVERAGES, paper_rounding
from mux.report.scores import Scores, Spread

# The measure that counts on each task, in averages and in the columns of Tables 2 and 9-14.
MEASURES = {task: measure for tasks in AVERAGES.values() for task, measure in tasks.items()}

TITLES = {
    "mnli": "MNLI", "qqp": "QQP", "qnli": "QNLI", "sst2": "SST-2", "cola": "CoLA", "mrpc": "MRPC", "stsb": "STS-B",
    "rte": "RTE", "wnli": "WNLI", "ner": "NER", "pos": "POS", "glue": "GLUE (nine tasks)",
    "glue_without_wnli_cola": "GLUE without WNLI and CoLA", "token": "NER and POS",
}


@dataclass(frozen=True)
class Measured:
    value: float  # percent
    std: float | None = None


def title(task: str) -> str:
    return TITLES.get(task, task)


def tasks_of(name: str) -> tuple[str, ...]:
    """The tasks of an average; a task is its own."""
    return tuple(AVERAGES.get(name, (name,)))


def counted(task: str, scores: Scores | None) -> Spread:
    """The measure that the paper reports of a task; of another task, its own. Empty where it was not taken."""
    return (scores and scores.measure(MEASURES.get(task, scores.metric))) or Spread()


def measured(name: str, statistic: str, tasks: Mapping[str, Scores]) -> Measured | None:
    """The mean over the tasks of `name`, rounded as the paper's; None if one is missing.

    As in the paper an average's best (worst) ticket is the mean of the tasks' best (worst) tickets, and its standard
    deviation the mean of the tasks' (Tables 6 and 10; Table 1 from Table 9).
    """
    of = tasks_of(name)
    spreads = {task: counted(task, tasks.get(task)) for task in of}
    values = {task: getattr(spread, statistic) for task, spread in spreads.items()}
    if None in values.values():
        return None
    value = 100 * values[of[0]]
    if name in AVERAGES:
        columns = {task: {"metric": AVERAGES[name][task], statistic: one} for task, one in values.items()}
        value = paper_rounding(columns, statistic)[name]
    stds = [100 * spread.std for spread in spreads.values() if spread.std is not None]
    std = statistics.fmean(stds) if statistic == "mean" and len(stds) == len(spreads) else None
    return Measured(value, std)
