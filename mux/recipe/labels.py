"""How the labels of rows are spelt: one rule for the check before a run and for the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def label_of(value: Any) -> str | None:
    """One spelling for 1, 1.0 and "1", so that jsonl and tsv files of one task agree; None: it is no label."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None if isinstance(value, str | int | float) else None


def numbers_of(names: Sequence[str]) -> dict[str, int]:
    """How rows may spell the classes that a task names -> their numbers: names, and numbers where no name is one."""
    by_name = {name: number for number, name in enumerate(names)}
    spelt_as_numbers = any(name.isdigit() for name in names)
    return by_name if spelt_as_numbers else by_name | {str(number): number for number in by_name.values()}
