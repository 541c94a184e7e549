"""What faults cost: one row a fault, written by the tests that inject them and printed at the end of pytest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    fault: str  # the row of the list of faults
    test: str  # which test injected it, with its parameters
    survived: bool
    starts: int  # of jobs, the first included
    steps_lost: int


def steps_lost(events: Iterable[dict]) -> int:
    """Optimizer steps that were done twice, over all trainings of a run that logs every step."""
    last: dict[tuple, int] = {}
    lost = 0
    for event in events:
        if event["event"] == "StepDone":
            training = event["stage"], event["training"]
            lost += max(0, last.get(training, 0) - event["step"] + 1)
            last[training] = event["step"]
    return lost


def table(entries: Iterable[Entry]) -> list[str]:
    """Lines of a table, the sum below."""
    rows = sorted(entries, key=lambda entry: (entry.fault, entry.test))
    wide, wider = (max(len(getattr(row, name)) for row in rows) for name in ("fault", "test"))
    lines = [f"{'fault':{wide}}  {'test':{wider}}  survived  starts  steps lost"]
    for row in rows:
        survived = "yes" if row.survived else "NO"
        lines.append(f"{row.fault:{wide}}  {row.test:{wider}}  {survived:8}  {row.starts:6}  {row.steps_lost:10}")
    return [*lines, f"{len(rows)} faults injected, {sum(row.survived for row in rows)} survived, "
                    f"{sum(row.steps_lost for row in rows)} steps done twice"]
