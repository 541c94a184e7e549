"""`mux runs diff`: in what two runs differ, as rows of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mux.plan import Plan
from mux.recipe import differences
from mux.recipe.digest import leaves
from mux.recipe.wording import dotted

Row = tuple[str, str, str]
NONE = "–"
PASSING = "time"  # of an environment: differs between any two runs


def of_recipes(first: Plan, second: Plan) -> list[Row]:
    """Keys of the resolved recipes whose values differ."""
    return [(key, _shown(old), _shown(new)) for key, old, new in differences(first.recipe, second.recipe)]


def of_environments(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Row]:
    """Versions, commit, host and hashes of the data, where they differ."""
    return [(key, _shown(old), _shown(new)) for key, old, new in differences(first, second) if key != PASSING]


def of_results(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Row]:
    """Every number that either of two results.json has, and what they say of models and status."""
    one, other = _finals(first), _finals(second)
    keys = [*one, *(key for key in other if key not in one)]
    return [(key, _figure(one.get(key)), _figure(other.get(key))) for key in keys]


def _finals(results: Mapping[str, Any]) -> dict[str, int | float]:
    """Dotted key -> number, of what stages have found; curves and tickets are lists and left out."""
    stages = results.get("stages")
    named = [stage for stage in stages if isinstance(stage, dict) and "id" in stage] if isinstance(stages, list) else ()
    found = leaves({"stages": named})
    return {dotted(path[1:]): value for path, value in found.items()
            if isinstance(value, int | float) and not isinstance(value, bool)}


def _figure(value: float | None) -> str:
    return NONE if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def _shown(value: Any) -> str:
    return NONE if value is None else json.dumps(value, ensure_ascii=False)
