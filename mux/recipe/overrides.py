"""`--set KEY=VALUE`: one changed value of a recipe, from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import tomli

from mux import secrets
from mux.recipe import secrecy
from mux.recipe.refusal import Problem
from mux.recipe.wording import dotted, printable

WHERE = "--set"  # stands for the file and line of such a value
_MAX_LETTERS = 10_000


def read(texts: Sequence[str]) -> tuple[list[tuple[tuple[str, ...], Any]], list[Problem]]:
    """[(key, value)] in order, stages addressed by id: `stages.pretrain.steps=100`; and what is malformed.

    A value is read as TOML and, where it is none, taken as a bare text: `engine.precision=bf16`.
    """
    changes, problems = [], []
    for text in texts:
        if kind := secrets.found(text[:_MAX_LETTERS]):
            problems.append(secrecy.problem(kind, WHERE, printable(text.partition("=")[0].strip()[:80])))
            continue
        try:
            key, value = _change(text)
        except ValueError as error:
            problems.append(Problem(f"{printable(text[:80])!s} {error}", where=WHERE, hint=_example(text)))
            continue
        table = reduce(lambda inner, part: {part: inner}, reversed(key), value)
        hidden = [secrecy.problem(kind, WHERE, dotted(path)) for path, kind in secrecy.of_values(table)]
        problems += hidden
        changes += [] if hidden else [(key, value)]
    return changes, problems


def _example(text: str) -> str:
    if "[" in text.partition("=")[2] or "{" in text:
        return """the shell eats quotes; write --set 'corpus.sources=["path:a.txt", "path:b.txt"]'"""
    return "write KEY=VALUE, as in --set stages.pretrain.steps=100"


def _change(text: str) -> tuple[tuple[str, ...], Any]:
    """Raises ValueError with what is wrong with the text."""
    if len(text) > _MAX_LETTERS:
        raise ValueError(f"... is longer than {_MAX_LETTERS:_} characters")
    if not _is_unicode(text):
        raise ValueError("is not UTF-8")
    left, equals, right = _split(text)
    if not equals or not left.strip():
        raise ValueError("is not KEY=VALUE")
    if not right.strip():
        raise ValueError("has no value")
    return _key(left), _value(right.strip())


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # what Python makes of bytes on the command line that are not UTF-8
        return False
    return True


def _split(text: str) -> tuple[str, str, str]:
    """At the first "=" that stands outside quotes."""
    quote = ""
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter == "=":
            return text[:index], "=", text[index + 1 :]
    return text, "", ""


def _key(text: str) -> tuple[str, ...]:
    try:
        table = tomli.loads(f"{text} = 0") if "\n" not in text else {}  # a line of its own may be a header
    except (ValueError, RecursionError):
        raise ValueError("has a key that TOML does not read") from None
    parts: list[str] = []
    while isinstance(table, dict):
        if len(table) != 1:
            raise ValueError("has a key that TOML does not read")
        (key, table), = table.items()
        parts.append(key)
    return tuple(parts)


def _value(text: str) -> Any:
    try:
        values = tomli.loads(f"value = {text}")
    except (ValueError, RecursionError):
        values = {}
    if list(values) == ["value"]:
        return values["value"]
    if text[0] in "[{\"'":
        raise ValueError("has a value that TOML does not read")
    return text
