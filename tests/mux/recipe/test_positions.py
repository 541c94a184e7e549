"""The scanner against tomli: the keys tomli has, on lines that hold them; and no text that it does not survive."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import tomli
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mux.recipe.positions import MAX_PARTS, Path, locate, repeated

EVERYTHING = '''\
# a comment with [brackets] and a = sign
title = "x = [1]"                     # and one behind a value with "quotes
"quoted key" = 'literal # no comment'
'lite ral' = 1
a.b."c.d".e = true
date = 1979-05-27 07:32:00
float = 1.5e3
text = """
not.a.key = 1
[not.a.header] \\""" still text
"""
literal = \'\'\'
x = """
\'\'\'\'\'
numbers = [
  1, 2,    # [3]
  [3, "],"], {k = 1, "l m".n = [{}]},
]
quotes = ["""a"""", {q = \'\'\'b\'\'\'\'}, 1]
point = {x = 1, y = {z = [1, {w = 2}]}}
empty = []
none = {}

[table]
  indented = 1
[ table . "sub.table" ]
k = 1
[[stages]]
kind = "one"
[stages.search]
batch = [16]
[[stages]]
kind = "two"
[[stages.inner]]
v = 1
[[stages.inner]]
v = 2
'''


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        if len(path) + 1 < MAX_PARTS:
            yield from paths(inner, (*path, key))


def assert_agrees(text: str) -> None:
    """The scanner's keys are tomli's, and each stands on a line where its last part can be read."""
    lines = locate(text)
    assert set(lines) == set(paths(tomli.loads(text)))
    written = text.split("\n")
    for path, line in lines.items():
        key = next(part for part in reversed(path) if isinstance(part, str))
        if isinstance(path[-1], str):
            line_text = written[line - 1]
            assert key in line_text or json.dumps(key)[1:-1] in line_text, (path, line)


def test_everything_that_toml_has() -> None:
    assert_agrees(EVERYTHING)
    lines, written = locate(EVERYTHING), EVERYTHING.split("\n")
    assert written[lines["numbers", 2, 1] - 1] == '  [3, "],"], {k = 1, "l m".n = [{}]},'
    assert written[lines["stages", 1, "kind"] - 1] == 'kind = "two"'
    assert written[lines["stages", 1, "inner", 1, "v"] - 1] == "v = 2"
    assert lines["stages", 1, "inner", 1] == len(written) - 2
    assert lines["stages",] == written.index("[[stages]]") + 1


def test_a_header_outranks_the_line_that_implies_its_table() -> None:
    assert locate("[a.b]\nx = 1\n[a]\ny = 1\n")["a",] == 3
    assert locate("[a.b]\nx = 1\n")["a",] == 1


@pytest.mark.parametrize(
    ("text", "path", "first", "second"),
    [
        ("a = 1\n\na = 2\n", ("a",), 1, 3),
        ("[t]\nb = 1\n[t]\n", ("t",), 1, 3),
        ("[[s]]\nk = 1\n[[s]]\nk = 1\nk = 2\n", ("s", 1, "k"), 4, 5),
        ("p = {x = 1,\n x = 2}\n", ("p", "x"), 1, 2),
    ],
)
def test_what_is_stated_twice(text: str, path: Path, first: int, second: int) -> None:
    with pytest.raises(tomli.TOMLDecodeError):
        tomli.loads(text)
    assert repeated(text) == (path, first, second)


def test_nothing_is_stated_twice() -> None:
    assert repeated(EVERYTHING) is None


# --- random texts ---------------------------------------------------------------------------------------------
KEY = st.one_of(
    st.text("ab-_1", min_size=1, max_size=3),
    st.text(max_size=4).filter(lambda text: text.isprintable() and text.isascii()).map(json.dumps),
    st.text("a.#[=\"", max_size=3).map(lambda text: f"'{text}'"),
)
SCALAR = st.sampled_from([
    "1", "-1.5e3", "true", "1979-05-27T07:32:00Z", "1979-05-27", '"s"', '"# \\" ]"', "'''\n[a]\nb = 1\n'''", "inf",
    '"""\nx = 1\\""" """', '""', "''", '"""a"""""', "'''''a'''",
])
SPACE = st.sampled_from(["", " ", "\t"])
GAP = st.sampled_from(["", " ", "\n", " # c ]\n", "\n\n"])


@st.composite
def array(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    items = draw(st.lists(values, max_size=3))
    inside = ",".join(draw(GAP) + item + draw(GAP) for item in items)
    return f"[{inside}{draw(st.sampled_from(['', ',']) if items else st.just(''))}{draw(GAP)}]"


@st.composite
def inline_table(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    keys = draw(st.lists(KEY, max_size=3))
    return "{" + ", ".join(f"{key}{draw(SPACE)}={draw(SPACE)}{draw(values)}" for key in keys) + "}"


VALUE = st.recursive(SCALAR, lambda values: array(values) | inline_table(values), max_leaves=6)
DOTTED = st.lists(KEY, min_size=1, max_size=3).flatmap(
    lambda keys: SPACE.map(lambda space: f"{space}.{space}".join(keys))
)
STATEMENT = st.one_of(
    st.tuples(SPACE, DOTTED, SPACE, VALUE).map(lambda parts: f"{parts[0]}{parts[1]}{parts[2]}= {parts[3]}"),
    DOTTED.map(lambda key: f"[{key}]"),
    DOTTED.map(lambda key: f" [[ {key} ]] # c"),
    st.sampled_from(["", "# [c]", "  "]),
)
ENDS = st.sampled_from(["", "\n", "# end"])


@settings(max_examples=200, deadline=None)
@given(st.lists(STATEMENT, max_size=8), ENDS)
def test_agrees_with_tomli_on_toml(statements: list[str], end: str) -> None:
    """Statements that do not go together (a key twice, say) are left out, so that every example says something."""
    text = ""
    for statement in statements:
        try:
            tomli.loads(text + statement + "\n")
        except tomli.TOMLDecodeError:
            continue
        text += statement + "\n"
    assert set(locate(text + end)) == set(paths(tomli.loads(text + end)))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3).map(lambda text: f"k{text}"), SCALAR, max_size=6))
def test_lines_hold_their_keys(table: dict[str, str]) -> None:
    text = "".join(f"{key} = {value}\n\n" for key, value in table.items())
    assert_agrees(text)
    assert_agrees(f"# c\n[t]\n{text}[[u]]\n{text}")


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text("a.\"'[]{}=,#\n\\ 1", max_size=40))
@example("a = '''" + "'" * 1000)
@example('a = "\\')
@example("[" * 5000)
@example("a = " + "{a = " * 2000)
@example(".".join("a" * 3000) + " = 1")
@example('"\\uZZZZ" = 1')
def test_survives_any_text_and_agrees_if_it_is_toml(text: str) -> None:
    lines = locate(text)
    repeated(text)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())
    assert all(len(path) <= MAX_PARTS for path in lines)
    try:
        values = tomli.loads(text)
    except (ValueError, RecursionError):
        return
    assert set(lines) == {path for path in paths(values) if len(path) <= MAX_PARTS}
