"""A run on disk: its directory, and the plan that the launcher writes there and every rank reads.

The plan is the launcher's whole reasoning as data: which stages run on which devices in which order, with all
derived numbers. A rank derives nothing again.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA = 1
FROM_LAUNCHER = "launcher"  # how the text of a stop request begins that the run's launcher made itself


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
    measures: str = ""  # its stages' micro batches, and runs none of them: what they hold for, as their files have it
    first_rank: int = 0  # what its first rank is called: the number of its device among all of the cluster

    @property
    def world_size(self) -> int:
        return sum(host.slots for host in self.hosts)

    @property
    def work(self) -> tuple[object, ...]:
        """What it is for; another plan may give it another number."""
        return self.stages, self.trainings, self.measures

    def ranks(self) -> list[dict[str, Any]]:
        """[{"name": host, "ranks": [0, 1, ...]}] in rank order, as events carry it."""
        rows, first = [], self.first_rank
        for host in self.hosts:
            rows.append({"name": host.name, "ranks": list(range(first, first + host.slots))})
            first += host.slots
        return rows


class MeasuredMicroBatch(Part):
    """How many groups of a stage fit on a device at a time."""

    micro_batch: int
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


class RunDirectory:
    """Paths in `runs/<name>/`, mode 0700; design section 2 lists what outsiders may rely on."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self.recipe = self.path / "recipe.toml"
        self.plan = self.path / "plan.json"
        self.environment = self.path / "environment.json"
        self.events = self.path / "events.jsonl"
        self.results = self.path / "results.json"
        self.logs = self.path / "logs"
        self.lock = self.path / "lock"
        self.stop_request = self.path / "stop"
        self.data_lock = self.logs / "data.lock"

    @property
    def cache(self) -> Path:
        """Tokenizers and token stores, content-hashed and shared by the runs beside this one."""
        return Path(os.environ.get("MUX_CACHE") or self.path.parent / ".cache")

    def stage(self, stage_id: str) -> Path:
        return self.path / stage_id

    def stage_result(self, stage_id: str) -> Path:
        """Written last by a stage: a stage is done when this file exists."""
        return self.stage(stage_id) / "result.json"

    def micro_batch(self, stage_id: str, measures: str) -> Path:
        """What has been measured for `engine.micro_batch = "auto"`; `measures`: as a job has it."""
        return self.stage(stage_id) / f"micro_batch.{measures}.json"

    def training(self, stage_id: str, name: str) -> Path:
        """The folder of one training of a fine-tuning stage, while it is not chosen or passed over."""
        task, _, rest = name.partition("/")
        return self.stage(stage_id) / task / "trainings" / rest

    def training_result(self, stage_id: str, name: str) -> Path:
        """Written last by a training: it is done when this file exists."""
        folder = self.training(stage_id, name)
        return folder.with_name(f"{folder.name}.json")

    def predictions(self, stage_id: str, name: str) -> Path:
        """What the model of a training answered to its test rows."""
        folder = self.training(stage_id, name)
        return folder.with_name(f"{folder.name}.parquet")

    def done(self, job: JobPlan) -> bool:
        """Whether all that a job is for has its result."""
        if job.measures:
            return all(self.micro_batch(stage, job.measures).exists() or self.stage_result(stage).exists()
                       for stage in job.stages)
        if job.trainings:
            return all(self.training_result(job.stages[0], name).exists() for name in job.trainings)
        return all(self.stage_result(stage).exists() for stage in job.stages)

    def note_data(self, name: str, content_hash: str) -> str:
        """Note a hash of the data in environment.json, unless there is one; the one that is there in the end.

        Jobs on other devices note theirs at the same time, so a lock is held.
        """
        with open(os.open(self.data_lock, os.O_RDWR | os.O_CREAT, 0o600), "rb+") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)  # POSIX's, which shared disks know too
            environment = read_json(self.environment)
            known: str = environment["data"].setdefault(name, content_hash)
            write_json(self.environment, environment)
        return known

    def checkpoints(self, stage_id: str) -> Path:
        return self.stage(stage_id) / "checkpoints"

    def checkpoint_folders(self, plan: Plan) -> dict[str, Path]:
        """Where each stage, and each training of a fine-tuning stage, keeps its checkpoints, if it has any."""
        folders = {stage.id: self.checkpoints(stage.id) for stage in plan.stages if not stage.trainings}
        return folders | {f"{stage.id}/{training.name}": self.training(stage.id, training.name) / "checkpoints"
                          for stage in plan.stages for training in stage.trainings}

    def model(self, stage_id: str, task: str | None = None) -> Path:
        return self.stage(stage_id) / task / "model" if task else self.stage(stage_id) / "model"

    def rank_log(self, host: str, rank: int) -> Path:
        return self.logs / f"{host}.{rank}.log"

    def rank_events(self, host: str, rank: int) -> Path:
        return self.logs / f"{host}.{rank}.events.jsonl"

    def node_log(self, host: str, job: JobPlan) -> Path:
        """What the processes that start a job's ranks on a host print, or the ssh to it."""
        return self.logs / f"{host}.{job.first_rank}.node.log"

    def ask_to_stop(self, who: str) -> None:
        write_text(self.stop_request, f"{who}\n")

    def stop_asked(self) -> bool:
        """Whether anyone but the launcher has asked for a stop."""
        try:
            return not self.stop_request.read_text(errors="replace").startswith(FROM_LAUNCHER)
        except FileNotFoundError:
            return False
        except OSError:  # a folder, perhaps: someone has put it there
            return True

    def create(self) -> None:
        """Make the directory and its logs folder, readable by their owner alone, whatever the umask."""
        for folder in (self.path, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)

    def read_plan(self) -> Plan:
        return Plan.model_validate_json(read_plain(self.plan))

    def write_plan(self, plan: Plan) -> None:
        write_text(self.plan, plan.model_dump_json(indent=1))

    def write_results(self, status: str) -> dict[str, Any]:
        """Put together results.json from the stages' own result files; returns what was written.

        `status`: running | finished | partial (all stages that --stages asked for) | stopped | failed.
        """
        plan = self.read_plan()
        stages = []
        for stage in plan.stages:
            done = read_json(self.stage_result(stage.id))
            stages.append({"id": stage.id, "kind": stage.kind, "status": "done", **done} if done
                          else {"id": stage.id, "kind": stage.kind, "status": "pending"})
        results = {
            "schema": SCHEMA, "name": plan.name, "status": status, "model": plan.model,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"), "device": plan.cluster.device,
            "devices": plan.cluster.devices, "stages": stages,
        }
        write_json(self.results, results)
        return results


