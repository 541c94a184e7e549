"""Events folded into a state, one by one:

    state = State()
    for event in EventReader(run.events).read():
        state = fold(state, event)

One event costs about the same at step 10 as at step 1,000,000: what grows with the run (losses, last events) is kept
bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace
from typing import Any

from launcher.dashboard.figures import clean
from launcher.dashboard.sentences import sentence
from launcher.dashboard.series import Pace
from launcher.dashboard.state import Latest, Rank, RunStatus, Stage, StageStatus, State, Training, TrainingStatus, Work
from mux import event as events
from mux.trace import Trace

LATEST = 12  # last events
EVALUATIONS = 200


def fold(state: State, event: events.Event, seen: float | None = None) -> State:
    """The state after one more event.

    `seen` is the reader's own clock at the moment it saw the event: the age of a heartbeat must not depend on
    whether the clocks of two machines agree. A replay of the past has no such moment, only the event's time.
    """
    seen = event.time if seen is None else seen
    state = replace(state, time=max(state.time, seen))
    if event.host is not None and event.rank is not None:
        state = _with_rank(state, event.host, event.rank, seen=seen)
    again = repeated(state, event)
    if (rule := RULES.get(type(event))) is not None:
        state = rule(state, event)
    if (told := sentence(event)) is not None and not isinstance(event, UNTOLD) and not again:
        text = told.text.replace(f"{clean(state.directory)}/", "") if state.directory else told.text
        latest = Latest(event.time, text, told.level)
        state = replace(state, latest=(*state.latest[-(LATEST - 1):], latest))
    return state


# What the panels above the last events show already.
UNTOLD = (events.RunStarted, events.RunFinished, events.StageDone, events.TrainingStarted)


def repeated(state: State, event: events.Event) -> bool:
    """Whether `event` says nothing new: the end of a job whose failure was told, or one more start of a stage, which
    each job with some of its trainings announces for itself."""
    match event:
        case events.JobEnded():
            return event.job in state.failed
        case events.StageStarted():
            stage = state.stages.get(event.stage)
            return stage is not None and stage.several and stage.status == "running"
    return False


def _with_rank(state: State, host: str, number: int, **changes: Any) -> State:
    ranks = state.hosts.get(host, {})
    rank = replace(ranks[number], **changes) if number in ranks else Rank(**({"seen": state.time} | changes))
    return replace(state, hosts={**state.hosts, host: {**ranks, number: rank}})


def _with_stage(state: State, id: str, **changes: Any) -> State:
    """Change a stage, adding it at the end if the run did not announce it."""
    return _put(state, replace(state.stages.get(id) or Stage(id), **changes))


def _put(state: State, stage: Stage) -> State:
    return replace(state, stages={**state.stages, stage.id: stage})


def _placed(rows: list[dict[str, Any]], seen: float) -> dict[str, dict[int, Rank]]:
    return {str(row.get("name")): {number: Rank(seen) for number in row.get("ranks") or ()} for row in rows}


def _run_started(state: State, event: events.RunStarted) -> State:
    """A run that goes on keeps its loss curves, evaluations and last events; any other start begins empty."""
    before = state if event.resumed else State(time=state.time)
    stages = {}
    for row in event.stages:
        id = str(row.get("id"))
        stage = replace(before.stages.get(id, Stage(id)), kind=str(row.get("kind") or ""), steps=row.get("steps"),
                        pace=Pace(), status="done" if row.get("done") else "waiting")
        trainings = {str(one.get("name")): _announced(one, stage) for one in row.get("trainings") or ()}
        stages[id] = stage.with_trainings(trainings) if trainings else stage
    idle: dict[str, dict[int, Rank]] = {str(row.get("name")): {} for row in event.hosts}
    return replace(before, name=event.name, directory=event.directory, model=event.model, N=event.N,
                   status="running", reason="", started=event.time, stages=stages, current=None, hosts=idle,
                   dropped=frozenset(), jobs={}, failed=frozenset(), work=None)


def _announced(row: dict[str, Any], stage: Stage) -> Training:
    """A training as the launcher names it, with what an earlier start has said of it."""
    known: dict[str, Any] = {key: row.get(key) for key in ("seed", "learning_rate", "batch")}
    done, steps = bool(row.get("done")), row.get("steps") or 0
    before = stage.trainings.get(str(row.get("name"))) or Training(str(row.get("task")))
    return replace(before, **known, steps=steps, step=steps if done else before.step,
                   status="done" if done else "waiting")


def _job_started(state: State, event: events.JobStarted) -> State:
    """A job beside others adds its ranks to theirs; one that runs alone has all hosts for itself."""
    placed = _placed(event.hosts, state.time)
    taken = frozenset((host, number) for host, ranks in placed.items() for number in ranks)
    others = {job: ranks for job, ranks in state.jobs.items() if job != event.job}
    state = replace(state, jobs={**others, event.job: taken}, failed=state.failed - {event.job})
    if others:
        beside = {host: {**state.hosts.get(host, {}), **ranks} for host, ranks in placed.items()}
        return replace(state, hosts=state.hosts | beside)
    idle: dict[str, dict[int, Rank]] = {name: {} for name in state.hosts}
    stages = {id: replace(stage, pace=Pace()) for id, stage in state.stages.items()}
    return replace(state, hosts=idle | placed, stages=stages, work=None)


def _job_ended(state: State, event: events.JobEnded) -> State:
    """Its processes are gone; a rank that failed stays in sight, and so do those of other jobs."""
    jobs = {job: ranks for job, ranks in state.jobs.items() if job != event.job}
    staying = frozenset().union(*jobs.values())
    hosts = {name: {number: rank for number, rank in ranks.items() if rank.error or (name, number) in staying}
             for name, ranks in state.hosts.items()}
    state = _interrupted(state, "waiting" if event.code == 0 else "failed", staying)
    return replace(state, hosts=hosts, jobs=jobs, work=None)


def _job_failed(state: State, event: events.JobFailed) -> State:
    """The rank at fault stays in sight."""
    state = replace(state, failed=state.failed | {event.job})
    if event.on is None or event.by is None:
        return state
    fault = event.kind if event.kind in ("silent", "stalled", "killed") else "failed"
    return _with_rank(state, event.on, event.by, error=event.text, fault=fault)


def _host_dropped(state: State, event: events.HostDropped) -> State:
    return replace(state, hosts={**state.hosts, event.name: {}}, dropped=state.dropped | {event.name})


def _rolled_back(state: State, event: events.RolledBack) -> State:
    stage = state.stages.get(event.stage) or Stage(event.stage)
    if event.training is None:
        stage = replace(stage, step=event.to_step, pace=Pace())
    elif event.training in stage.trainings:
        stage = stage.with_training(event.training, "", step=event.to_step)
    return _put(state, stage)


def _interrupted(state: State, status: TrainingStatus, staying: Container[tuple[str | None, int | None]]) -> State:
    """Trainings that ran on other devices than those that stay do not run any more."""
    for stage in state.stages.values():
        changed = {name: replace(one, status=status) for name, one in stage.trainings.items()
                   if one.status == "running" and one.device not in staying}
        if changed:
            state = _put(state, stage.with_trainings(stage.trainings | changed))
    return state


def _ended(status: RunStatus, interrupted: StageStatus) -> Callable[[State, Any], State]:
    def end(state: State, event: Any) -> State:
        for stage in state.stages.values():
            if stage.status == "running":
                state = _with_stage(state, stage.id, status=interrupted)
        return replace(_interrupted(state, "waiting", ()), status=status, reason=getattr(event, "reason", ""),
                       work=None)
    return end


def _rank_started(state: State, event: events.RankStarted) -> State:
    if event.host is None or event.rank is None:
        return state
    return _with_rank(state, event.host, event.rank, device=event.device, error="", fault="")


def _rank_failed(state: State, event: events.RankFailed) -> State:
    if event.host is None or event.rank is None:
        return state
    return _with_rank(state, event.host, event.rank, error=event.error, fault="failed")


def _heartbeat(state: State, event: events.Heartbeat) -> State:
    if event.host is None or event.rank is None:
        return state
    return _with_rank(state, event.host, event.rank, step=event.step, memory=event.memory_bytes,
                      gpu_memory=event.gpu_memory_bytes, gpu_use=event.gpu_use)


def _stage_started(state: State, event: events.StageStarted) -> State:
    stage = state.stages.get(event.stage) or Stage(event.stage)
    counts = (stage.step, stage.steps) if stage.trainings else (event.from_step, event.steps)
    state = _with_stage(state, event.stage, kind=event.kind, step=counts[0], steps=counts[1], status="running",
                        pace=Pace())
    return replace(state, current=event.stage, work=None)


def _step_done(state: State, event: events.StepDone) -> State:
    """One training of several is followed to its end: the curves of others would only mix with its own."""
    stage = state.stages.get(event.stage) or Stage(event.stage)
    if event.training is None:
        stage = replace(stage, step=event.step, steps=event.steps)
    else:
        stage = stage.with_training(event.training, event.task or "", status="running", step=event.step,
                                    steps=event.steps, loss=event.loss, device=(event.host, event.rank))
    followed = stage.trainings.get(stage.followed or "")
    if event.training == stage.followed or followed is None or followed.status != "running":
        losses = stage.losses if event.training == stage.followed else Trace()
        stage = replace(stage, followed=event.training, last=event,
                        losses=losses if event.loss is None else losses.add(event.step, event.loss))
    # Clocks of several hosts need not agree, so their events are timed as they are seen.
    pace = stage.pace.add(event.time if event.training is None else state.time, stage.step)
    return replace(_put(state, replace(stage, status="running", pace=pace)), current=event.stage, work=None)


def _training_started(state: State, event: events.TrainingStarted) -> State:
    stage = state.stages.get(event.stage) or Stage(event.stage)
    stage = stage.with_training(event.training, event.task, status="running", step=event.from_step,
                                steps=event.steps, device=(event.host, event.rank))
    return replace(_put(state, replace(stage, status="running")), current=event.stage, work=None)


def _training_done(state: State, event: events.TrainingDone) -> State:
    stage = state.stages.get(event.stage) or Stage(event.stage)
    known = stage.trainings.get(event.training)
    steps = known.steps if known else 0
    return _put(state, stage.with_training(event.training, event.task, status="done", step=steps, score=event.mean))


def _progress(state: State, event: events.Progress) -> State:
    before = state.work
    same = before is not None and (before.what, before.stage) == (event.what, event.stage)
    pace = (before.pace if same and before else Pace()).add(event.time, event.done)
    return replace(state, work=Work(event.what, event.stage, event.done, event.total, event.unit, pace))


def _evaluated(state: State, event: events.Evaluated) -> State:
    key = (event.stage, event.task, event.metric, event.copies, event.composition)
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
    events.JobFailed: _job_failed,
    events.HostDropped: _host_dropped,
    events.RolledBack: _rolled_back,
    events.RunFinished: _ended("finished", "done"),
    events.RunStopped: _ended("stopped", "stopped"),
    events.RunFailed: _ended("failed", "failed"),
    events.RankStarted: _rank_started,
    events.RankFailed: _rank_failed,
    events.Heartbeat: _heartbeat,
    events.StageStarted: _stage_started,
    events.StepDone: _step_done,
    events.TrainingStarted: _training_started,
    events.TrainingDone: _training_done,
    events.Progress: _progress,
    events.Evaluated: _evaluated,
    events.StageDone: _stage_done,
}
