"""A plan: the launcher's whole reasoning as data, which it writes and every rank reads.

Which stages run on which devices in which order, with all derived numbers. A rank derives nothing again.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Host(Part):
    """A machine and how many ranks it takes; `local` is this machine, reached without ssh."""

    name: str
    slots: int
    local: bool = False
    first_slot: int = 0  # of those that are taken


class Cluster(Part):
    hosts: tuple[Host, ...]
    device: Literal["cpu", "cuda"]
    source: str  # for people: "hostfiles/8x_a100.txt", "this host", "SLURM job 123"
    spare: tuple[Host, ...] = ()  # hosts that are not taken: left out, or idle since the batch cannot be divided
    reach: Literal["ssh", "srun"] = "ssh"  # how hosts other than this one are reached

    @property
    def devices(self) -> int:
        return sum(host.slots for host in self.hosts)

    @property
    def everyone(self) -> tuple[Host, ...]:
        return *self.hosts, *self.spare


class Point(Part):
    """One point of a fine-tuning grid with its batch arithmetic."""

    learning_rate: float
    batch: int
    micro_batch: int | None  # None: still to be measured, as in a StagePlan
    accumulation: int | None


class TrainingPlan(Part):
    """One training of a fine-tuning stage: a task with a seed at a point of the grid, on one device."""

    task: str
    seed: int
    point: Point
    steps: int

    @property
    def name(self) -> str:
        """"sst2/seed0_lr2e-05_batch32", also where its files are in the stage's folder; no two rates look alike."""
        return f"{self.task}/seed{self.seed}_lr{self.point.learning_rate!r}_batch{self.point.batch}"


class StagePlan(Part):
    """One stage with its batch arithmetic: batch = devices x micro_batch x accumulation, in groups.

    Where the micro batch is still to be measured it is None, and so is the accumulation; the DeepSpeed config is the
    one to measure with.
    """

    id: str
    kind: str
    source: str | None  # of its model: a stage id, or what `from` says; None: new weights
    devices: int
    steps: int | None = None
    batch: int | None = None  # groups per optimizer step
    micro_batch: int | None = None  # groups per device and forward
    accumulation: int | None = None
    sequence_length: int | None = None
    deepspeed: dict[str, Any] | None = None  # the DeepSpeed config; a stage with a search overrides its batch keys
    points: tuple[Point, ...] = ()  # finetune: the grid of the search; one point without a search
    task_steps: dict[str, int] = {}  # finetune: optimizer steps of each task, per seed and point; `steps` if only one
    trainings: tuple[TrainingPlan, ...] = ()  # finetune: all of them, a task's in a row


class JobPlan(Part):
    """Consecutive stages with one placement, run by one set of DeepSpeed processes; or some trainings of one stage.

    Jobs of one phase run at the same time, on devices of their own; phases follow each other.
    """

    id: int
    phase: int
    stages: tuple[str, ...]
    hosts: tuple[Host, ...]
    trainings: tuple[str, ...] = ()  # these of its fine-tuning stage; none: whole stages
    measurement: str = ""  # of its stages' micro batches, none of which it runs: what it holds for, as its files say
    first_rank: int = 0  # what its first rank is called: the number of its device among all of the cluster

    @property
    def world_size(self) -> int:
        return sum(host.slots for host in self.hosts)

    @property
    def work(self) -> tuple[object, ...]:
        """What it is for; another plan may give it another number."""
        return self.stages, self.trainings, self.measurement

    def ranks(self) -> list[dict[str, Any]]:
        """[{"name": host, "ranks": [0, 1, ...]}] in rank order, as events carry it."""
        rows, first = [], self.first_rank
        for host in self.hosts:
            rows.append({"name": host.name, "ranks": list(range(first, first + host.slots))})
            first += host.slots
        return rows


class MeasuredMicroBatch(Part):
    """How many groups of a stage fit on a device at a time."""

    micro_batch: Annotated[int, Field(ge=1)]
    limit: int  # bytes that a rank may use
    tries: tuple[dict[str, float], ...]  # groups, bytes at the peak, seconds of a step


class Plan(Part):
    version: int = SCHEMA
    name: str
    directory: str  # absolute; on a disk that all hosts share
    recipe: dict[str, Any]  # the resolved recipe, as mux.recipe.Recipe takes it
    recipe_digest: str  # sha256 of the resolved recipe
    model: dict[str, Any]  # for results.json: family, size, N and so on
    provenance: dict[str, str]  # dotted key -> "file:line" | "--set" | "default"
    cluster: Cluster
    stages: tuple[StagePlan, ...]
    jobs: tuple[JobPlan, ...]
    parameters: int | None  # of the pre-training model; None: of an encoder that is not here yet
    memory: list[dict[str, Any]]  # a row a training stage and ZeRO stage: bytes per device
    disk_bytes: int  # checkpoints, models and token store, at most

    def stage(self, stage_id: str) -> StagePlan:
        return next(stage for stage in self.stages if stage.id == stage_id)
