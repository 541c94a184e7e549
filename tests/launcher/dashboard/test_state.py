from __future__ import annotations

import copy
from collections.abc import Iterable

import pytest

from launcher.dashboard import State, fold
from launcher.dashboard.folding import EVALUATIONS, LATEST
from launcher.dashboard.series import Pace
from mux.event import (
    Evaluated,
    Event,
    Heartbeat,
    JobEnded,
    JobStarted,
    Notice,
    Progress,
    RankFailed,
    RunFailed,
    RunStarted,
    RunStopped,
    StageDone,
    StageStarted,
    StepDone,
)
from mux.trace import POINTS, Trace

HOSTS = [{"name": "a", "ranks": [0, 1]}, {"name": "b", "ranks": [2]}]


def folded(events: Iterable[Event], state: State | None = None) -> State:
    state = state or State()
    for event in events:
        state = fold(state, event)
    return state


def started(*, time: float = 0.0, resumed: bool = False, done: bool = False) -> RunStarted:
    return RunStarted(
        time=time,
        name="r",
        directory="/runs/r",
        model="bert TINY, N = 2",
        N=2,
        resumed=resumed,
        hosts=HOSTS,
        stages=[
            {"id": "one", "kind": "retrieval", "steps": 100, "done": done},
            {"id": "two", "kind": "pretrain", "steps": 1000, "done": False},
        ],
    )


def step(number: int, time: float, **changes: object) -> StepDone:
    values: dict[str, object] = {"stage": "two", "steps": 1000, "loss": 5.0, "seconds_compute": 0.5}
    return StepDone(step=number, time=time, **(values | changes))  # type: ignore[arg-type]


def test_a_whole_run(story: list[Event]) -> None:
    state = folded(story)
    assert (state.name, state.model, state.N, state.status) == (
        "quickstart",
        "bert TINY, N = 2",
        2,
        "finished",
    )
    assert list(state.stages) == ["retrieval", "pretrain", "finetune", "ensemble"]
    pretrain = state.stages["pretrain"]
    assert (pretrain.status, pretrain.step, pretrain.steps, pretrain.seconds) == ("done", 400, 400, 20.0)
    assert pretrain.last is not None and pretrain.last.learning_rate == 0
    assert [point for point, _ in pretrain.losses.points] == list(range(10, 401, 10))
    assert [row.mean for row in state.evaluations.values()] == [0.431, 0.447]
    assert [told.text for told in state.latest[-2:]] == [
        "job 1 (finetune, ensemble) on localhost ranks 0",
        "ensemble starts",
    ]
    assert "pretrain: loss is fine" in [told.text for told in state.latest if told.level == "warning"]
    assert "pretrain model saved: pretrain/model" in [told.text for told in state.latest]
    assert state.work is None


def test_in_the_middle_of_a_run(story: list[Event]) -> None:
    at = next(
        index
        for index, event in enumerate(story)
        if isinstance(event, StepDone) and (event.stage, event.step) == ("pretrain", 250)
    )
    state = folded(story[: at + 3])
    assert (state.current, state.status) == ("pretrain", "running")
    assert [stage.status for stage in state.stages.values()] == ["done", "running", "waiting", "waiting"]
    ranks = state.hosts["localhost"]
    assert {number: rank.memory for number, rank in ranks.items()} == {0: 700 * 2**20, 1: 701 * 2**20}
    assert ranks[1].device == "cpu" and ranks[1].step == 250
    assert state.stages["pretrain"].eta == pytest.approx(150 * 0.05)


def test_one_event_at_a_time_or_all_at_once_and_earlier_states_stay(story: list[Event]) -> None:
    state, states = State(), []
    for event in story:
        state = fold(state, event)
        states.append((state, copy.deepcopy(state)))
    assert all(kept == then for kept, then in states)
    half = len(story) // 2
    assert folded(story[half:], folded(story[:half])) == state == folded(story)


