"""What pydantic says about a draft, in this project's words: a key of the recipe, its line, a way out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from pydantic import ValidationError

from mux.recipe import overrides
from mux.recipe.draft import Draft
from mux.recipe.keys import KINDS, way_out
from mux.recipe.positions import Path
from mux.recipe.section import Section
from mux.recipe.wording import did_you_mean, dotted, nearest, shown

MOST = 20  # problems told at once; a file with more is no recipe

_SECTIONS = {section.__name__ for section in Section.__subclasses__()}

# pydantic's type of error -> what is wrong with value `v`, given pydantic's context `c`
_SAYINGS: dict[str, Callable[[Any, dict[str, Any]], str]] = {
    "missing": lambda v, c: "is missing",
    "extra_forbidden": lambda v, c: "is not a key",
    "literal_error": lambda v, c: f"must be {c['expected']}, is {shown(v)}",
    "int_type": lambda v, c: f"must be {c.get('expected', 'a whole number')}, is {shown(v)}",
    "float_type": lambda v, c: f"must be a number, is {shown(v)}",
    "finite_number": lambda v, c: f"must be a finite number, is {shown(v)}",
    "bool_type": lambda v, c: f"must be true or false, is {shown(v)}",
    "string_type": lambda v, c: f"must be a text, is {shown(v)}",
    "string_too_short": lambda v, c: "is empty",
    "string_pattern_mismatch": lambda v, c: f"is {shown(v)}",
    "greater_than": lambda v, c: f"must be more than {c['gt']:,.10g}, is {shown(v)}",
    "greater_than_equal": lambda v, c: f"must be at least {c['ge']:,.10g}, is {shown(v)}",
    "less_than": lambda v, c: f"must be less than {c['lt']:,.10g}, is {shown(v)}",
    "less_than_equal": lambda v, c: f"must be at most {c['le']:,.10g}, is {shown(v)}",
    "tuple_type": lambda v, c: f"must be an array, is {shown(v)}",
    "too_short": lambda v, c: f"needs at least {'one' if c['min_length'] == 1 else c['min_length']}",
    "too_long": lambda v, c: f"takes {c['max_length']} values, has {c['actual_length']}",
    "dict_type": lambda v, c: f"must be a table, is {shown(v)}",
    "model_type": lambda v, c: f"must be a table, is {shown(v)}",
    "model_attributes_type": lambda v, c: f"must be a table, is {shown(v)}",
    "union_tag_not_found": lambda v, c: "is missing",
    "union_tag_invalid": lambda v, c: f"is {shown(v.get('kind'))}, which is no kind of stage",
}
_OF_NUMBERS = ("int_type", "greater_than_equal", "less_than_equal")
# last part of a key -> what its values are like
_GRAMMAR = {
    "name": "a name has letters, digits and . _ - only, at most 100, and begins with a letter or a digit",
    "id": "an id has small letters, digits and _ - only, at most 64, and begins with a letter or a digit",
    "signal_seconds": "from 10 to 65,535: a checkpoint takes its time, and sbatch takes no more",
    "time": 'as sbatch takes it: "90" (minutes), "12:00:00", "1-00:00:00" (a day)',
} | dict.fromkeys(
    ("partition", "account", "qos", "constraint"),
    "SLURM's name of it has letters, digits and _ . , : + - only, at most 100, and begins with a letter, a digit or _"
) | dict.fromkeys(
    ("heartbeat_seconds", "stall_seconds", "collective_timeout_seconds"),
    "from 5 seconds to 30 days: with less, no run gets anywhere")


def names_of_python(draft: Draft) -> None:
    """Take out, as problems, the keys that only Python spells so and pydantic takes as well: `from_`."""
    for label, stage in draft.stages.items():
        if stage.pop("from_", None) is not None:
            draft.problem(("stages", label, "from_"), "is not a key", "did you mean from?")


def problems(error: ValidationError, draft: Draft) -> None:
    """Add what pydantic found wrong to the draft's problems."""
    tree = draft.tree()
    labels = list(draft.stages)
    found = _true_ones(error, tree)
    for kind, path, value, context in islice(found, MOST):
        if path == ("stages",) and any(problem.key == "stages" for problem in draft.problems):
            continue  # they are missing because what the file has is no array of tables
        if path[0] == "stages" and len(path) > 1:
            path = ("stages", labels[int(path[1])], *path[2:])
        say = _SAYINGS.get(kind)
        message = say(value, context) if say else context.get("message", kind)
        if kind.startswith("union_tag"):
            path = (*path, "kind")
        draft.problem(path, message, _way_out(kind, path, value, context, draft))
    draft.more += sum(1 for _ in found)  # their ways out would take long to find


