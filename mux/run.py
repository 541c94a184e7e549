"""A run on disk: where everything is in its directory, and how its files are read and replaced."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from mux.plan import SCHEMA, JobPlan, MeasuredMicroBatch, Plan

FROM_LAUNCHER = "launcher"  # how the text of a stop request begins that the run's launcher made itself


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

    def micro_batch(self, stage_id: str, measurement: str) -> Path:
        """What has been measured for `engine.micro_batch = "auto"`; `measurement`: as a job has it."""
        return self.stage(stage_id) / f"micro_batch.{measurement}.json"

    def measured(self, stage_id: str, measurement: str) -> MeasuredMicroBatch | None:
        """None where nothing has been measured, or nothing that can be read."""
        with suppress(OSError, ValueError):
            return MeasuredMicroBatch.model_validate_json(read_plain(self.micro_batch(stage_id, measurement)))
        return None

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
        if job.measurement:
            return all(self.stage_result(stage).exists() or self.measured(stage, job.measurement)
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


def fine_tuned_model(results: dict[str, Any], task: str) -> str | None:
    """The model that the last fine-tuning has made of the task, as results.json names it."""
    models = [stage["tasks"][task]["model"] for stage in results.get("stages", ())
              if stage["kind"] == "finetune" and stage["status"] == "done" and task in stage["tasks"]]
    return models[-1] if models else None


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file whole or not at all, also when the machine stops in between; mode 0600."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:  # a full disk
        part.unlink(missing_ok=True)
        raise


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
