"""Events: what a run says about itself. How they are written and read is in mux.journal."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Event:
    """What every event carries; `time` is seconds since the epoch on the clock of the writer."""

    time: float = field(default_factory=time.time)
    host: str | None = None
    rank: int | None = None  # None: written by the launcher

    kinds: ClassVar[dict[str, type[Event]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Event.kinds[cls.__name__] = cls


# --- written by the launcher -----------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    name: str
    directory: str
    model: str  # for people: "bert TINY, N = 2"
    N: int
    # [{"id", "kind", "steps" (None where a stage has none), "done" (bool)}]; fine-tuning has "trainings", too:
    # [{"name", "task", "seed", "learning_rate", "batch", "steps", "done"}]
    stages: list[dict[str, Any]]
    hosts: list[dict[str, Any]]  # [{"name", "ranks": [0, 1]}], the widest placement of the plan
    resumed: bool = False  # an earlier, unfinished start of this run goes on


@dataclass(frozen=True, kw_only=True)
class JobStarted(Event):
    job: int
    stages: list[str]
    hosts: list[dict[str, Any]]  # [{"name", "ranks"}] of this job
    attempt: int = 1
    measures: bool = False  # the micro batches of its stages, and runs none of them


@dataclass(frozen=True, kw_only=True)
class JobEnded(Event):
    job: int
    code: int  # 0, or what the first process to fail returned (negative: a signal)


@dataclass(frozen=True, kw_only=True)
class JobFailed(Event):
    """Why a job ended before its work was done, as the supervisor judges it."""

    job: int
    # input: another start would fail alike. loss: it is not finite, or has jumped. rank: one failed and said why.
    # killed: one ended without a word. silent: one has sent no heartbeat. stalled: none has come further.
    # host: one is out of reach. processes: none of this.
    kind: str
    text: str  # for people
    on: str | None = None  # the host, where one is at fault
    by: int | None = None  # the rank, where one is at fault
    code: int = 0  # the raw exit code of the first process to fail


@dataclass(frozen=True, kw_only=True)
class Restarting(Event):
    """A failed job starts again from its newest valid checkpoint."""

    job: int
    seconds: float  # from now
    failures: int  # without progress in between
    most: int  # `cluster.max_restarts`


@dataclass(frozen=True, kw_only=True)
class HostDropped(Event):
    """A host is out of the run until its next start."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Resized(Event):
    """The run goes on with other hosts than it was planned for."""

    hosts: list[str]
    idle: list[str]  # healthy, but the batch cannot be divided over them, too
    devices: int
    before: int  # devices


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RunStopped(Event):
    """Stopped on request, everything needed to go on is on disk."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class RunFailed(Event):
    code: int  # the raw code
    reason: str


# --- written by agents -----------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class RankEnded(Event):
    """The process of a rank has ended badly, by itself."""

    code: int  # as subprocess has it: negative for a signal


# --- written by ranks ------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class RankStarted(Event):
    pid: int
    device: str  # "cpu", "cuda:0 NVIDIA A100"
    job: int


@dataclass(frozen=True, kw_only=True)
class RankFailed(Event):
    error: str  # one line; the traceback is in the rank's log
    kind: str = "error"  # input: what it was given is at fault; loss: so mux.train.health judges it; error: any other


@dataclass(frozen=True, kw_only=True)
class RankSignalled(Event):
    """This rank was sent a signal that asks for a stop; the launcher passes the request on to all others."""

    signal: str  # "SIGTERM"


@dataclass(frozen=True, kw_only=True)
class Heartbeat(Event):
    """Written by a thread every two seconds or so. `step` shows that the main thread moves, too."""

    stage: str | None
    step: int
    memory_bytes: int  # resident memory of the process
    gpu_memory_bytes: int | None = None
    gpu_use: float | None = None  # 0..1
    where: str | None = None  # "loop.py:131 agree": the line of the project that the main thread is at


@dataclass(frozen=True, kw_only=True)
class StageStarted(Event):
    stage: str
    kind: str
    steps: int | None = None
    from_step: int = 0  # > 0: resumed from the checkpoint of that step


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """Long work that is not optimizer steps: tokenising, evaluating, timing."""

    stage: str | None
    what: str  # "tokenising", "evaluating topic, ticket 2"
    done: int
    total: int | None
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class StepDone(Event):
    """Rank 0, once per logging interval. Rates and times are means over the interval, losses over the cluster."""

    stage: str
    step: int  # optimizer steps done in this stage
    steps: int  # ... of so many
    loss: float
    task_loss: float | None = None
    retrieval_loss: float | None = None
    teacher_loss: float | None = None
    accuracy: float | None = None  # of masked tokens, retrieved tokens or labels, as the stage has it
    learning_rate: float = 0.0
    grad_norm: float | None = None
    loss_scale: float | None = None  # fp16 only
    skipped: int = 0  # optimizer steps skipped so far because of fp16 overflow
    instances_per_second: float = 0.0
    groups_per_second: float = 0.0
    tokens_per_second: float = 0.0
    seconds_data: float = 0.0  # per step
    seconds_compute: float = 0.0
    seconds_save: float = 0.0
    task: str | None = None  # the fine-tuning task
    training: str | None = None  # ... with its seed and its point of the search


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event):
    """Committed: its manifest is there. `seconds` from the request to then; the training stood still for `stalled`."""

    stage: str
    step: int
    path: str
    bytes: int
    seconds: float
    stalled: float = 0.0
    training: str | None = None


@dataclass(frozen=True, kw_only=True)
class RolledBack(Event):
    """The loss was not what it should be: back to a checkpoint, and on with the batches after those that led there."""

    stage: str
    step: int  # where it was seen
    to_step: int
    reason: str
    rollbacks: int  # of this training so far
    training: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSaved(Event):
    stage: str
    path: str
    task: str | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluated(Event):
    """One number of an evaluation: the mean over tickets."""

    stage: str
    task: str
    metric: str
    mean: float
    std: float
    majority: float | None = None  # of always naming the most frequent class
    copies: int = 1
    composition: str = "random"  # who shares a group


@dataclass(frozen=True, kw_only=True)
class TrainingStarted(Event):
    """One training of a fine-tuning stage: a task with a seed at a point of the search, on one device."""

    stage: str
    training: str  # "sst2/seed0_lr2e-05_batch32"
    task: str
    steps: int
    from_step: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainingDone(Event):
    """`mean` is over tickets, of the rows on which the search chooses."""

    stage: str
    training: str
    task: str
    metric: str
    mean: float
    std: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class StageDone(Event):
    stage: str
    result: dict[str, Any]  # the stage's entry in results.json
    seconds: float


@dataclass(frozen=True, kw_only=True)
class StopAgreed(Event):
    """All ranks saw the request at the same step and saved what is needed to go on."""

    stage: str
    step: int | None


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    text: str
    level: str = "info"  # info | warning | error
    stage: str | None = None
