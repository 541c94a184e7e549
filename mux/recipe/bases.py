"""What a recipe file extends: one base or several, each of which may extend others."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mux.recipe import document, positions
from mux.recipe.document import Document
from mux.recipe.refusal import Problem, Refusal
from mux.recipe.wording import dotted, shown

MAX_FILES = 20  # a recipe and all that it extends


def read(path: Path) -> list[Document]:
    """A recipe file behind all that it extends: bases first, in the order in which they are named.

    A file counts once, where it is first named: two bases that extend a third do not undo each other's changes to it.
    """
    found: dict[str, Document] = {}  # by real path
    _find(path, None, (), found)
    return list(found.values())


def _find(path: Path, named_by: Problem | None, children: tuple[Document, ...], found: dict[str, Document]) -> None:
    """Add a file to `found`, behind its bases. `children`: the files that led to it, each of which extends the next."""
    if "\0" not in str(path) and os.path.realpath(path) in found:  # reading refuses a path that no system takes
        return
    file = document.read(path, named_by)
    real = os.path.realpath(path)
    if named_by is not None:
        way = [*children, file]
        first = [os.path.realpath(child.path) for child in way].index(real)
        if file is not way[first]:
            circle = " -> ".join(document.shown_path(step.path) for step in way[first:])
            raise Refusal(replace(named_by, message=f"goes round in a circle: {circle}"))
        opened = (*found.values(), *way)
        if len(opened) > MAX_FILES or sum(len(each.text) for each in opened) > document.MAX_BYTES:
            raise Refusal(_too_many(named_by))
    for base, place in _bases(file):
        _find(path.parent / base, place, (*children, file), found)
    found[real] = file


def _bases(file: Document) -> list[tuple[str, Problem]]:
    """The paths that a file extends, each with its place."""
    if "extends" not in file.values:
        return []
    bases = file.values["extends"]
    if isinstance(bases, list) and bases:
        places: list[positions.Path] = [("extends", index) for index in range(len(bases))]
    else:
        bases, places = [bases], [("extends",)]
    named = [(base, Problem("", dotted(place), file.where(place))) for base, place in zip(bases, places, strict=True)]
    if len(named) > MAX_FILES:
        raise Refusal(_too_many(named[MAX_FILES][1]))
    for base, place in named:
        if not isinstance(base, str) or not base:
            message = f"must be the path of a recipe, from the folder of this one, or an array of such paths; " \
                      f"it is {shown(base)}"
            raise Refusal(replace(place, message=message))
    return named


def _too_many(place: Problem) -> Problem:
    message = f"is one base too many: with all they extend, recipes are at most {MAX_FILES} files " \
              f"and {document.MAX_BYTES:_} bytes"
    return replace(place, message=message)
