from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable

import pytest
from rich.cells import cell_len
from rich.console import Console

from launcher.dashboard import State, fold, render
from mux.event import (
    Evaluated,
    Event,
    Heartbeat,
    JobStarted,
    Notice,
    RankFailed,
    RankStarted,
    RunFailed,
    RunStarted,
    StepDone,
)


def folded(events: Iterable[Event]) -> State:
    state = State()
    for event in events:
        state = fold(state, event)
    return state


def drawn(
    state: State, width: int, height: int | None = None, after: float = 1.5, terminal: bool = False
) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=terminal,
        color_system="standard" if terminal else None,
        legacy_windows=False,
    )
    console.print(render(state, state.time + after, width, height))
    return console.file.getvalue()  # type: ignore[attr-defined]


def middle(story: list[Event]) -> list[Event]:
    at = next(
        index
        for index, event in enumerate(story)
        if isinstance(event, StepDone) and (event.stage, event.step) == ("pretrain", 300)
    )
    return story[: at + 4]


@pytest.mark.parametrize("width", [100, 40])
def test_screen_in_the_middle(story: list[Event], width: int, golden: Callable[[str, str], None]) -> None:
    golden(f"screen_{width}.txt", drawn(folded(middle(story)), width))


def test_screen_at_the_end(story: list[Event], golden: Callable[[str, str], None]) -> None:
    golden("screen_end.txt", drawn(folded(story), 80))


def test_screen_while_tokenising(story: list[Event]) -> None:
    text = drawn(folded(story[:7]), 80)
    assert "tokenising" in text and "1,000 / 2,000 documents" in text and "50 %" in text
    assert "loss" not in text


def test_many_gpu_hosts_and_fp16(golden: Callable[[str, str], None]) -> None:
    hosts = [
        {"name": f"worker-{number}", "ranks": [8 * number + slot for slot in range(8)]}
        for number in range(20)
    ]
    events: list[Event] = [
        RunStarted(
            time=0,
            name="bert_large_n2",
            directory="/runs/x",
            model="bert LARGE, N = 2",
            N=2,
            hosts=hosts,
            stages=[{"id": "pretrain", "kind": "pretrain", "steps": 1_000_000, "done": False}],
        ),
        JobStarted(time=1, job=0, stages=["pretrain"], hosts=hosts),
    ]
    for host in hosts:
        for slot, rank in enumerate(host["ranks"]):  # type: ignore[arg-type]
            late = 60 if host["name"] == "worker-17" and slot == 3 else 0
            who = {"host": host["name"], "rank": rank}
            events += [
                RankStarted(time=2, pid=1, device=f"cuda:{slot} NVIDIA A100", job=0, **who),  # type: ignore[arg-type]
                Heartbeat(
                    time=100 - late,
                    stage="pretrain",
                    step=123_456 - bool(late),
                    memory_bytes=9 * 2**30,
                    gpu_memory_bytes=31 * 2**30,
                    gpu_use=0.93,
                    **who,
                ),
            ]  # type: ignore[arg-type]
    events += [
        StepDone(
            time=99,
            stage="pretrain",
            step=123_450,
            steps=1_000_000,
            loss=2.345,
            loss_scale=65_536.0,
            skipped=3,
            grad_norm=0.71,
            learning_rate=9.1e-5,
            instances_per_second=4096.0,
            seconds_compute=0.125,
        ),
        RankFailed(time=100, host="worker-4", rank=33, error="CUDA out of memory"),
    ]
    golden("screen_hosts.txt", drawn(folded(events), 120, height=40))


@pytest.mark.parametrize("height", [5, 8, 14, 16, 20, 24, 30, 40, 60])
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_height_is_kept(story: list[Event], width: int, height: int) -> None:
    lines = drawn(folded(middle(story)), width, height).splitlines()
    assert len(lines) <= height
    assert "quickstart" in lines[0] and any("pretrain" in line and "75 %" in line for line in lines[:5])
    assert any("loss" in line for line in lines) == (height >= 14)


@pytest.mark.parametrize("width", [20, 33, 40, 59, 60, 75, 76, 80, 99, 120, 200])
def test_no_line_is_wider_than_the_screen(story: list[Event], width: int) -> None:
    for events in (story[:1], story[:8], middle(story), story):
        lines = drawn(folded(events), width).splitlines()
        assert lines and {cell_len(line) for line in lines} == {width}


EVIL = "[red]x[/red] [link=http://e]l[/link] :smile: \x1b[2J\x1b]0;t\x07\n[/]"


def test_text_from_outside_is_neither_markup_nor_escape() -> None:
    row = {"name": EVIL, "ranks": [0]}
    events = [
        RunStarted(
            name=EVIL,
            directory=EVIL,
            model=EVIL,
            N=2,
            hosts=[row],
            stages=[{"id": EVIL, "kind": EVIL, "steps": 5, "done": False}],
        ),
        JobStarted(job=0, stages=[EVIL], hosts=[row]),
        RankStarted(host=EVIL, rank=0, pid=1, device=EVIL, job=0),
        StepDone(stage=EVIL, step=1, steps=5, loss=1.0, task=EVIL, host=EVIL, rank=0),
        Notice(text=EVIL, level=EVIL, stage=EVIL),
        RankFailed(host=EVIL, rank=0, error=EVIL),
        RunFailed(code=1, reason=EVIL),
    ]
    shown = "[red]x[/red] [link=http://e]l[/link] :smile: [/]"
    text = drawn(folded(events), 200)
    assert "\x1b" not in text and "\x07" not in text and "\u263a" not in text and "😄" not in text
    assert sum(shown in line for line in text.splitlines()) >= 6
    coloured = drawn(folded(events), 200, terminal=True)
    assert "\x1b[2J" not in coloured and "\x1b]" not in coloured and "\x07" not in coloured


def test_a_silent_rank_is_seen(story: list[Event]) -> None:
    state = folded(middle(story))
    assert "2 min" in drawn(state, 100, after=150) and "  1 s" in drawn(state, 100)
    assert re.search("\x1b\\[31m *2 min", drawn(state, 100, after=150, terminal=True))  # red
    assert re.search("\x1b\\[33m *15 s", drawn(state, 100, after=15.5, terminal=True))  # yellow


def test_numbers_that_were_not_finite_are_dashes() -> None:
    nothing: dict[str, object] = dict.fromkeys(
        (
            "loss",
            "learning_rate",
            "instances_per_second",
            "groups_per_second",
            "tokens_per_second",
            "seconds_data",
            "seconds_compute",
            "seconds_save",
        )
    )
    text = drawn(folded([StepDone(stage="s", step=1, steps=2, **nothing)]), 80)  # type: ignore[arg-type]
    assert text.count("–") >= 5


def test_compositions_are_told_apart() -> None:
    def evaluated(composition: str) -> Evaluated:
        return Evaluated(stage="evaluate", task="topic", metric="accuracy", mean=0.5, std=0.01, composition=composition)

    for width in (80, 120):
        alike = drawn(folded([evaluated("random")]), width)
        apart = drawn(folded([evaluated(name) for name in ("random", "length", "similar", "dissimilar")]), width)
        panel = apart[apart.index("evaluations"):].split("last events")[0]
        assert all(re.search(rf"topic .*\b{name}\b", panel) for name in ("random", "length", "similar", "dissimilar"))
        assert "groups" not in alike[alike.index("evaluations"):].split("last events")[0]
