"""The content of a run's results.json as pydantic models, and what of plan.json and events.jsonl stands beside it.

What is missing is None or empty, so that a running or shortened run can be reported; what has the wrong type is an
error that names file and key. Strings are untrusted: control characters go here, the rest is escaped where it is shown.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from mux.report.scores import Curve, Entry, Evaluated, Natural, Number, Scores, String
from mux.run import SCHEMA, RunDirectory

START = b'"event": "RunStarted"'
Content = TypeVar("Content", bound=BaseModel)


class Timed(Entry):
    """A row of a throughput stage."""

    model: String
    family: String | None = None
    size: String | None = None
    N: int
    multiplexer: String | None = None
    demultiplexer: String | None = None
    source: String | None = None
    head: String = "sequence"
    batches_of: String = "instances"
    mode: String = "eager"
    instances_per_second: Number = None
    ratio_to_bert_base: Number = None
    ratio_to_bert_base_quartiles: list[Number] | None = None
    ratio_to_n1: Number = None
    ratio_to_n1_quartiles: list[Number] | None = None
    milliseconds_per_batch: Number = None
    batch: Natural = None
    sequence_length: Natural = None
    trials: Natural = None
    batches: Natural = None
    device: String | None = None
    dtype: String | None = None
    threads: Natural = None
    torch: String | None = None


class Layer(Entry):
    layer: int
    mean_abs: Number = None
    attention_entropy: Number = None  # nats


class Inside(Entry):
    """The layers of one model of a muxology stage."""

    name: String
    N: int
    layers: list[Layer] = Field(default_factory=list)
    rows: Natural = None
    tokens: Natural = None
    corpus: String | None = None


class Stage(Entry):
    """A stage's entry; which fields are filled depends on its kind and on how far it came."""

    id: String
    kind: String
    status: String
    source: String | None = None  # of ensembles and compositions: the fine-tuning stage whose models they evaluate
    seconds: Number = None
    steps: Natural = None
    loss: Number = None
    accuracy: Number = None
    retrieval_rate: Number = None
    retrieval_accuracy: Number = None
    curve: Curve = Curve()
    profile: dict[String, Number] = Field(default_factory=dict)  # part of a step -> seconds
    tasks: dict[String, Scores] = Field(default_factory=dict)
    copies: dict[String, Evaluated] = Field(default_factory=dict)
    compositions: dict[String, Evaluated] = Field(default_factory=dict)
    rows: list[Timed] = Field(default_factory=list)
    models: list[Inside] = Field(default_factory=list)


class Model(Entry):
    family: String
    source: String | None = None
    size: String | None = None
    layers: Natural = None
    hidden: Natural = None
    N: int
    multiplexer: String | None = None
    demultiplexer: String | None = None
    compat: String | None = None
    parameters: Natural = None


class Results(Entry):
    name: String
    status: String
    device: String = ""
    model: Model
    stages: list[Stage]

    def copied(self, finetune: str) -> list[tuple[int, dict[str, Scores]]]:
        """(copies, scores by task) of every ensemble of the models of this fine-tuning stage."""
        return [(int(copies), entry.tasks) for stage in self.stages
                if (stage.kind, stage.status, stage.source) == ("ensemble", "done", finetune)
                for copies, entry in stage.copies.items() if copies.isdecimal()]


class PlannedStage(Entry):
    id: String
    source: String | None = None  # what it starts from: a stage, or a model from outside
    batch: Natural = None
    sequence_length: Natural = None


class Host(Entry):
    slots: int = 0


class Cluster(Entry):
    device: String | None = None
    hosts: list[Host] = Field(default_factory=list)


class Plan(Entry):
    cluster: Cluster = Cluster()
    stages: list[PlannedStage] = Field(default_factory=list)


