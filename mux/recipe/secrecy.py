"""No secret in a recipe: the run keeps its text, its values and where they come from, and shows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mux import secrets
from mux.recipe import positions
from mux.recipe.refusal import Problem
from mux.recipe.wording import dotted

WAY_OUT = "keep it in the environment, as in HF_TOKEN, out of recipes and commands: those are kept and shown"


def of_text(name: str, text: str) -> list[Problem]:
    """Of the lines of the recipe file `name`, comments included: what it is, where, and never the secret itself."""
    if secrets.found(text) is None:
        return []
    keys: dict[int, positions.Path] = {}
    for path, line in positions.locate(text).items():
        keys.setdefault(line, path)
    problems = [problem(kind, f"{name}:{number}", dotted(keys.get(number, ())))
                for number, line in enumerate(text.split("\n"), start=1) if (kind := secrets.found(line))]
    return problems or [problem(str(secrets.found(text)), name)]  # one of several lines


def of_values(values: Any) -> list[tuple[positions.Path, str]]:
    """The keys whose own name or text holds one, escapes resolved, and what it is."""
    texts = list(_texts(values))
    if secrets.found("\n".join(text for _, text in texts)) is None:
        return []
    return [(path, kind) for path, text in texts if (kind := secrets.found(text))]


def of_words(words: Iterable[str]) -> list[Problem]:
    """Of words of a command: every user of the machine can list them."""
    return [problem(kind, "the command") for word in words if (kind := secrets.found(word))]


def _texts(values: Any) -> Iterator[tuple[positions.Path, str]]:
    rest: list[tuple[positions.Path, Any]] = [((), values)]
    while rest:  # nesting may be deeper than the stack
        path, value = rest.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                yield (*path, key), key
                rest.append(((*path, key), inner))
        elif isinstance(value, list):
            rest += [((*path, index), inner) for index, inner in enumerate(value)]
        elif isinstance(value, str):
            yield path, value


def problem(kind: str, where: str, key: str = "") -> Problem:
    """A key that is itself the secret is left out."""
    return Problem(f"holds {kind}", None if secrets.found(key) else key or None, where, WAY_OUT)