def _true_ones(
    error: ValidationError, tree: dict[str, Any]
) -> Iterator[tuple[str, Path, Any, dict[str, Any]]]:
    """Errors with their path in the draft, without the ones that only follow from another."""
    errors = error.errors(include_url=False)
    # Of a number or a word each member of the union complains; pydantic names the member behind the key.
    words = {found["loc"][:-1]: found for found in errors
             if found["type"] == "literal_error" and str(found["loc"][-1]).startswith("literal[")}
    or_words = words.keys() & {found["loc"][:-1] for found in errors if found["type"] in _OF_NUMBERS}
    for found in errors:
        kind, value, a_word_would_do = found["type"], found["input"], found["loc"][:-1] in or_words
        context = {"message": found["msg"], **found.get("ctx", {})}
        if a_word_would_do:
            if isinstance(value, str) != (kind == "literal_error"):
                continue  # a word was not meant for the number, nor a number for the word
            word = words[found["loc"][:-1]]
            context["expected"] = f"a whole number or {word.get('ctx', {}).get('expected')}"
        path, tags, there = _follow(found["loc"], tree, ends_in_key=kind in ("missing", "extra_forbidden"))
        if tags and not a_word_would_do and any(map(_wants_table, tags)) != isinstance(there, dict):
            continue  # a member of a union that the value was not meant for
        if kind == "too_short" and isinstance(value, list) and len(value) >= context["min_length"]:
            continue  # pydantic counts the valid items only
        yield kind, path, value, context


def _follow(loc: tuple[str | int, ...], tree: Any, ends_in_key: bool) -> tuple[Path, list[str], Any]:
    """Pydantic's location as a path in the tree, the union members it names, and the value these are for."""
    path: Path = ()
    tags: list[str] = []
    there, member = tree, None
    if loc[:1] == ("stages",) and len(loc) > 2:
        loc = loc[:2] + loc[3:]  # the third names the kind
    for index, part in enumerate(loc):
        if _holds(there, part):
            path, there = (*path, part), there[part]
        elif ends_in_key and index == len(loc) - 1:
            path = (*path, part)  # a key that is missing
        else:
            tags.append(str(part))
            member = there
    return path, tags, member if tags else there


def _holds(value: Any, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _wants_table(tag: str) -> bool:
    return tag in _SECTIONS or tag.startswith("dict[")


def _way_out(kind: str, path: Path, value: Any, context: dict[str, Any], draft: Draft) -> str | None:
    if kind == "extra_forbidden":
        return way_out(path, draft.kinds)
    if kind.startswith("union_tag"):
        return did_you_mean(value.get("kind"), KINDS, "kinds")
    if kind == "literal_error":
        near = nearest(value, re.findall("'(.*?)'", context["expected"]))
        table = "or a table {layers = 4, hidden = 256, heads = 4, intermediate = 1024}"
        return f"did you mean {shown(near)}?" if near else table if path[-1] == "size" else None
    if kind == "string_pattern_mismatch":
        return _GRAMMAR.get(str(path[-1]), "control characters are not allowed here")
    if kind in ("greater_than_equal", "less_than_equal"):
        return _GRAMMAR.get(str(path[-1]))
    is_set = draft.where(path) == overrides.WHERE and isinstance(path[-1], str)
    if kind == "string_type" and is_set and isinstance(value, int | float):
        return f"quote it twice: --set '{dotted(path)}=\"{shown(value)}\"'"
    if kind == "int_type" and isinstance(value, float) and value.is_integer():
        return f"did you mean {int(value)}?"
    if kind == "tuple_type" and isinstance(value, str | int | float):
        return f"did you mean [{shown(value)}]?"
    return None
