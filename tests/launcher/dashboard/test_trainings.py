"""Fine-tuning: many trainings at once, each on a device of its own."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import product

import pytest
from rich.cells import cell_len
from rich.console import Console

from launcher.dashboard import PlainLines, State, fold, render
from mux.event import (
    Event,
    Heartbeat,
    JobEnded,
    JobStarted,
    Progress,
    RankFailed,
    RankStarted,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    StageDone,
    StageStarted,
    StepDone,
    TrainingDone,
    TrainingStarted,
)

START = 1_800_000_000.0
TASKS, RATES, BATCHES, SEEDS = ("mnli", "sst2", "rte"), (2e-5, 5e-5), (16, 64), (0,)
HOSTS = [{"name": "node-a", "ranks": [0, 1]}, {"name": "node-b", "ranks": [2, 3]}]
WHERE = {rank: host["name"] for host in HOSTS for rank in host["ranks"]}  # type: ignore[attr-defined]


def name(task: str, rate: float = 2e-5, batch: int = 16, seed: int = 0) -> str:
    return f"{task}/seed{seed}_lr{rate:g}_batch{batch}"


def announced(done: tuple[str, ...] = (), **changes: object) -> RunStarted:
    grid = {"rates": RATES, "batches": BATCHES, "seeds": SEEDS, "tasks": TASKS} | changes
    trainings = [{"name": name(task, rate, batch, seed), "task": task, "seed": seed, "learning_rate": rate,
                  "batch": batch, "steps": 100, "done": name(task, rate, batch, seed) in done}
                 for task, rate, batch, seed in product(
                     grid["tasks"], grid["rates"], grid["batches"], grid["seeds"])]  # type: ignore[call-overload]
    stages = [{"id": "finetune", "kind": "finetune", "steps": None, "done": False, "trainings": trainings},
              {"id": "ensemble", "kind": "ensemble", "steps": None, "done": False}]
    return RunStarted(time=START, name="glue", directory="/runs/glue", model="bert BASE, N = 2", N=2, stages=stages,
                      hosts=HOSTS, resumed=bool(done))


def job(rank: int) -> list[Event]:
    hosts = [{"name": WHERE[rank], "ranks": [rank]}]
    device = f"cuda:{rank % 2} A100"
    return [JobStarted(time=START + 1, job=rank, stages=["finetune"], hosts=hosts),
            RankStarted(time=START + 2, host=WHERE[rank], rank=rank, pid=rank, device=device, job=rank),
            StageStarted(time=START + 2, host=WHERE[rank], rank=rank, stage="finetune", kind="finetune")]


def begun(rank: int, training: str, time: float = 3.0) -> TrainingStarted:
    return TrainingStarted(time=START + time, host=WHERE[rank], rank=rank, stage="finetune", training=training,
                           task=training.split("/")[0], steps=100)


def step(rank: int, training: str, number: int, time: float, loss: float = 0.5) -> StepDone:
    return StepDone(time=START + time, host=WHERE[rank], rank=rank, stage="finetune", training=training,
                    task=training.split("/")[0], step=number, steps=100, loss=loss, seconds_compute=0.1)


def ended(rank: int, training: str, mean: float, time: float = 30.0) -> TrainingDone:
    return TrainingDone(time=START + time, host=WHERE[rank], rank=rank, stage="finetune", training=training,
                        task=training.split("/")[0], metric="accuracy", mean=mean, std=0.01, seconds=27.0)


def folded(*told: Event | list[Event], state: State | None = None) -> State:
    state = state or State()
    for event in told:
        state = folded(*event, state=state) if isinstance(event, list) else fold(state, event)
    return state


def drawn(state: State, width: int, height: int | None = None) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(state, state.time + 1, width, height))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def busy() -> list[Event]:
    """Four devices in the middle of twelve trainings."""
    first = [name("mnli"), name("sst2"), name("rte"), name("mnli", 5e-5)]
    return [
        announced(),
        *(event for rank in range(4) for event in job(rank)),
        *(begun(rank, training) for rank, training in enumerate(first)),
        *(step(rank, training, number, 3 + number / 10 + rank / 100)
          for number in range(10, 51, 10) for rank, training in enumerate(first)),
        step(1, name("sst2"), 100, 13.5), ended(1, name("sst2"), 0.912, 14.0),
        begun(1, name("sst2", 2e-5, 64), 14.1), step(1, name("sst2", 2e-5, 64), 100, 24.1),
        ended(1, name("sst2", 2e-5, 64), 0.905, 24.5), begun(1, name("rte", 2e-5, 64), 24.6),
        RankFailed(time=START + 25, host="node-b", rank=2, error="out of memory"),
        JobEnded(time=START + 26, job=2, code=1),
    ]


def test_trainings_are_announced_and_fill(busy: list[Event]) -> None:
    stage = folded(busy[0]).stages["finetune"]
    assert (len(stage.trainings), stage.step, stage.steps, stage.number("waiting")) == (12, 0, 1200, 12)
    stage = folded(*busy).stages["finetune"]
    assert (stage.status, stage.step) == ("running", 50 + 100 + 50 + 50 + 100)
    status = {training: one.status for training, one in stage.trainings.items() if one.status != "waiting"}
    assert status == {
        name("mnli"): "running", name("mnli", 5e-5): "running", name("sst2"): "done",
        name("sst2", 2e-5, 64): "done", name("rte"): "failed", name("rte", 2e-5, 64): "running"}
    assert stage.trainings[name("sst2")].score == 0.912
    assert stage.trainings[name("rte", 2e-5, 64)].device == ("node-a", 1)


def test_jobs_at_once_share_the_hosts_and_end_one_by_one(busy: list[Event]) -> None:
    state = folded(announced(), *(job(rank) for rank in range(4)))
    assert {host: list(ranks) for host, ranks in state.hosts.items()} == {"node-a": [0, 1], "node-b": [2, 3]}
    state = folded(*busy)
    assert {host: list(ranks) for host, ranks in state.hosts.items()} == {"node-a": [0, 1], "node-b": [2, 3]}
    assert state.hosts["node-b"][2].error == "out of memory"
    again = folded(JobStarted(job=2, stages=["finetune"], hosts=[{"name": "node-b", "ranks": [2]}], attempt=2),
                   JobEnded(job=0, code=0), state=state)
    assert {host: list(ranks) for host, ranks in again.hosts.items()} == {"node-a": [1], "node-b": [2, 3]}
    assert again.hosts["node-b"][2].error == ""
    over = folded(*(JobEnded(job=rank, code=0) for rank in range(4)), state=again)
    assert over.jobs == {} and over.hosts == {"node-a": {}, "node-b": {}}
    alone = folded(JobStarted(job=9, stages=["ensemble"], hosts=[{"name": "node-a", "ranks": [0]}]), state=over)
    assert {host: list(ranks) for host, ranks in alone.hosts.items()} == {"node-a": [0], "node-b": []}


def test_the_pace_is_that_of_all_trainings_together() -> None:
    first = [name("mnli"), name("sst2"), name("rte"), name("mnli", 5e-5)]
    steps = [step(rank, training, number, number / 10 - (5.0 if rank == 3 else 0.0))  # its clock is 5 s behind
             for number in range(10, 91, 10) for rank, training in enumerate(first)]
    state = folded(announced())
    for event in steps:
        state = fold(state, event, seen=event.time + (5.0 if event.rank == 3 else 0.0))
    stage = state.stages["finetune"]
    assert (stage.step, stage.steps) == (360, 1200)
    assert stage.eta == pytest.approx(840 / 40, rel=0.1)


def test_one_training_is_followed_at_a_time(busy: list[Event]) -> None:
    at = next(index for index, event in enumerate(busy) if isinstance(event, StepDone) and event.step == 50)
    stage = folded(*busy[: at + 4]).stages["finetune"]
    assert stage.followed == name("mnli") and stage.last is not None and stage.last.task == "mnli"
    assert [number for number, _ in stage.losses.points] == [10, 20, 30, 40, 50]
    later = folded(ended(0, name("mnli"), 0.8), step(3, name("mnli", 5e-5), 60, 31.0, loss=0.25),
                   state=folded(*busy[: at + 4])).stages["finetune"]
    assert later.followed == name("mnli", 5e-5) and later.losses.points == ((60, 0.25),)


def test_a_resumed_run_knows_what_is_done(busy: list[Event]) -> None:
    state = folded(*busy, RunStopped(time=START + 40, reason="SIGTERM"))
    stage = state.stages["finetune"]
    assert stage.status == "stopped" and stage.number("running") == 0 and stage.number("failed") == 1
    state = folded(announced(done=(name("sst2"), name("sst2", 2e-5, 64))), state=state)
    stage = state.stages["finetune"]
    assert (stage.number("done"), stage.number("waiting"), stage.step) == (2, 10, 350)
    assert stage.trainings[name("sst2")].score == 0.912
    stage = folded(TrainingStarted(time=START, host="node-a", rank=0, stage="finetune", training=name("mnli"),
                                   task="mnli", steps=100, from_step=30), state=state).stages["finetune"]
    assert (stage.trainings[name("mnli")].step, stage.step) == (30, 330)


def test_trainings_that_nobody_announced_are_added() -> None:
    state = folded(begun(0, "x/y"), step(0, "x/z", 10, 4.0), ended(1, "x/w", 0.5))
    assert list(state.stages["finetune"].trainings) == ["x/y", "x/z", "x/w"]
    assert "trainings of finetune: 1 of 3 done, 2 running" in drawn(state, 80)
    both = folded(announced(), begun(0, "mnli/other"))
    assert "1 running" in drawn(both, 100)


def test_the_table_of_trainings(busy: list[Event], golden: Callable[[str, str], None]) -> None:
    golden("trainings_100.txt", drawn(folded(*busy), 100))


def test_the_table_becomes_a_list_of_numbers_where_it_does_not_fit(
    busy: list[Event], golden: Callable[[str, str], None]
) -> None:
    golden("trainings_30.txt", drawn(folded(*busy), 30))
    text = drawn(folded(announced(seeds=tuple(range(20)))), 100)
    assert "waiting" not in text  # nothing has begun
    text = drawn(folded(announced(seeds=tuple(range(20))), begun(0, name("mnli"))), 100)
    assert "trainings of finetune: 0 of 240 done, 1 running" in text
    assert any(line.split()[1:4] == ["mnli", "1", "79"] for line in text.splitlines())


@pytest.mark.parametrize(("changes", "headers"), [
    ({}, [["learning", "rate", "2e-05", "2e-05", "5e-05", "5e-05"], ["batch", "16", "64", "16", "64"]]),
    ({"batches": (16,)}, [["learning", "rate", "2e-05", "5e-05"]]),
    ({"rates": (2e-5,)}, [["batch", "16", "64"]]),
    ({"rates": (2e-5,), "batches": (16,), "seeds": (0, 1)}, [["seed", "0", "1"]]),
    ({"rates": (2e-5,), "seeds": (0, 1)}, [["batch", "16", "16", "64", "64"], ["seed", "0", "1", "0", "1"]]),
    ({"rates": (2e-5,), "batches": (16,)}, [["task", "score", "loss", "rank"]]),
])
def test_columns_say_what_tells_them_apart(changes: dict[str, object], headers: list[list[str]]) -> None:
    text = drawn(folded(announced(**changes), begun(0, name("mnli")), step(0, name("mnli"), 20, 4.0)), 80)
    lines = [line.split()[1:-1] for line in text.split("trainings of")[1].splitlines()[1:]]
    assert lines[: len(headers)] == headers and lines[len(headers)][:3] == ["mnli", "20", "%"]


def test_of_many_tasks_those_that_are_not_done_are_shown() -> None:
    tasks = tuple(f"task{number:02}" for number in range(30))
    grid = {"tasks": tasks, "batches": (16,)}
    done = [ended(0, name(task, rate), 0.5) for task in tasks[:15] for rate in RATES]
    state = folded(announced(**grid), begun(0, name("task29")), *done)
    text = drawn(state, 100, 30)
    assert "task15" in text and "task00" not in text and "more tasks" in text


def test_a_single_training_needs_no_table() -> None:
    state = folded(announced(tasks=("rte",), rates=(2e-5,), batches=(16,)), begun(0, name("rte")),
                   step(0, name("rte"), 20, 4.0))
    text = drawn(state, 100)
    assert "trainings of" not in text and "20 / 100" in text and "─ finetune rte ─" in text


def test_the_work_of_one_of_many_is_not_shown_as_the_stages(busy: list[Event]) -> None:
    work = Progress(time=START + 27, host="node-a", rank=0, stage="finetune", what="evaluating", done=1, total=5)
    assert "evaluating" not in drawn(folded(*busy, work), 100)
    alone = folded(announced(), begun(0, name("mnli")), work)
    assert "evaluating" in drawn(alone, 100)


@pytest.mark.parametrize("height", [6, 10, 14, 16, 20, 24, 30, 40, 60])
@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_the_table_keeps_to_the_screen(busy: list[Event], width: int, height: int) -> None:
    for told in ([announced()], busy, [*busy, RunFailed(time=START + 30, code=1, reason="x")]):
        lines = drawn(folded(*told), width, height).splitlines()
        assert len(lines) <= height and {cell_len(line) for line in lines} == {width}
    shown = any("trainings of" in line for line in drawn(folded(*busy), width, height).splitlines())
    assert shown or width < 60 or height < 24


def test_the_table_stays_until_the_run_ends(busy: list[Event]) -> None:
    done = [StageDone(time=START + 50, stage="finetune", result={"tasks": {}}, seconds=50.0),
            StageStarted(time=START + 51, stage="ensemble", kind="ensemble"),
            RunFinished(time=START + 60, seconds=60.0)]
    assert "trainings of finetune" in drawn(folded(*busy, done), 100)


def test_plain_lines_say_when_trainings_start_and_end(busy: list[Event]) -> None:
    printer = PlainLines()
    lines = [line.split(" ", 1)[1] for event in busy for line in printer.lines(event)]
    assert f"finetune {name('rte')} starts on rank 2, 100 steps" in lines
    assert f"finetune {name('sst2')} done in 0:27: accuracy .912 ± .010" in lines
    steps = [line for line in lines if " loss " in line]
    assert steps and all(line.startswith(f"finetune {name('mnli')} ") for line in steps)
    assert sum("starts on rank" in line for line in lines) == 6
    resumed = TrainingStarted(stage="s", training="t", task="t", steps=9, from_step=3)
    assert printer.lines(resumed)[0].endswith("s t starts, 9 steps, resumed from step 3")


def test_a_heartbeat_from_each_device_is_seen_beside_the_others(busy: list[Event]) -> None:
    beats = [Heartbeat(time=START + 29, host=WHERE[rank], rank=rank, stage="finetune", step=rank, memory_bytes=2**30)
             for rank in (0, 1, 3)]
    text = drawn(folded(*busy, *beats), 100)
    assert "rank 2 failed" in text and any("node-a" in line and "0-1" in line for line in text.splitlines())
