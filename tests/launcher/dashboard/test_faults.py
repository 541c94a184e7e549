"""What the dashboard says of a run that does not go on as it should."""

from __future__ import annotations

import pytest

from launcher.dashboard import PlainLines, State, fold
from mux.event import (
    CheckpointSaved,
    Event,
    Heartbeat,
    HostDropped,
    JobEnded,
    JobFailed,
    JobStarted,
    RankSignalled,
    RankStarted,
    Resized,
    Restarting,
    RolledBack,
    RunStarted,
    StageStarted,
    StepDone,
)
from tests.launcher.dashboard.test_screen import drawn

HOSTS = [{"name": "a", "ranks": [0, 1]}, {"name": "b", "ranks": [2, 3]}]
SILENT = JobFailed(time=40.0, job=0, kind="silent", text="rank 3 on b has sent no heartbeat for 31 s", on="b", by=3)
STORY: tuple[Event, ...] = (
    RunStarted(time=0.0, name="r", directory="/runs/r", model="bert TINY", N=2, hosts=HOSTS,
               stages=[{"id": "two", "kind": "pretrain", "steps": 100, "done": False}]),
    JobStarted(time=1.0, job=0, stages=["two"], hosts=HOSTS),
    *(RankStarted(time=2.0, host=row["name"], rank=rank, pid=rank, device="cpu", job=0)
      for row in HOSTS for rank in row["ranks"]),
    StepDone(time=9.0, host="a", rank=0, stage="two", step=50, steps=100, loss=4.0),
    SILENT,
    JobEnded(time=41.0, job=0, code=-9),
    Restarting(time=41.0, job=0, seconds=4.0, failures=2, most=10),
    HostDropped(time=60.0, name="b", reason="no route to host"),
    Resized(time=60.0, hosts=["a"], idle=["c"], devices=2, before=4),
    JobStarted(time=61.0, job=0, stages=["two"], hosts=HOSTS[:1], attempt=2),
)


def after(*events: Event) -> State:
    state = State()
    for event in events:
        state = fold(state, event)
    return state


def told(*events: Event) -> list[str]:
    lines = PlainLines()
    return [line.split(" ", 1)[1] for event in events for line in lines.lines(event)]


def until(last: type[Event]) -> tuple[Event, ...]:
    return STORY[: next(index for index, event in enumerate(STORY) if isinstance(event, last)) + 1]


def test_every_decision_is_a_line() -> None:
    assert told(*STORY)[-5:] == [
        "error: job 0 failed: rank 3 on b has sent no heartbeat for 31 s",
        "warning: job 0 is starting again in 4 s (2 of 10 without progress)",
        "error: the run goes on without host b: no route to host",
        "warning: the run goes on with 2 of 4 devices, on a; idle, since the batch cannot be divided over them, too: c",
        "warning: job 0 (two) on a ranks 0-1, attempt 2",
    ]


def test_a_job_that_ended_without_a_reason_is_told_too() -> None:
    """As in the logs of earlier versions."""
    assert told(JobEnded(time=1.0, job=0, code=1)) == ["error: job 0 failed with exit status 1"]
    assert told(SILENT, JobStarted(job=0, stages=["two"], hosts=HOSTS), JobEnded(time=1.0, job=0, code=1))[-1] == (
        "error: job 0 failed with exit status 1")


@pytest.mark.parametrize("kind", ["silent", "killed", "stalled", "rank"])
def test_the_rank_at_fault_is_seen_beside_its_host(kind: str) -> None:
    failed = JobFailed(time=40.0, job=0, kind=kind, text="x", on="b", by=3)
    state = after(*until(StepDone), failed, JobEnded(time=41.0, job=0, code=-9))
    assert f"rank 3 {'failed' if kind == 'rank' else kind}" in drawn(state, 100)
    assert "rank 3" not in drawn(after(*STORY), 100).split("last events")[0], "it has started again"


def test_a_dropped_host_is_seen_until_the_next_start() -> None:
    state = after(*STORY)
    assert "dropped" in drawn(state, 100) and state.dropped == {"b"}
    again = fold(state, STORY[0])
    assert again.dropped == frozenset() and "dropped" not in drawn(again, 100).split("last events")[0]


def test_a_rollback_takes_the_stage_back() -> None:
    rolled = RolledBack(time=10.0, stage="two", step=50, to_step=40, reason="the loss is not finite", rollbacks=1)
    state = after(*until(StepDone), rolled)
    assert state.stages["two"].step == 40
    assert told(rolled) == ["warning: two rolled back from step 50 to 40, past the batches in between (number 1): "
                            "the loss is not finite"]


def test_the_rest_of_what_is_new() -> None:
    saved = CheckpointSaved(stage="two", step=40, path="x", bytes=2**20, seconds=0.5, stalled=0.02)
    assert told(saved) == ["two checkpoint at step 40 (1.0 MiB in 500 ms, training stood still for 20 ms)"]
    assert told(RankSignalled(host="a", rank=1, signal="SIGTERM")) == ["warning: rank 1 on a was sent SIGTERM"]
    assert told(Heartbeat(host="a", rank=1, stage=None, step=0, memory_bytes=1, where="loop.py:7 agree")) == []


def test_a_stage_that_several_jobs_share_starts_once() -> None:
    trainings = [{"name": f"t/{seed}", "task": "t", "seed": seed, "steps": 4} for seed in (0, 1)]
    start = RunStarted(name="r", directory="/runs/r", model="bert TINY", N=2, hosts=HOSTS, stages=[
        {"id": "tune", "kind": "finetune", "steps": None, "done": False, "trainings": trainings}])
    starts = [StageStarted(host="a", rank=rank, stage="tune", kind="finetune") for rank in (0, 1)]
    assert told(start, *starts)[1:] == ["tune starts"]
    assert [latest.text for latest in after(start, *starts).latest] == ["tune starts"]
    again = fold(after(start, *starts), start)
    assert [latest.text for latest in fold(again, starts[0]).latest] == ["tune starts"]
