"""What an event says in one line of English; the dashboard's last events and the plain lines share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from launcher.dashboard.figures import (
    clean,
    count,
    duration,
    fraction,
    interval,
    numbers,
    rate,
    short,
    size,
)
from mux import event as events

Level = Literal["info", "good", "warning", "error"]


@dataclass(frozen=True)
class Sentence:
    text: str  # clean: printable characters, one line
    level: Level = "info"


def sentence(event: events.Event) -> Sentence | None:
    """None for an event that is only a measurement (heartbeats, steps, progress, evaluations)."""
    write = SENTENCES.get(type(event))
    return write(event) if write else None


def _run_started(event: events.RunStarted) -> Sentence:
    verb = "goes on" if event.resumed else "starts"
    return Sentence(f"run {clean(event.name)} {verb}: {clean(event.model)}, {clean(event.directory)}")


def _job_started(event: events.JobStarted) -> Sentence:
    hosts = (f"{clean(row.get('name'))} ranks {numbers(row.get('ranks') or [])}" for row in event.hosts)
    what = f"{'micro batches of ' if event.measures else ''}{', '.join(map(clean, event.stages))}"
    text = f"job {event.job} ({what}) on {clean('; '.join(hosts))}"
    if event.attempt > 1:
        return Sentence(f"{text}, attempt {event.attempt}", "warning")
    return Sentence(text)


def _job_ended(event: events.JobEnded) -> Sentence | None:
    if event.code == 0:  # what comes next says so
        return None
    how = f"was killed by signal {-event.code}" if event.code < 0 else f"failed with exit status {event.code}"
    return Sentence(f"job {event.job} {how}", "error")


def _job_failed(event: events.JobFailed) -> Sentence:
    return Sentence(f"job {event.job} failed: {clean(event.text)}", "error")


def _restarting(event: events.Restarting) -> Sentence:
    return Sentence(f"job {event.job} is starting again in {event.seconds or 0:.0f} s "
                    f"({event.failures} of {event.most} without progress)", "warning")


def _host_dropped(event: events.HostDropped) -> Sentence:
    return Sentence(f"the run goes on without host {clean(event.name)}: {clean(event.reason)}", "error")


def _resized(event: events.Resized) -> Sentence:
    text = f"the run goes on with {event.devices} of {event.before} devices, on {clean(', '.join(event.hosts))}"
    idle = f"; idle, since the batch cannot be divided over them, too: {', '.join(event.idle)}" if event.idle else ""
    return Sentence(text + clean(idle), "warning")


def _run_finished(event: events.RunFinished) -> Sentence:
    return Sentence(f"run finished in {duration(event.seconds)}", "good")


def _run_stopped(event: events.RunStopped) -> Sentence:
    return Sentence(f"run stopped: {clean(event.reason)}", "warning")


def _run_failed(event: events.RunFailed) -> Sentence:
    return Sentence(f"run failed (code {event.code}): {clean(event.reason)}", "error")


def _rank_failed(event: events.RankFailed) -> Sentence:
    return Sentence(f"rank {event.rank} on {clean(event.host)} failed: {clean(event.error)}", "error")


def _rank_signalled(event: events.RankSignalled) -> Sentence:
    return Sentence(f"rank {event.rank} on {clean(event.host)} was sent {clean(event.signal)}", "warning")


def _stage_started(event: events.StageStarted) -> Sentence:
    steps = f", {count(event.steps)} steps" if event.steps is not None else ""
    resumed = f", resumed from step {count(event.from_step)}" if event.from_step else ""
    return Sentence(f"{clean(event.stage)} starts{steps}{resumed}")


def _stage_done(event: events.StageDone) -> Sentence:
    result = outcome(event.result)
    text = f"{clean(event.stage)} done in {duration(event.seconds)}"
    return Sentence(f"{text}: {result}" if result else text, "good")


def _training_started(event: events.TrainingStarted) -> Sentence:
    resumed = f", resumed from step {count(event.from_step)}" if event.from_step else ""
    where = "" if event.rank is None else f" on rank {event.rank}"
    return Sentence(f"{clean(event.stage)} {clean(event.training)} starts{where}, {count(event.steps)} steps{resumed}")


def _training_done(event: events.TrainingDone) -> Sentence:
    score = f"{clean(event.metric)} {spread(event.mean, event.std)}"
    return Sentence(f"{clean(event.stage)} {clean(event.training)} done in {duration(event.seconds)}: {score}", "good")


def _checkpoint_saved(event: events.CheckpointSaved) -> Sentence:
    stood = f", training stood still for {interval(event.stalled)}" if event.stalled else ""
    return Sentence(f"{clean(event.stage)} checkpoint at step {count(event.step)}"
                    f" ({size(event.bytes)} in {interval(event.seconds)}{stood})")


def _rolled_back(event: events.RolledBack) -> Sentence:
    training = f" {clean(event.training)}" if event.training else ""
    return Sentence(f"{clean(event.stage)}{training} rolled back from step {count(event.step)} to "
                    f"{count(event.to_step)}, past the batches in between (number {event.rollbacks}): "
                    f"{clean(event.reason)}", "warning")


def _model_saved(event: events.ModelSaved) -> Sentence:
    task = f" for {clean(event.task)}" if event.task else ""
    return Sentence(f"{clean(event.stage)} model{task} saved: {clean(event.path)}")


def _stop_agreed(event: events.StopAgreed) -> Sentence:
    if event.step is None:
        return Sentence(f"{clean(event.stage)} stops: this piece of work starts again at the next start", "warning")
    return Sentence(f"{clean(event.stage)} stops at step {count(event.step)}: all ranks saved what is needed to go on",
                    "warning")


def _notice(event: events.Notice) -> Sentence:
    levels: dict[str, Level] = {"warning": "warning", "error": "error"}
    stage = f"{clean(event.stage)}: " if event.stage else ""
    return Sentence(f"{stage}{clean(event.text)}", levels.get(event.level, "info"))


SENTENCES: dict[type[events.Event], Callable[[Any], Sentence | None]] = {
    events.RunStarted: _run_started,
    events.JobStarted: _job_started,
    events.JobEnded: _job_ended,
    events.JobFailed: _job_failed,
    events.Restarting: _restarting,
    events.HostDropped: _host_dropped,
    events.Resized: _resized,
    events.RunFinished: _run_finished,
    events.RunStopped: _run_stopped,
    events.RunFailed: _run_failed,
    events.RankFailed: _rank_failed,
    events.RankSignalled: _rank_signalled,
    events.StageStarted: _stage_started,
    events.StageDone: _stage_done,
    events.TrainingStarted: _training_started,
    events.TrainingDone: _training_done,
    events.CheckpointSaved: _checkpoint_saved,
    events.RolledBack: _rolled_back,
    events.ModelSaved: _model_saved,
    events.StopAgreed: _stop_agreed,
    events.Notice: _notice,
}


def evaluated(event: events.Evaluated) -> str:
    """`topic accuracy .431 ± .012, majority .212, 2 copies`; a composition that is not random is named."""
    copies = f", {event.copies} copies" if event.copies != 1 else ""
    if event.composition != "random":
        copies += f", groups by {clean(event.composition)}"
    majority = "" if event.majority is None else f", majority {fraction(event.majority)}"
    return f"{clean(event.task)} {clean(event.metric)} {spread(event.mean, event.std)}{majority}{copies}"


def spread(mean: float | None, std: float | None) -> str:
    """A mean over tickets with its standard deviation: .431 ± .012."""
    return fraction(mean) if std is None else f"{fraction(mean)} ± {fraction(std)}"


def step_done(event: events.StepDone, eta: float | None) -> str:
    """`120/800 loss 4.12 acc .31 lr 9.1e-04 |g| 1.2 1,204 inst/s eta 0:34`, less what is None."""
    name = event.training or event.task
    task = f"{clean(name)} " if name else ""
    parts = [f"{task}{event.step}/{event.steps} loss {short(event.loss)}"]
    if event.accuracy is not None:
        parts.append(f" acc {fraction(event.accuracy, 2)}")
    parts.append(f" lr {rate(event.learning_rate)}")
    if event.grad_norm is not None:
        parts.append(f" |g| {short(event.grad_norm)}")
    if event.loss_scale is not None:
        parts.append(f" scale {event.loss_scale:g}")
    if event.skipped:
        parts.append(f" skipped {count(event.skipped)}")
    parts.append(f" {count(event.instances_per_second)} inst/s")
    if eta is not None and event.step < event.steps:
        parts.append(f" eta {duration(eta)}")
    return "".join(parts)


def outcome(result: dict[str, Any]) -> str:
    """What a stage achieved, from its entry in results.json; empty where the entry has nothing to say, or what no
    stage writes."""
    try:
        return _outcome(result)
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError):
        return ""


def _outcome(result: dict[str, Any]) -> str:
    for key, tell in OUTCOMES.items():
        if isinstance(found := result.get(key), dict | list):
            return clean(tell(found))
    parts = [f"loss {short(result['loss'])}"] if result.get("loss") is not None else []
    if result.get("accuracy") is not None:
        parts.append(f"accuracy {fraction(result['accuracy'])}")
    return ", ".join(parts)


def _tasks(tasks: dict[str, Any]) -> str:
    return ", ".join(f"{name} {row.get('metric', '')} {spread(row.get('mean'), row.get('std'))}"
                     for name, row in tasks.items())


def _copies(copies: dict[str, Any]) -> str:
    return ", ".join(f"{_tasks({task: row})} with {number}" for number, entry in copies.items()
                     for task, row in entry.get("tasks", {}).items())


def _compositions(compositions: dict[str, Any]) -> str:
    return ", ".join(f"{name} groups: {_tasks(entry.get('tasks', {}))}" for name, entry in compositions.items())


def _ratios(rows: list[dict[str, Any]]) -> str:
    """How much faster multiplexed models are; of many rows, how many there are."""
    plainest = [row for row in rows if is_plainest(row)]
    ratios = [(row.get("N"), row.get("ratio_to_n1")) for row in plainest]
    told = [f"N = {N} is {short(ratio)} x N = 1" for N, ratio in ratios if ratio and N and N > 1]
    return ", ".join(told) if len(told) <= 3 else f"{count(len(rows))} rows"


def is_plainest(row: dict[str, Any]) -> bool:
    """Whether a row of a throughput stage is one of those that a summary shows: a sequence head, batches of instances,
    nothing compiled."""
    usual = {"head": "sequence", "batches_of": "instances", "mode": "eager"}
    return all(row.get(key, value) == value for key, value in usual.items())


def _layers(models: list[dict[str, Any]]) -> str:
    """Activation and entropy of the last layer, as in Figure 5."""
    return ", ".join(f"{row.get('name', '')} {len(row['layers'])} layers, the last with mean |activation| "
                     f"{short(row['layers'][-1].get('mean_abs'))}, entropy "
                     f"{short(row['layers'][-1].get('attention_entropy'))}" for row in models if row.get("layers"))


# What a stage's entry in results.json has -> how it is told; the first that is there counts.
OUTCOMES: dict[str, Callable[[Any], str]] = {
    "tasks": _tasks, "copies": _copies, "compositions": _compositions, "rows": _ratios, "models": _layers,
}
