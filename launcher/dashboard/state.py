"""The state of a run as its events tell it: a pure fold, everything that is drawn comes from here.

    state = State()
    for event in EventReader(run.events).read():
        state = fold(state, event)

A state is never changed, only replaced. One event costs about the same at step 10 as at step 1,000,000: what
grows with the run (losses, last events) is kept bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from launcher.dashboard.figures import clean
from launcher.dashboard.sentences import Level, sentence
from launcher.dashboard.series import Pace, Trace
from mux import event as events

LATEST = 12  # last events
EVALUATIONS = 200

StageStatus = Literal["waiting", "running", "done", "stopped", "failed"]


@dataclass(frozen=True)
class Stage:
    id: str
    kind: str = ""
    steps: int | None = None
    status: StageStatus = "waiting"
    step: int = 0
    last: events.StepDone | None = None
    losses: Trace = field(default_factory=Trace)
    pace: Pace = field(default_factory=Pace)
    seconds: float | None = None  # of a stage that is done
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def eta(self) -> float | None:
        """Seconds until the last step, by the recent pace; right after a start by the time a step takes."""
        if self.last is None or self.steps is None or self.status != "running":
            return None
        rate = self.pace.rate
        if rate is None:
            parts = (self.last.seconds_data, self.last.seconds_compute, self.last.seconds_save)
            seconds = sum(part for part in parts if part is not None)
            rate = 1 / seconds if seconds > 1e-9 else None
        return max(0, self.steps - self.step) / rate if rate else None


@dataclass(frozen=True)
class Rank:
    """`seen` is the time of this machine's clock at which the rank last said something (see `fold`)."""

    seen: float
    device: str = ""
    step: int | None = None  # that its main thread is at
    memory: int | None = None  # bytes
    gpu_memory: int | None = None
    gpu_use: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Work:
    """Long work that is not optimizer steps."""

    what: str
    stage: str | None
    done: int
    total: int | None
    unit: str
    pace: Pace = field(default_factory=Pace)

    @property
    def eta(self) -> float | None:
        return (self.total - self.done) / rate if self.total and (rate := self.pace.rate) else None


@dataclass(frozen=True)
class Latest:
    time: float
    text: str
    level: Level


