"""A recipe's identity, and how two recipes differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from mux.recipe.positions import Path
from mux.recipe.schema import Recipe
from mux.recipe.wording import dotted

_ABSENT = object()


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The whole recipe as JSON values, defaults included; `Recipe.model_validate_json` takes it back."""
    return recipe.model_dump(mode="json", by_alias=True)


# Keys that change neither what is trained nor how it is saved: a run may go on with other values.
_HARMLESS_TABLES = ("cluster.", "health.", "slurm.")
_HARMLESS_ENDS = (".keep_checkpoints", ".keep_every", ".log_every", ".save_every")
# How the batch is split and who holds which part of the optimizer: other values compute the same, up to rounding.
SPLITS = ("engine.micro_batch", "engine.zero_stage")
PROFILE = "engine.profile"


def harmless(key: str) -> bool:
    """Whether a run may go on with another value of this dotted key."""
    return key in (*SPLITS, PROFILE) or key.startswith(_HARMLESS_TABLES) or key.endswith(_HARMLESS_ENDS)


def digest(recipe: Recipe) -> str:
    """sha256 of the resolved recipe without its harmless keys, whatever files, order or `--set` it came from."""
    values = resolved(recipe)
    decisive = [[dotted(path), value] for path, value in leaves(values).items() if not harmless(dotted(path))]
    order = [stage["id"] for stage in values["stages"]]
    text = json.dumps([sorted(decisive, key=lambda row: row[0]), order], separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def leaves(recipe: Mapping[str, Any]) -> dict[Path, Any]:
    """Key -> value of a resolved recipe, stages by id. Arrays are values, and so is a table without keys."""
    return dict(_leaves(_by_id(recipe), ()))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) where two resolved recipes differ, in the order of `old`.

    A key that one of them lacks has None there; a stage that one of them lacks is one entry, and so is the
    order of the stages that both have.
    """
    before, after = _by_id(old), _by_id(new)
    found = list(_differences(before, after, ()))
    order = [stage for stage in before["stages"] if stage in after["stages"]]
    new_order = [stage for stage in after["stages"] if stage in before["stages"]]
    return [*found, ("stages", order, new_order)] if order != new_order else found


def _by_id(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {**recipe, "stages": {stage["id"]: stage for stage in recipe.get("stages", ())}}


def _leaves(table: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], path: Path
) -> Iterator[tuple[str, Any, Any]]:
    for key in [*old, *(key for key in new if key not in old)]:
        one, other = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other, (*path, key))
        elif one != other:
            yield dotted((*path, key)), old.get(key), new.get(key)
