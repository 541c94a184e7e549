"""A run on disk: its directory, and the plan that the launcher writes there and every rank reads.

The plan is the launcher's whole reasoning as data: which stages run on which devices in which order, with all
derived numbers. A rank derives nothing again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA = 1
FROM_A_RANK = "rank"  # how the text of a stop request begins if a rank was sent a signal


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Host(Part):
    """A machine and how many ranks it takes; `local` is this machine, reached without ssh."""

    name: str
    slots: int
    local: bool = False


class Cluster(Part):
    hosts: tuple[Host, ...]
    device: Literal["cpu", "cuda"]
    source: str  # for people: "hostfiles/8x_a100.txt", "this host"

    @property
    def devices(self) -> int:
        return sum(host.slots for host in self.hosts)


class Point(Part):
    """One point of a fine-tuning grid with its batch arithmetic."""

    learning_rate: float
    batch: int
    micro_batch: int
    accumulation: int


class StagePlan(Part):
    """One stage with its batch arithmetic: batch = devices x micro_batch x accumulation, in groups."""

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


class JobPlan(Part):
    """Consecutive stages with one placement, run by one set of DeepSpeed processes."""

    id: int
    stages: tuple[str, ...]
    hosts: tuple[Host, ...]

    @property
    def world_size(self) -> int:
        return sum(host.slots for host in self.hosts)

    def ranks(self) -> list[dict[str, Any]]:
        """[{"name": host, "ranks": [0, 1, ...]}] in rank order, as events carry it."""
        rows, first = [], 0
        for host in self.hosts:
            rows.append({"name": host.name, "ranks": list(range(first, first + host.slots))})
            first += host.slots
        return rows


class Plan(Part):
    version: int = SCHEMA
    name: str
    directory: str  # absolute; on a disk that all hosts share
    recipe: dict[str, Any]  # the resolved recipe, as mux.recipe.Recipe takes it
    recipe_digest: str  # sha256 of the resolved recipe
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

    @property
    def cache(self) -> Path:
        """Tokenizers and token stores, content-hashed and shared by the runs beside this one."""
        return Path(os.environ.get("MUX_CACHE") or self.path.parent / ".cache")

    def stage(self, stage_id: str) -> Path:
        return self.path / stage_id

    def stage_result(self, stage_id: str) -> Path:
        """Written last by a stage: a stage is done when this file exists."""
        return self.stage(stage_id) / "result.json"

    def checkpoints(self, stage_id: str) -> Path:
        return self.stage(stage_id) / "checkpoints"

    def model(self, stage_id: str, task: str | None = None) -> Path:
        return self.stage(stage_id) / task / "model" if task else self.stage(stage_id) / "model"

    def rank_log(self, host: str, rank: int) -> Path:
        return self.logs / f"{host}.{rank}.log"

    def rank_events(self, host: str, rank: int) -> Path:
        return self.logs / f"{host}.{rank}.events.jsonl"

    def ask_to_stop(self, who: str) -> None:
        write_text(self.stop_request, f"{who}\n")

    def stop_asked(self) -> bool:
        """Whether anyone but a rank has asked for a stop."""
        try:
            return not self.stop_request.read_text().startswith(FROM_A_RANK)
        except FileNotFoundError:
            return False

    def create(self) -> None:
        """Make the directory and its logs folder, readable by their owner alone, whatever the umask."""
        for folder in (self.path, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)

    def read_plan(self) -> Plan:
        return Plan.model_validate_json(self.plan.read_text())

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
        results = {"schema": SCHEMA, "name": plan.name, "status": status, "stages": stages}
        write_json(self.results, results)
        return results


def pretrained_model(results: dict[str, Any]) -> str | None:
    """The model of the last stage that pre-trained one, as results.json names it."""
    models = [stage["model"] for stage in results.get("stages", ())
              if stage["kind"] in ("retrieval", "pretrain") and stage["status"] == "done"]
    return models[-1] if models else None


def write_text(path: Path, text: str) -> None:
    """Replace a file whole or not at all, also when the machine stops in between; mode 0600."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file; None if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