RunStatus = Literal["waiting", "running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class State:
    name: str = ""
    directory: str = ""
    model: str = ""
    N: int = 1
    status: RunStatus = "waiting"
    reason: str = ""  # why it stopped or failed
    started: float | None = None  # this start of the run
    time: float = 0.0  # when the newest event was seen; a picture of the past is drawn as of then
    stages: dict[str, Stage] = field(default_factory=dict)  # in the order of the recipe
    current: str | None = None
    hosts: dict[str, dict[int, Rank]] = field(default_factory=dict)  # no ranks: idle in this job
    work: Work | None = None
    evaluations: dict[tuple[str, str, str, int], events.Evaluated] = field(default_factory=dict)
    latest: tuple[Latest, ...] = ()

    @property
    def ended(self) -> bool:
        return self.status in ("finished", "stopped", "failed")

    @property
    def stage(self) -> Stage | None:
        return self.stages.get(self.current) if self.current is not None else None


def fold(state: State, event: events.Event, seen: float | None = None) -> State:
    """The state after one more event.

    `seen` is the reader's own clock at the moment it saw the event: the age of a heartbeat must not depend on
    whether the clocks of two machines agree. A replay of the past has no such moment, only the event's time.
    """
    seen = event.time if seen is None else seen
    state = replace(state, time=max(state.time, seen))
    if event.host is not None and event.rank is not None:
        state = _with_rank(state, event.host, event.rank, seen=seen)
    if (rule := RULES.get(type(event))) is not None:
        state = rule(state, event)
    if (told := sentence(event)) is not None and not isinstance(event, UNTOLD):
        text = told.text.replace(f"{clean(state.directory)}/", "") if state.directory else told.text
        latest = Latest(event.time, text, told.level)
        state = replace(state, latest=(*state.latest[-(LATEST - 1):], latest))
    return state


# What the panels above the last events show already.
UNTOLD = (events.RunStarted, events.RunFinished, events.StageDone)


def _with_rank(state: State, host: str, number: int, **changes: Any) -> State:
    ranks = state.hosts.get(host, {})
    rank = replace(ranks[number], **changes) if number in ranks else Rank(**({"seen": state.time} | changes))
    return replace(state, hosts={**state.hosts, host: {**ranks, number: rank}})


def _with_stage(state: State, id: str, **changes: Any) -> State:
    """Change a stage, adding it at the end if the run did not announce it."""
    stage = replace(state.stages.get(id) or Stage(id), **changes)
    return replace(state, stages={**state.stages, id: stage})


def _placed(rows: list[dict[str, Any]], seen: float) -> dict[str, dict[int, Rank]]:
    return {str(row.get("name")): {number: Rank(seen) for number in row.get("ranks") or ()} for row in rows}


def _run_started(state: State, event: events.RunStarted) -> State:
    """A run that goes on keeps its loss curves, evaluations and last events; any other start begins empty."""
    before = state if event.resumed else State(time=state.time)
    stages = {}
    for row in event.stages:
        id = str(row.get("id"))
        stage = before.stages.get(id, Stage(id))
        stages[id] = replace(stage, kind=str(row.get("kind") or ""), steps=row.get("steps"), pace=Pace(),
                             status="done" if row.get("done") else "waiting")
    idle: dict[str, dict[int, Rank]] = {str(row.get("name")): {} for row in event.hosts}
    return replace(before, name=event.name, directory=event.directory, model=event.model, N=event.N,
                   status="running", reason="", started=event.time, stages=stages, current=None, hosts=idle,
                   work=None)


def _job_started(state: State, event: events.JobStarted) -> State:
    idle: dict[str, dict[int, Rank]] = {name: {} for name in state.hosts}
    stages = {id: replace(stage, pace=Pace()) for id, stage in state.stages.items()}
    return replace(state, hosts=idle | _placed(event.hosts, state.time), stages=stages, work=None)


def _job_ended(state: State, event: events.JobEnded) -> State:
    """Its processes are gone; a rank that failed stays in sight."""
    failed = {name: {number: rank for number, rank in ranks.items() if rank.error}
              for name, ranks in state.hosts.items()}
    return replace(state, hosts=failed, work=None)


def _ended(status: RunStatus, interrupted: StageStatus) -> Callable[[State, Any], State]:
    def end(state: State, event: Any) -> State:
        for stage in state.stages.values():
            if stage.status == "running":
                state = _with_stage(state, stage.id, status=interrupted)
        return replace(state, status=status, reason=getattr(event, "reason", ""), work=None)
    return end


def _rank_started(state: State, event: events.RankStarted) -> State:
    if event.host is None or event.rank is None:
        return state
    return _with_rank(state, event.host, event.rank, device=event.device, error="")


def _rank_failed(state: State, event: events.RankFailed) -> State:
    if event.host is None or event.rank is None:
        return state
    return _with_rank(state, event.host, event.rank, error=event.error)


def _heartbeat(state: State, event: events.Heartbeat) -> State:
    if event.host is None or event.rank is None:
        return state
    return _with_rank(state, event.host, event.rank, step=event.step, memory=event.memory_bytes,
                      gpu_memory=event.gpu_memory_bytes, gpu_use=event.gpu_use)


def _stage_started(state: State, event: events.StageStarted) -> State:
    state = _with_stage(state, event.stage, kind=event.kind, steps=event.steps, step=event.from_step,
                        status="running", pace=Pace())
    return replace(state, current=event.stage, work=None)


def _step_done(state: State, event: events.StepDone) -> State:
    stage = state.stages.get(event.stage) or Stage(event.stage)
    losses = stage.losses if event.loss is None else stage.losses.add(event.step, event.loss)
    state = _with_stage(state, event.stage, step=event.step, steps=event.steps, status="running", last=event,
                        losses=losses, pace=stage.pace.add(event.time, event.step))
    return replace(state, current=event.stage, work=None)


def _progress(state: State, event: events.Progress) -> State:
    before = state.work
    same = before is not None and (before.what, before.stage) == (event.what, event.stage)
    pace = (before.pace if same and before else Pace()).add(event.time, event.done)
    return replace(state, work=Work(event.what, event.stage, event.done, event.total, event.unit, pace))


def _evaluated(state: State, event: events.Evaluated) -> State:
    key = (event.stage, event.task, event.metric, event.copies)
    kept = {other: row for other, row in state.evaluations.items() if other != key}
    if len(kept) >= EVALUATIONS:
        del kept[next(iter(kept))]
    return replace(state, evaluations={**kept, key: event})


def _stage_done(state: State, event: events.StageDone) -> State:
    state = _with_stage(state, event.stage, status="done", result=event.result, seconds=event.seconds)
    return replace(state, work=None)


RULES: dict[type[events.Event], Callable[[State, Any], State]] = {
    events.RunStarted: _run_started,
    events.JobStarted: _job_started,
    events.JobEnded: _job_ended,
    events.RunFinished: _ended("finished", "done"),
    events.RunStopped: _ended("stopped", "stopped"),
    events.RunFailed: _ended("failed", "failed"),
    events.RankStarted: _rank_started,
    events.RankFailed: _rank_failed,
    events.Heartbeat: _heartbeat,
    events.StageStarted: _stage_started,
    events.StepDone: _step_done,
    events.Progress: _progress,
    events.Evaluated: _evaluated,
    events.StageDone: _stage_done,
}