def pretrained_model(results: dict[str, Any]) -> str | None:
    """The model of the last stage that pre-trained one, as results.json names it."""
    models = [stage["model"] for stage in results.get("stages", ())
              if stage["kind"] in ("retrieval", "pretrain") and stage["status"] == "done"]
    return models[-1] if models else None


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file whole or not at all, also when the machine stops in between; mode 0600."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file; None if there is no such file. Raises ValueError: no JSON, or no plain file."""
    try:
        return json.loads(read_plain(path))
    except FileNotFoundError:
        return None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_plain(path: Path) -> str:
    """The text of a plain file: a pipe would be waited for, a folder has none. Raises ValueError for those."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("is no plain file")
        return file.read().decode()


class StageEntry(BaseModel):
    """What every stage has in results.json; the rest is as its kind says."""

    model_config = ConfigDict(strict=True, extra="allow")

    id: str
    kind: str
    status: str


class Results(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    name: str
    status: str
    stages: list[StageEntry]


def read_results(path: Path) -> dict[str, Any] | None:
    """The content of a results.json; None if there is none. Raises ValueError: of another shape than a run's."""
    try:
        content = read_json(path)
        return None if content is None else Results.model_validate(content).model_dump()
    except ValueError:
        raise ValueError(f"{path} is not what a run writes") from None
