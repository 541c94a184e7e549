"""From a path to a `Recipe`: read, lay on its bases, validate, check; refuse with all that is wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from mux.recipe import checks, complaints, layers
from mux.recipe.digest import leaves, resolved
from mux.recipe.draft import Draft
from mux.recipe.overrides import WHERE as SET
from mux.recipe.refusal import Finding, Problem, Refusal
from mux.recipe.schema import Recipe
from mux.recipe.wording import dotted

DEFAULT = "default"


@dataclass(frozen=True)
class Loaded:
    recipe: Recipe
    provenance: dict[str, str]  # dotted key of every value, stages by id -> "file:line" | "--set" | "default"
    text: str  # of the file, verbatim
    path: Path  # as given


def load(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read the recipe at `path`, with `KEY=VALUE` texts on top. Raises Refusal with all its problems."""
    draft = layers.draft(Path(path), overrides)
    recipe = _validate(draft)
    if recipe is not None:
        for finding in checks.findings(recipe):
            draft.problem(finding.key, finding.message, finding.hint, _where(finding, draft))
    if recipe is None or draft.problems:
        raise Refusal(_in_order(draft))
    return Loaded(recipe, _provenance(recipe, draft), draft.text, Path(path))


def _validate(draft: Draft) -> Recipe | None:
    """The recipe, if pydantic accepts it; what it finds wrong goes to the draft's problems."""
    complaints.names_of_python(draft)
    try:
        return Recipe.model_validate(draft.tree())
    except ValidationError as error:
        complaints.problems(error, draft)
        return None


def _where(finding: Finding, draft: Draft) -> str | None:
    """Of two keys that do not go together, the place of the one stated last: on top of the other."""
    def height(where: str | None) -> int:
        return 0 if where is None else 3 if where == SET else 2 if where.startswith(f"{draft.path}:") else 1

    places = [draft.origins.get(key) for key in (finding.key, finding.cause) if key]
    return max(places, key=height)


def _in_order(draft: Draft) -> list[Problem]:
    """By file and line, `--set` last; of endless ones the first, and how many more there are."""
    def place(problem: Problem) -> tuple[bool, str, int]:
        where = problem.where or ""
        line = re.search(r":(\d+)$", where)
        file = where[: line.start()] if line else where
        return where == SET, file, int(line[1]) if line else 0

    ordered = sorted(dict.fromkeys(draft.problems), key=place)
    told = ordered[: complaints.MOST]
    more = draft.more + len(ordered) - len(told)
    return [*told, Problem(f"and {more:,} more")] if more else told


def _provenance(recipe: Recipe, draft: Draft) -> dict[str, str]:
    return {dotted(key): draft.origins.get(key, DEFAULT) for key in leaves(resolved(recipe))}