class Environment(Entry):
    processors: String | None = None  # of the launcher's host
    commit: String | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """A run as the report sees it."""

    place: int  # among the runs of the report, from 0: its colour in every figure
    path: Path
    label: str  # its name; where two runs share one, with a number
    results: Results
    raw: dict[str, Any]  # results.json as it is
    plan: Plan  # empty if there is none
    environment: Environment  # that of the last start; empty if there is none
    starts: Sequence[tuple[float, float]]  # when each start began and said its last, in seconds since the epoch

    @property
    def began(self) -> str:
        """UTC; empty if there are no events."""
        return _date(self.starts[0][0]) if self.starts else ""

    @property
    def seconds(self) -> float | None:
        """The wall time of all starts."""
        return sum(end - begin for begin, end in self.starts) if self.starts else None

    @property
    def model(self) -> Model:
        return self.results.model

    def stages(self, *kinds: str) -> list[Stage]:
        return [stage for stage in self.results.stages if stage.kind in kinds]

    def planned(self, stage_id: str) -> PlannedStage:
        """What the plan says of a stage."""
        return next((stage for stage in self.plan.stages if stage.id == stage_id), PlannedStage(id=stage_id))

    @property
    def tuned(self) -> dict[str, Scores]:
        """Scores of fine-tuned models by task; of a task that two stages tuned, the last."""
        return {task: scores for stage in self.stages("finetune") for task, scores in stage.tasks.items()}

    @property
    def tuners(self) -> dict[str, str]:
        """The stage that has the model of `tuned`, by task."""
        return {task: stage.id for stage in self.stages("finetune") for task in stage.tasks}

    @property
    def device(self) -> str:
        timed = [row.device for stage in self.stages("throughput") for row in stage.rows if row.device]
        cluster = self.plan.cluster
        devices = sum(host.slots for host in cluster.hosts)
        trained = f"{devices} x {cluster.device}" if devices else ""
        others = (device for device in timed if device != cluster.device)
        return ", ".join(dict.fromkeys(filter(None, (trained, *others))))


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs in these directories, in order, each with its own label; ValueError names the file that is wrong."""
    runs = [read_run(path) for path in dict.fromkeys(Path(path).absolute() for path in paths)]
    labels = [run.label for run in runs]
    return [replace(run, place=place, label=run.label if labels.count(run.label) == 1 else f"{run.label} [{place + 1}]")
            for place, run in enumerate(runs)]


def read_run(path: Path) -> Run:
    directory = RunDirectory(path)
    raw, plan, environment = map(_json, (directory.results, directory.plan, directory.environment))
    if raw is None:
        raise ValueError(f"{directory.results}: no such file; `mux runs ls` lists the runs there are")
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        raise ValueError(f"{directory.results}: this version reads results of schema {SCHEMA}; run again with --fresh")
    results = _checked(Results, raw, directory.results)
    return Run(0, directory.path, results.name, results, raw,
               Plan() if plan is None else _checked(Plan, plan, directory.plan),
               Environment() if environment is None else _checked(Environment, environment, directory.environment),
               starts(directory.events))


def _checked(model: type[Content], content: Any, path: Path) -> Content:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        what = f"{key}: {first['msg'].lower()}" if key else "no table"
        raise ValueError(f"{path}: {what} ({error.error_count()} such places); was it written by another "
                         "version? Then run again with --fresh") from None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); `mux-launch` with the run's recipe writes it again") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


def starts(events: Path) -> list[tuple[float, float]]:
    """When each start of a run began and said its last. Of the events, which may be many, only these are read."""
    try:
        with events.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            begins, found = {0}, 0
            while (found := text.find(START, found + 1)) > 0:
                begins.add(text.rfind(b"\n", 0, found) + 1)
            bounds = [*sorted(begins), len(text)]
            times = [(_first_time(text, begin, end), _last_time(text, begin, end)) for begin, end in pairwise(bounds)]
    except (OSError, ValueError):  # no file, or an empty one
        return []
    return [(first, last) for first, last in times if first is not None and last is not None]


def _first_time(text: mmap.mmap, begin: int, end: int) -> float | None:
    """Of the line that begins there."""
    newline = text.find(b"\n", begin, end)
    return _time(text[begin : end if newline < 0 else newline])


def _last_time(text: mmap.mmap, begin: int, end: int) -> float | None:
    """Of the last line before `end` that is an event: who was killed may have left half of one."""
    while end > begin:
        newline = text.rfind(b"\n", begin, end)
        if newline < end - 1 and (time := _time(text[newline + 1 if newline >= 0 else begin : end])) is not None:
            return time
        end = max(newline, begin)
    return None


def _time(line: bytes) -> float | None:
    try:
        return float(json.loads(line)["time"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _date(time: float) -> str:
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return ""
