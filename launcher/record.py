"""The record of a run: what was asked, planned, installed, what happened and what came of it, without weights.

It is small enough for a repository, holds no path of the machine, and `mux report`, `mux runs show` and `mux runs diff`
read it like the run directory that it was made of.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mux.event import (
    Event,
    HostDropped,
    JobEnded,
    JobFailed,
    JobStarted,
    Resized,
    Restarting,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    StageStarted,
)
from mux.journal import EventReader, encode
from mux.recipe import Problem, Refusal
from mux.run import RunDirectory, read_json, write_json, write_text

# Of the events, what befell the run as a whole; the others are in results.json by their result, or of a moment.
KEPT = (RunStarted, JobStarted, JobEnded, JobFailed, Restarting, HostDropped, Resized, StageStarted, RunFinished,
        RunStopped, RunFailed)
FILES = {"recipe.toml", "plan.json", "environment.json", "events.jsonl", "results.json"}
ENDED = ("finished", "partial")


def keep(run: RunDirectory, to: Path) -> Path:
    """Write the record of a run into a folder of its name in `to`, in the place of an earlier one; returns that folder.

    Raises Refusal for a run that has not finished, and where something else than a record is in the way.
    """
    status = (read_json(run.results) or {}).get("status")
    if status not in ENDED:
        raise Refusal(Problem(f"the run is {status}; its record is kept when it has finished", where=str(run.path),
                              hint="the command that started it goes on with it"))
    folder, part = to / run.path.name, to / f".{run.path.name}.part"
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - FILES):
        raise Refusal(Problem("is no record of a run: it holds other files", where=str(folder),
                              hint="move it away, or name another folder"))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_text(part / "recipe.toml", run.recipe.read_text(encoding="utf-8"))
    for path in (run.plan, run.environment, run.results):
        write_json(part / path.name, portable(read_json(path), run))
    events = (portable(json.loads(encode(event)), run) for event in happened(run))
    write_text(part / "events.jsonl", "".join(f"{json.dumps(event, ensure_ascii=False)}\n" for event in events))
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder


def happened(run: RunDirectory) -> Iterator[Event]:
    """The events that are kept, and the last one of each start: with it, it is known how long a start was that was
    killed."""
    last: Event | None = None
    for event in EventReader(run.events).read():
        if isinstance(event, RunStarted) and last and not isinstance(last, KEPT):
            yield last
        if isinstance(event, KEPT):
            yield event
        last = event
    if last and not isinstance(last, KEPT):
        yield last


def portable(value: Any, run: RunDirectory) -> Any:
    """A value of JSON without paths of this machine and without its name."""
    if isinstance(value, dict):
        return {key: portable(one, run) for key, one in value.items() if key != "host"}
    if isinstance(value, list):
        return [portable(one, run) for one in value]
    if isinstance(value, str):
        return value.replace(str(run.path), f"{run.path.parent.name}/{run.path.name}").replace(f"{Path.cwd()}/", "")
    return value
