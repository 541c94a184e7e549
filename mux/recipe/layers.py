"""Where a draft comes from: a recipe file, the files it extends, `--set`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mux.recipe import bases, overrides, positions
from mux.recipe.document import Document
from mux.recipe.draft import MAX_DEPTH, Draft, Label, Layer
from mux.recipe.refusal import Problem
from mux.recipe.wording import did_you_mean, dotted, shown


def draft(path: Path, changes: Sequence[str]) -> Draft:
    """The recipe of a file, of all it extends, and of the texts of `--set`. Refuses what cannot be read."""
    files = bases.read(path)
    made = Draft(files[-1])
    for file in files:
        made.lay(_layer(file, made))
    made.lay(_set(changes, made))
    return made


def _layer(file: Document, made: Draft) -> Layer:
    """What a file says; what is wrong with its `drop`, `before` and ids goes to the draft's problems."""
    values = {key: value for key, value in file.values.items() if key not in ("extends", "drop")}
    is_base = "extends" not in file.values
    layer = Layer(values, {})
    labels = _label_stages(values, file, made)
    for path in file.lines:
        is_labelled = labels and path[0] == "stages" and len(path) > 1
        known_as = ("stages", labels[int(path[1])], *path[2:]) if is_labelled else path
        layer.origins[known_as] = file.where(path)
    for label in labels:
        if "before" in values["stages"][label]:
            _take_before(label, values["stages"][label].pop("before"), layer, made, is_base)
    if "drop" in file.values:
        _take_drop(file.values["drop"], file, layer, made, is_base)
    return layer


def _label_stages(values: dict[str, Any], file: Document, made: Draft) -> list[Label]:
    """Make `stages` a dict by label, and return the labels; leave it out where it is no array of tables."""
    if "stages" not in values:
        return []
    stages = values.pop("stages")
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        made.problem(("stages",), f"must be an array of tables, is {shown(stages)}",
                     "write [[stages]] above each stage, with its kind", file.where(("stages",)))
        return []
    labelled: dict[Label, dict[str, Any]] = {}
    first: dict[str, int] = {}  # id -> line
    for index, stage in enumerate(stages):
        label = stage.get("id", stage.get("kind"))
        if isinstance(label, str) and label in first:
            message = f"{shown(label)} is the id of two stages, the first in line {first[label]}"
            made.problem(("stages", index, "id"), message, "give one an id of its own",
                         file.where(("stages", index, "id")))
        if not isinstance(label, str) or label in first:
            label = index
            while label in made.stages or label in labelled:
                label += 1
        else:
            first[label] = file.lines.get(("stages", index), 0)
        labelled[label] = stage
    values["stages"] = labelled
    return list(labelled)


def _take_before(label: Label, successor: Any, layer: Layer, made: Draft, is_base: bool) -> None:
    key: positions.Path = ("stages", label, "before")
    where = layer.origins.get(key)
    if is_base:
        made.problem(key, "places a stage among those of a base, but this file extends none",
                     "write the stages in the order in which they run", where)
    elif not isinstance(successor, str):
        made.problem(key, f"must be the id of a stage, is {shown(successor)}", None, where)
    else:
        layer.before[label] = successor


def _take_drop(drop: Any, file: Document, layer: Layer, made: Draft, is_base: bool) -> None:
    where = file.where(("drop",))
    if is_base:
        made.problem(("drop",), "drops stages of a base, but this file extends none", None, where)
    elif not isinstance(drop, list) or not all(isinstance(stage, str) for stage in drop):
        made.problem(("drop",), f"must be an array of stage ids, is {shown(drop)}", None, where)
    else:
        layer.drop = drop


def _set(texts: Sequence[str], made: Draft) -> Layer:
    """The changes of `--set`, the last one of a key standing."""
    changes, problems = overrides.read(texts)
    made.problems += problems
    layer = Layer({}, {})
    for path, value in changes:
        problem = _unsettable(path, made)
        if problem is not None:
            made.problems.append(problem)
            continue
        table: Any = layer.values
        below: Any = made.values
        for depth, part in enumerate(path[:-1], 1):
            if not isinstance(table.get(part), dict):
                table[part] = {}
            table, below = table[part], below.get(part)
            if not isinstance(below, dict):  # a table that only --set makes
                layer.origins[path[:depth]] = overrides.WHERE
                below = {}
        table[path[-1]] = value
        layer.origins |= {key: overrides.WHERE for key in _paths(value, path)}
    return layer


def _unsettable(path: tuple[str, ...], made: Draft) -> Problem | None:
    key = dotted(path)
    if path[0] in ("extends", "drop"):
        return Problem("belongs in a recipe file", key, overrides.WHERE)
    if path[0] != "stages":
        return None
    if len(path) < 3:
        return Problem("is not a key", key, overrides.WHERE, "write --set stages.ID.KEY=VALUE")
    if path[1] not in made.stages:
        return Problem(f"{shown(path[1])} is no stage of this recipe", key, overrides.WHERE,
                       did_you_mean(path[1], made.ids(), "stages"))
    if path[2] in ("id", "kind", "before"):
        return Problem("belongs in a recipe file: it is what the stage is", key, overrides.WHERE,
                       "write a recipe that extends this one")
    return None


def _paths(value: Any, path: positions.Path) -> Iterator[positions.Path]:
    """A key and, if its value is a table, the keys in it."""
    yield path
    if isinstance(value, dict) and len(path) < MAX_DEPTH:
        for key, inner in value.items():
            yield from _paths(inner, (*path, key))