def test_unknown_stages_and_hosts_are_added() -> None:
    state = folded(
        [
            step(10, 1.0, stage="surprise", host="z", rank=7),
            Heartbeat(time=2.0, host="z", rank=7, stage=None, step=0, memory_bytes=1),
        ]
    )
    assert (state.current, state.stages["surprise"].step) == ("surprise", 10)
    assert state.hosts["z"][7].memory == 1


def test_a_loss_that_was_not_finite_leaves_no_point() -> None:
    state = folded([started(), step(10, 1.0, loss=None), step(20, 2.0)])
    assert state.stages["two"].losses.points == ((20, 5.0),)
    assert state.stages["two"].step == 20


def test_eta_is_by_the_recent_pace() -> None:
    state = folded([started(), *(step(number, number / 2) for number in range(10, 501, 10))])
    assert state.stages["two"].eta == pytest.approx(500 / 2)
    slower = folded([step(500 + number, 250.0 + 5 * number) for number in range(10, 401, 10)], state)
    assert slower.stages["two"].eta == pytest.approx(100 * 5.0)


def test_eta_from_one_step_alone_and_without_any() -> None:
    state = folded([started(), StageStarted(time=1.0, stage="two", kind="pretrain", steps=1000)])
    assert state.stages["two"].eta is None
    assert folded([step(10, 2.0)], state).stages["two"].eta == pytest.approx(990 * 0.5)
    assert folded([step(10, 2.0, seconds_compute=None)], state).stages["two"].eta is None


def test_eta_does_not_count_the_time_between_two_starts() -> None:
    state = folded([started(), *(step(number, number / 2) for number in range(10, 481, 10))])
    stopped = folded([RunStopped(time=240, reason="x"), started(time=4000, resumed=True)], state)
    for again in (
        StageStarted(time=4001, stage="two", kind="pretrain", steps=1000, from_step=480),
        JobStarted(time=4001, job=0, stages=["two"], hosts=HOSTS),
    ):
        for before in (state, stopped):
            later = folded([again, step(490, 4005.0), step(500, 4010.0)], before)
            assert later.stages["two"].eta == pytest.approx(500 / 2)


def test_resumed_in_the_same_file_an_hour_later() -> None:
    before = folded(
        [
            started(),
            StageDone(time=1, stage="one", result={"loss": 1.0}, seconds=1),
            *(step(number, number / 2, loss=number) for number in range(10, 481, 10)),
            RunStopped(time=240, reason="SIGTERM"),
        ]
    )
    assert (before.status, before.reason, before.stages["two"].status) == ("stopped", "SIGTERM", "stopped")
    assert before.stages["two"].eta is None

    resumed = [
        started(time=4000, resumed=True, done=True),
        JobStarted(time=4001, job=0, stages=["two"], hosts=HOSTS),
        StageStarted(time=4005, stage="two", kind="pretrain", steps=1000, from_step=400),
    ]
    state = folded(resumed, before)
    assert (state.status, state.reason, state.started) == ("running", "", 4000)
    assert [(stage.status, stage.step) for stage in state.stages.values()] == [("done", 0), ("running", 400)]
    assert state.stages["one"].result == {"loss": 1.0}

    state = folded([step(410, 4010.0, loss=-1.0), step(420, 4015.0, loss=-1.0)], state)
    assert state.stages["two"].eta == pytest.approx(580 / 2)
    assert state.stages["two"].losses.points[-3:] == ((400, 400.0), (410, -1.0), (420, -1.0))
    assert len(state.stages["two"].losses.points) == 42


def test_a_fresh_start_in_the_same_file_forgets() -> None:
    state = folded(
        [started(), step(10, 1.0), Notice(text="x"), RunFailed(time=2, code=1, reason="y"), started(time=3)]
    )
    assert state.stages["two"].losses == Trace() and state.latest == () and state.reason == ""


