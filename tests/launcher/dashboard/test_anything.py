"""Whatever events come, in whatever order, they fold, draw and print."""

from __future__ import annotations

import io
from dataclasses import fields
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from launcher.dashboard import PlainLines, State, fold, render
from mux.event import Event
from mux.journal import decode, encode

TEXT = st.one_of(
    st.sampled_from(
        [
            "pretrain",
            "finetune",
            "a",
            "",
            "[bold]",
            "\x1b[31m",
            "日本語のテキスト",
            "\ud800",
            "\n",
            "e\u0301🏴‍☠️",
        ]
    ),
    st.text(max_size=20),
)
NUMBER = st.one_of(st.integers(0, 5), st.integers(-10, 10**12))
REAL = st.one_of(st.floats(0, 10), st.floats(-1e300, 1e300), st.just(float("nan")))
HOSTS = st.lists(st.fixed_dictionaries({"name": TEXT, "ranks": st.lists(NUMBER, max_size=4)}), max_size=3)
RESULT = st.dictionaries(
    st.sampled_from(["loss", "accuracy", "steps"]), REAL, max_size=3
) | st.fixed_dictionaries(
    {
        "tasks": st.dictionaries(
            TEXT, st.fixed_dictionaries({"metric": TEXT, "mean": REAL, "std": REAL}), max_size=2
        )
    }
)
TRAININGS = st.lists(
    st.fixed_dictionaries(
        {"name": TEXT, "task": TEXT, "seed": NUMBER, "learning_rate": st.floats(0, 1), "batch": NUMBER}
        | {"steps": NUMBER, "done": st.booleans()}
    ),
    max_size=5,
)
STAGES = st.lists(
    st.fixed_dictionaries(
        {"id": TEXT, "kind": TEXT, "steps": st.none() | NUMBER, "done": st.booleans()},
        optional={"trainings": TRAININGS},
    ),
    max_size=4,
)
BY_TYPE = {
    "str": TEXT,
    "int": NUMBER,
    "float": REAL,
    "bool": st.booleans(),
    "list[str]": st.lists(TEXT, max_size=3),
    "dict[str, Any]": RESULT,
}
BY_NAME = {"time": st.floats(0, 1e4) | st.floats(-1e300, 1e300), "stages": STAGES, "hosts": HOSTS}


def any_of(kind: type[Event]) -> st.SearchStrategy[Event]:
    values: dict[str, Any] = {}
    for field in fields(kind):
        annotation, _, optional = str(field.type).partition(" | ")
        named = field.name in BY_NAME and annotation != "list[str]"
        value = BY_NAME[field.name] if named else BY_TYPE[annotation]
        values[field.name] = st.none() | value if optional else value
    return st.builds(kind, **values)


EVENTS = st.lists(st.one_of([any_of(kind) for kind in Event.kinds.values()]), max_size=25)


@settings(max_examples=150, deadline=None)
@given(
    events=EVENTS, width=st.integers(20, 200), height=st.none() | st.integers(1, 80), now=st.floats(0, 1e5)
)
def test_any_events_at_any_width(events: list[Event], width: int, height: int | None, now: float) -> None:
    state, lines = State(), PlainLines()
    for event in events:
        read = decode(encode(event))  # as a reader has it: what is not finite is None
        assert read is not None
        state = fold(state, read, now)
        for line in lines.lines(read):
            assert line.isprintable()
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(state, now, width, height))
    for line in console.file.getvalue().splitlines():  # type: ignore[attr-defined]
        assert cell_len(line) == width and line.isprintable()
