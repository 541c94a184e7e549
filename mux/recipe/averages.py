"""The paper's averages over tasks, and how it rounds them."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

# The measure of each task that counts (Tables 9-14; the token average of Table 1 is of F1 as seqeval has it).
_GLUE = {
    "mnli": "accuracy", "qqp": "accuracy", "qnli": "accuracy", "mrpc": "accuracy", "wnli": "accuracy",
    "stsb": "spearman", "rte": "accuracy", "sst2": "accuracy", "cola": "matthews",
}
AVERAGES: dict[str, dict[str, str]] = {
    "glue": _GLUE,
    "glue_without_wnli_cola": {task: metric for task, metric in _GLUE.items() if task not in ("wnli", "cola")},
    "token": {"ner": "entity_f1", "pos": "entity_f1"},
}


def averages(tasks: Mapping[str, Mapping[str, Any]], statistic: str = "mean") -> dict[str, float]:
    """Of the scores of results.json by task: every average all of whose tasks are there, in 0..1, unrounded.

    `statistic`: "mean", or "max" and "min" over tickets, which the paper takes task by task (Table 10).
    """
    found = {name: [value for task, metric in members.items()
                    if (value := _value(tasks.get(task, {}), metric, statistic)) is not None]
             for name, members in AVERAGES.items()}
    return {name: fmean(values) for name, values in found.items() if len(values) == len(AVERAGES[name])}


def _value(scores: Mapping[str, Any], metric: str, statistic: str) -> float | None:
    """A statistic of a measure, be it the task's own or among its others."""
    own = scores if scores.get("metric") == metric else scores.get("others", {}).get(metric, {})
    return own.get(statistic)


def paper_rounding(tasks: Mapping[str, Mapping[str, Any]], statistic: str = "mean") -> dict[str, float]:
    """The averages as the paper prints them, in percent: of columns that are rounded to two decimals, rounded again.

    All averages of Tables 9-14 follow from their printed columns so. Tables 1 and 3 print them with one decimal.
    """
    columns = {task: {"metric": metric, statistic: round(100 * value, 2)}
               for members in AVERAGES.values() for task, metric in members.items()
               if (value := _value(tasks.get(task, {}), metric, statistic)) is not None}
    return {name: round(value, 2) for name, value in averages(columns, statistic).items()}
