"""The keys that recipes have, by table, and the way out for a key that none has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from mux.recipe.positions import Path
from mux.recipe.schema import Recipe
from mux.recipe.section import Section
from mux.recipe.stages import Stage, StageSection
from mux.recipe.wording import dotted, listed, nearest

KINDS: dict[str, type[StageSection]] = {
    get_args(stage.model_fields["kind"].annotation)[0]: stage for stage in get_args(get_args(Stage)[0])
}

_ANY = "*"  # in a table's pattern: whatever name the user gives


# --- the tables ---------------------------------------------------------------------------------------------
@cache
def tables() -> dict[tuple[str, ...], tuple[str, ...]]:
    """Table -> its keys. A stage's table is ("stages", KIND), a defined task's ("tasks", "define", "*")."""
    found = dict(_tables(Recipe, ()))
    found[()] = ("extends", "drop", *found[()])
    for kind, stage in KINDS.items():
        found |= dict(_tables(stage, ("stages", kind)))
        found["stages", kind] += ("before",)
    return found


def _tables(
    section: type[BaseModel], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    fields = {field.alias or name: field.annotation for name, field in section.model_fields.items()}
    yield path, tuple(fields)
    for key, annotation in fields.items():
        if key != "stages":
            for nested, below in _sections(annotation):
                yield from _tables(nested, (*path, key, *below))


def _sections(annotation: Any) -> Iterator[tuple[type[Section], tuple[str, ...]]]:
    """The sections in a type, with what stands between a key of that type and theirs."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation, ()
    for inner in get_args(annotation):
        for section, below in _sections(inner):
            yield section, ((_ANY,) if get_origin(annotation) is dict else ()) + below


def table_of(path: Path, kinds: Mapping[str | int, str]) -> tuple[str, ...]:
    """The pattern in `tables` of the table at `path`; `kinds` maps the recipe's stage ids to their kinds."""
    if path[:1] == ("stages",) and len(path) > 1:
        return ("stages", kinds.get(path[1], ""), *(str(part) for part in path[2:]))
    if path[:2] == ("tasks", "define") and len(path) > 2:
        return ("tasks", "define", _ANY, *(str(part) for part in path[3:]))
    return tuple(str(part) for part in path)


def _title(table: tuple[str, ...]) -> str:
    if not table:
        return "the recipe itself, above its first table"
    if table[0] == "stages":
        return f"{table[1]} stages" + (f" (in [stages.{'.'.join(table[2:])}])" if table[2:] else "")
    return f"[{'.'.join(table).replace(_ANY, 'NAME')}]"


def way_out(path: Path, kinds: Mapping[str | int, str]) -> str:
    """A hint for a key that its table lacks: the nearest real key, or the tables that do have it."""
    word, table = path[-1], table_of(path[:-1], kinds)
    keys = tables().get(table, ())
    hints = []
    near = nearest(word, keys)
    if near:
        hints.append(f"did you mean {dotted((*path[:-1], near))}?")
    homes = [home for home, names in tables().items() if word in names and home != table]
    if homes:
        stages = [home[1] for home in homes if home[:1] == ("stages",) and len(home) == 2]
        titles = [_title(home) for home in homes if home[:1] != ("stages",) or not stages]
        titles = [f"{listed(stages)} stages", *titles] if stages else titles
        hints.append(f"{word} is a key of {listed(titles)}")
    if not hints:
        far = nearest(word, [key for names in tables().values() for key in names])
        home = next((home for home, names in tables().items() if far in names), ())
        hints.append(f"did you mean {far} of {_title(home)}?" if far else f"keys here: {', '.join(keys)}")
    return "; ".join(hints)