def test_a_failure_names_its_rank_and_a_restart_forgets_it() -> None:
    state = folded(
        [
            started(),
            JobStarted(job=0, stages=["two"], hosts=HOSTS),
            step(10, 1.0),
            RankFailed(time=2.0, host="b", rank=2, error="out of memory"),
            JobEnded(time=3.0, job=0, code=-9),
        ]
    )
    assert state.hosts == {"a": {}, "b": {2: state.hosts["b"][2]}}
    assert state.hosts["b"][2].error == "out of memory"
    assert [told.text for told in state.latest[-2:]] == [
        "rank 2 on b failed: out of memory",
        "job 0 was killed by signal 9",
    ]
    failed = folded([RunFailed(time=4.0, code=-9, reason="rank 2 died")], state)
    assert (failed.status, failed.reason, failed.stages["two"].status) == ("failed", "rank 2 died", "failed")

    again = folded([JobStarted(time=5.0, job=0, stages=["two"], hosts=HOSTS[:1], attempt=2)], state)
    assert list(again.hosts["a"]) == [0, 1] and again.hosts["b"] == {}
    assert again.latest[-1].level == "warning" and "attempt 2" in again.latest[-1].text


def test_heartbeats_are_seen_by_the_readers_clock() -> None:
    beat = Heartbeat(time=50.0, host="a", rank=0, stage=None, step=1, memory_bytes=1)
    assert fold(State(), beat).hosts["a"][0].seen == 50.0
    assert fold(State(), beat, seen=1000.0).hosts["a"][0].seen == 1000.0


def test_progress_has_a_pace_and_goes_when_steps_come() -> None:
    work = [
        Progress(time=float(at), stage="two", what="tokenising", done=100 * at, total=1000) for at in range(4)
    ]
    state = folded([started(), *work])
    assert state.work is not None and state.work.eta == pytest.approx(7.0)
    assert (
        folded([Progress(time=9.0, stage="two", what="other", done=1, total=None)], state).work != state.work
    )
    assert folded([step(10, 5.0)], state).work is None


def test_an_evaluation_replaces_the_one_before_and_their_number_is_bounded() -> None:
    def evaluated(task: str, mean: float) -> Evaluated:
        return Evaluated(stage="finetune", task=task, metric="accuracy", mean=mean, std=0.0)

    state = folded([evaluated("a", 0.1), evaluated("b", 0.2), evaluated("a", 0.3)])
    assert [row.mean for row in state.evaluations.values()] == [0.2, 0.3]
    many = folded(evaluated(str(number), 0.1) for number in range(EVALUATIONS + 5))
    assert len(many.evaluations) == EVALUATIONS and many.evaluations.popitem()[1].task == str(EVALUATIONS + 4)


def test_a_million_steps_take_no_more_room_than_a_thousand() -> None:
    trace, pace = Trace(), Pace()
    for number in range(10, 1_000_001, 10):
        trace = trace.add(number, float(number))
    assert POINTS // 2 <= len(trace.points) <= POINTS
    assert trace.points[0][1] == pytest.approx(
        (10 + trace.points[0][0]) / 2
    )  # the mean of all that it covers
    assert trace.points[-1][0] > 980_000
    state = folded(Notice(text=str(number)) for number in range(100))
    assert [told.text for told in state.latest] == [str(number) for number in range(100 - LATEST, 100)]
    for number in range(1000):
        pace = pace.add(float(number), number)
    assert len(pace.samples) < 100 and pace.rate == 1.0


def test_a_curve_that_starts_again_is_a_new_curve() -> None:
    trace = Trace()
    for number in range(1, 1000):
        trace = trace.add(number, 1.0)
    assert trace.stride > 1 and trace.add(1, 2.0) == Trace(((1, 2.0),))


def test_a_pace_survives_clocks_and_counts_that_go_back() -> None:
    pace = Pace().add(10.0, 100).add(20.0, 200)
    assert pace.rate == 10.0
    assert pace.add(15.0, 300).rate is None and pace.add(30.0, 50).rate is None
    assert Pace().rate is None and Pace().add(1.0, 1).add(1.0, 5).rate is None
