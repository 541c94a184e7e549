"""The record of a run: what was asked, planned, installed, what happened and what came of it, without weights.

It is small enough for a repository, and `mux report`, `mux runs show` and `mux runs diff` read it like the run it was
made of. Paths below the run and below the current folder become relative.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
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
from mux.recipe.wording import reason
from mux.run import RunDirectory, read_json, write_text

# Of the events, what befell the run as a whole; the others are in results.json by their result, or of a moment.
KEPT = (RunStarted, JobStarted, JobEnded, JobFailed, Restarting, HostDropped, Resized, StageStarted, RunFinished,
        RunStopped, RunFailed)
BESIDE = {"report"}  # what `mux report` puts into a run, or a record
ENDED = ("finished", "partial")


def contents(run: RunDirectory) -> dict[str, str]:
    """The files of a run's record. Raises Refusal for a run that has not finished, or whose files cannot be read."""
    plan, environment, results = map(values, (run.plan, run.environment, run.results))
    status = results.get("status", "not begun")
    if status not in ENDED:
        raise Refusal(Problem(f"the run is {status}; its record is kept when it has finished", where=str(run.path),
                              hint="the command that started it goes on with it"))
    for path in (run.plan, run.environment, run.events):
        if not path.is_file():
            raise Refusal(Problem("is not there: what the run was cannot be kept", where=str(path)))
    try:
        recipe = run.recipe.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(Problem(f"cannot be read: {reason(error)}", where=str(run.recipe))) from None
    home = f"{run.path.parent.name}/{run.path.name}"
    places = dict.fromkeys([str(plan.get("directory") or run.path), str(run.path), str(run.path.resolve())], home)
    here = Path.cwd()
    places |= {f"{here}/": "", f"{here.resolve()}/": ""} if here != here.parent else {}
    events = (json.loads(encode(event)) for event in happened(run))
    return {
        "recipe.toml": portable(recipe, places),
        **{path.name: json.dumps(portable(value, places), indent=1, ensure_ascii=False) + "\n"
           for path, value in ((run.plan, plan), (run.environment, environment), (run.results, results))},
        "events.jsonl": "".join(json.dumps(portable(event, places), ensure_ascii=False) + "\n" for event in events),
    }


def keep(runs: Sequence[RunDirectory], to: Path) -> list[Path]:
    """Write the records of runs into folders of their names in `to`, over earlier ones; returns those folders.

    Raises Refusal, with nothing written, for a run that has no record, for two runs of one name, and where a folder
    holds something else than a record, or the record of a run of another name.
    """
    if to.exists() and not to.is_dir():
        raise Refusal(Problem("is no folder", where=str(to), hint="name one; it is made if it is not there"))
    records: dict[Path, dict[str, str]] = {}
    for run in runs:
        folder = to / Path(os.path.normpath(run.path)).name
        if folder in records:
            raise Refusal(Problem("two runs have this name", where=str(run.path), hint="keep them in two folders"))
        records[folder] = contents(run)
        if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {
                *records[folder], *BESIDE}):
            raise Refusal(Problem("is no record of a run: it holds other files", where=str(folder),
                                  hint="move it away, or name another folder"))
        was, name = (values(path).get("name") for path in (folder / run.results.name, run.results))
        if was not in (None, name):
            raise Refusal(Problem(f"is the record of another run, {was}, and {run.path} is {name}", where=str(folder),
                                  hint="move it away, or name another folder"))
    for folder, files in records.items():
        for name, content in files.items():
            write_text(folder / name, content)
    return list(records)


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


def values(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run; empty if it is not there. Raises Refusal if it is something else."""
    try:
        content = read_json(path) or {}
    except (OSError, ValueError) as error:
        raise Refusal(Problem(f"cannot be read: {error}", where=str(path))) from None
    if not isinstance(content, dict):
        raise Refusal(Problem("cannot be read: it is no JSON object", where=str(path)))
    return content


def portable(value: Any, places: Mapping[str, str]) -> Any:
    """A value of JSON without the name of the machine and with other words for these places."""
    if isinstance(value, dict):
        return {key: portable(one, places) for key, one in value.items() if key != "host"}
    if isinstance(value, list):
        return [portable(one, places) for one in value]
    if isinstance(value, str):
        for place, words in places.items():
            value = value.replace(place, words)
    return value
