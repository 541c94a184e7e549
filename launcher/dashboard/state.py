"""The state of a run as its events tell it (`launcher.dashboard.folding`): everything that is drawn comes from here.

A state is never changed, only replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from launcher.dashboard.sentences import Level
from launcher.dashboard.series import Pace
from mux import event as events
from mux.trace import Trace

StageStatus = Literal["waiting", "running", "done", "stopped", "failed"]
TrainingStatus = Literal["waiting", "running", "done", "failed"]


@dataclass(frozen=True)
class Training:
    """One training of a fine-tuning stage: a task with a seed at a point of the search, on one device."""

    task: str
    seed: int | None = None
    learning_rate: float | None = None
    batch: int | None = None
    steps: int = 0
    status: TrainingStatus = "waiting"
    step: int = 0
    loss: float | None = None
    score: float | None = None
    device: tuple[str | None, int | None] = (None, None)  # host and rank


@dataclass(frozen=True)
class Stage:
    """`step` and `steps` of a stage with trainings are the sums over them."""

    id: str
    kind: str = ""
    steps: int | None = None
    status: StageStatus = "waiting"
    step: int = 0
    trainings: dict[str, Training] = field(default_factory=dict)  # in the order of the plan
    followed: str | None = None  # the training that `last` and `losses` are of
    last: events.StepDone | None = None
    losses: Trace = field(default_factory=Trace)
    pace: Pace = field(default_factory=Pace)
    seconds: float | None = None  # of a stage that is done
    result: dict[str, Any] = field(default_factory=dict)

    def with_training(self, name: str, task: str, **changes: Any) -> Stage:
        """With a training changed, or added if the run did not announce it, and the sums over all of them."""
        training = replace(self.trainings.get(name) or Training(task), **changes)
        return self.with_trainings({**self.trainings, name: training})

    def with_trainings(self, trainings: dict[str, Training]) -> Stage:
        return replace(self, trainings=trainings, step=sum(one.step for one in trainings.values()),
                       steps=sum(one.steps for one in trainings.values()))

    @property
    def several(self) -> bool:
        """Whether trainings are told apart."""
        return len(self.trainings) > 1

    def number(self, status: TrainingStatus) -> int:
        """How many trainings there are of this status."""
        return sum(one.status == status for one in self.trainings.values())

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
    fault: str = ""  # what is wrong with it, in a word: "failed", "silent"


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
    hosts: dict[str, dict[int, Rank]] = field(default_factory=dict)  # no ranks: idle
    dropped: frozenset[str] = frozenset()  # hosts that the run goes on without
    jobs: dict[int, frozenset[tuple[str, int]]] = field(default_factory=dict)  # that run now: their hosts and ranks
    failed: frozenset[int] = frozenset()  # jobs whose failure was told
    work: Work | None = None
    evaluations: dict[tuple[str, str, str, int, str], events.Evaluated] = field(default_factory=dict)
    latest: tuple[Latest, ...] = ()

    @property
    def ended(self) -> bool:
        return self.status in ("finished", "stopped", "failed")

    @property
    def tabled(self) -> Stage | None:
        """The last stage with several trainings that has begun."""
        begun = [stage for stage in self.stages.values() if stage.several and stage.status != "waiting"]
        return begun[-1] if begun else None

    @property
    def stage(self) -> Stage | None:
        return self.stages.get(self.current) if self.current is not None else None
