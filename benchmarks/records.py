"""What was measured: a line of JSON each, and the tables made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.protocol import Ratio
from launcher import software


def machine() -> str:
    """The GPU, or the processors, for people."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else software.processors()


@cache
def commit() -> str:
    """Of the project's checkout, short."""
    whole = software.commit()
    return whole[:7] + "+" * whole.endswith("+") if whole else "unknown"


def today() -> str:
    return datetime.now(UTC).date().isoformat()


@dataclass(frozen=True)
class Record:
    """One number beside its goal (reference numbers of the project's plan), and how it came about."""

    benchmark: str  # the module
    what: str  # "BASE, N = 10, sequence classification"
    against: str  # "transformers' BERT (SDPA)"
    value: float
    goal: float | None = None  # None: for scale
    unit: str = "x"
    at_most: bool = False  # whether the goal is an upper bound
    low: float | None = None
    high: float | None = None
    cpu: float | None = None
    conditions: str = ""
    short: bool = False  # measured in the short form
    commit: str = field(default_factory=commit)
    machine: str = field(default_factory=machine)
    date: str = field(default_factory=today)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    @property
    def key(self) -> tuple[str, ...]:
        return self.benchmark, self.what, self.against, self.conditions, self.machine


def record(benchmark: str, what: str, against: str, ratio: Ratio, goal: float | None, conditions: str,
           at_most: bool = False, **more: Any) -> Record:
    """Of a ratio, here and now."""
    return Record(benchmark, what, against, round(ratio.median, 4), goal, at_most=at_most, low=round(ratio.low, 4),
                  high=round(ratio.high, 4), cpu=ratio.cpu and round(ratio.cpu, 4), conditions=conditions, more=more)


def append(path: Path, record: Record) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def read(path: Path) -> list[Record]:
    """The newest record of each key, in the order in which they were first measured."""
    records: dict[tuple[str, ...], Record] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            one = Record(**json.loads(line))
            records[one.key] = one
    return list(records.values())


def rows(records: Iterable[Record]) -> Iterable[tuple[str, ...]]:
    for one in records:
        spread = "" if one.low is None or one.high is None else f"{one.low:.2f} to {one.high:.2f}"
        goal = "" if one.goal is None else f"{'<=' if one.at_most else '>='} {one.goal:g}"
        yield one.what, one.against, f"{one.value:.4g} {one.unit}", spread, goal, verdict(one), one.conditions


def verdict(one: Record) -> str:
    if not one.goal:
        return ""
    return "met" if one.passed else f"missed by {abs(one.value - one.goal) / one.goal:.1%}"


TITLES = ("what", "against", "measured", "quartiles", "goal", "", "conditions")


def table(records: Iterable[Record]) -> Table:
    """For a terminal, which has no room for the conditions."""
    made = Table(box=None, pad_edge=False)
    for title in TITLES[:-1]:
        made.add_column(title)
    for row in rows(records):
        made.add_row(*row[:-1])
    return made


def markdown(records: Iterable[Record]) -> str:
    """For a page: a table per benchmark, machine and day."""
    parts: dict[tuple[str, str, str], list[Record]] = {}
    for one in records:
        parts.setdefault((one.benchmark, one.machine, one.date), []).append(one)
    text = []
    for (benchmark, where, date), of_it in parts.items():
        commits = ", ".join(dict.fromkeys(one.commit for one in of_it))
        text += [f"### {benchmark}", "", f"{where}, {date}, commit {commits}", "",
                 "| " + " | ".join(TITLES) + " |", "|" + "---|" * len(TITLES)]
        text += ["| " + " | ".join(row) + " |" for row in rows(of_it)] + [""]
    return "\n".join(text)
