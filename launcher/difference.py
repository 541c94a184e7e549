"""`mux runs diff`: in what two runs differ, as rows of a table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mux.plan import Plan
from mux.recipe import differences
from mux.recipe.digest import leaves
from mux.recipe.wording import dotted

Row = tuple[str, str, str]
NONE = "–"
PASSING = "time"  # of an environment: differs between any two runs
_HASH = re.compile(r"([0-9a-f]{12})[0-9a-f]{28,}(\+?)")  # more digits tell the eye nothing, and + is a changed tree


def of_recipes(first: Plan, second: Plan) -> list[Row]:
    """Keys of the resolved recipes whose values differ."""
    return [(key, _shown(old), _shown(new)) for key, old, new in differences(first.recipe, second.recipe)]


def of_environments(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Row]:
    """Versions, commit, host and hashes of the data, where they differ (of hashes twelve digits)."""
    found = differences(first, second)
    return [(key, _shown(_cut(old)), _shown(_cut(new))) for key, old, new in found if key != PASSING]


def of_results(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[list[Row], int]:
    """The numbers of two results.json that differ, and how many are equal to the last bit."""
    one, other = _finals(first), _finals(second)
    keys = [*one, *(key for key in other if key not in one)]
    rows = [(key, *_figures(one.get(key), other.get(key))) for key in keys if one.get(key) != other.get(key)]
    return rows, len(keys) - len(rows)


def _finals(results: Mapping[str, Any]) -> dict[str, int | float]:
    """Dotted key -> number, of what stages have found; curves and tickets are lists and left out."""
    stages = results.get("stages")
    named = [stage for stage in stages if isinstance(stage, dict) and "id" in stage] if isinstance(stages, list) else ()
    found = leaves({"stages": named})
    return {dotted(path[1:]): value for path, value in found.items()
            if isinstance(value, int | float) and not isinstance(value, bool)}


def _figures(one: float | None, other: float | None) -> tuple[str, str]:
    """Five digits, or all of them where five would look equal."""
    short = _figure(one, ".5g"), _figure(other, ".5g")
    return short if short[0] != short[1] else (_figure(one, ""), _figure(other, ""))


def _figure(value: float | None, digits: str) -> str:
    return NONE if value is None else f"{value:,}" if isinstance(value, int) else f"{value:{digits}}"


def _cut(value: Any) -> Any:
    found = _HASH.fullmatch(value) if isinstance(value, str) else None
    return found[1] + found[2] if found else value


def _shown(value: Any) -> str:
    return NONE if value is None else json.dumps(value, ensure_ascii=False)
