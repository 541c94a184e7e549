"""Taking over a run directory: the lock, whether a run there goes on, and what is written before the first process."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from launcher import resizing, software
from mux import manifest as manifests
from mux.event import CheckpointSaved, RunFinished
from mux.journal import EventReader, backwards
from mux.plan import Plan, StagePlan
from mux.recipe import Loaded, Problem, Refusal, differences, harmless
from mux.run import RunDirectory, read_json, write_json, write_text

Resume = Literal["auto", "required", "never"]
State = Literal["new", "unfinished", "finished"]

QUESTION = "preflight"  # how folders of questions to hosts are called


def at(path: Path) -> RunDirectory:
    """The run directory of a path. Raises Refusal for a name in bytes that are no text: plans and events are JSON."""
    run = RunDirectory(path)
    try:
        str(run.path).encode()
    except UnicodeEncodeError:
        raise Refusal(Problem("is not UTF-8, and plans and events name their run", where=str(run.path),
                              hint="give it another name, or choose one with --run-dir")) from None
    return run


class Lock:
    """The run's lock, held by its launcher until it ends, however it ends (the kernel lets go of it)."""

    def __init__(self, run: RunDirectory) -> None:
        """Take the lock. Raises Refusal naming the holder if another launcher has it."""
        self._run = run
        try:
            self._file = os.open(run.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise OSError(errno.EINVAL, "it is no plain file")
        except OSError as error:
            raise Refusal(Problem(f"cannot be used as the run's lock: {error.strerror}", where=str(run.lock),
                                  hint="remove it, if no launcher has the run")) from None
        if not self._taken():
            holder = os.pread(self._file, 200, 0).decode(errors="replace").strip() or "another launcher"
            os.close(self._file)
            raise Refusal(Problem(f"the run is going on already, under {holder}", where=str(run.path),
                                  hint=f"mux watch {shown(run)} shows it, mux stop {shown(run)} stops it"))
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _taken(self) -> bool:
        """Try for a second: `running` holds the lock for a moment when it looks."""
        for _ in range(10):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                time.sleep(0.1)
            except OSError as error:
                raise Refusal(Problem(f"its disk knows no locks: {error.strerror}", where=str(self._run.path),
                                      hint="mount it with locks (Lustre: -o flock), or choose --run-dir")) from None
        return False

    def release(self) -> None:
        os.close(self._file)


def running(run: RunDirectory) -> bool:
    """Whether a launcher holds the run's lock."""
    try:
        file = os.open(run.lock, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # none there, or nothing that could be held
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def refuse_if_running(run: RunDirectory) -> None:
    """Raise the Refusal of a lock that another launcher holds, which names it."""
    if running(run):
        Lock(run).release()  # it ended in this moment, if this does not raise


def state_of(run: RunDirectory, plan: Plan, resume: Resume, fresh: bool) -> State:
    """What a start of `plan` finds in its directory. Raises Refusal if it may not go on there.

    Nothing is changed. "finished": all stages of the plan are done and the events say so.
    """
    where = str(run.path)
    if fresh or not run.path.exists() or not any(run.path.iterdir()):
        if resume == "required":
            raise Refusal(Problem("there is no run to go on with", where=where, hint="leave out --resume required"))
        return "new"
    refuse_if_running(run)
    if not run.plan.exists():
        if [path.name for path in run.path.iterdir() if path.name not in ("batch.sh", "lock", "logs")]:
            raise Refusal(Problem("this folder holds files, but no run", where=where,
                                  hint="choose another one with --run-dir"))
        return "new"
    if resume == "never":
        raise Refusal(Problem("there is a run here already", where=where,
                              hint="--fresh moves it aside and starts over, --resume auto goes on with it"))
    try:
        previous = run.read_plan()
    except ValueError as error:
        raise Refusal(Problem(f"cannot be read: {str(error).splitlines()[0]}", where=str(run.plan),
                              hint="--fresh moves the run aside and starts over")) from None
    refuse_odd_files(run, previous)
    told = _told(run.events)
    refuse_losses(run, previous, told.saved)
    if not has_trained(run):
        return "unfinished"  # nothing was trained: whatever has changed, nothing is lost
    refuse_changes(previous, plan, run)
    done = told.finished and all(run.stage_result(stage.id).exists() for stage in plan.stages)
    return "finished" if done else "unfinished"


def has_trained(run: RunDirectory) -> bool:
    """Whether there is anything to go on from: a finished stage or a checkpoint."""
    results = ("*/result.json", "*/*/trainings/*.json")
    return any(any(run.path.glob(pattern)) for pattern in results) or any(map(manifests.steps,
                                                                              run.path.rglob("checkpoints")))


class Told(NamedTuple):
    """What the events of earlier starts tell."""

    saved: frozenset[str]  # of whom there are checkpoints, as `RunDirectory.checkpoint_folders` calls them
    finished: bool  # whether they end in RunFinished


def _told(events: Path) -> Told:
    """One pass over a file that may have gigabytes, of which few lines are decoded."""
    saved = {f"{event.stage}/{event.training}" if event.training else event.stage
             for event in EventReader(events).only(CheckpointSaved)}
    return Told(frozenset(saved), isinstance(next(backwards(events), None), RunFinished))


def refuse_odd_files(run: RunDirectory, plan: Plan) -> None:
    """Raise Refusal for what is no plain file where a run reads one: a pipe would be waited for."""
    files = [run.recipe, run.environment, run.events, run.results, run.stop_request]
    files += [folder / manifests.LATEST for folder in run.checkpoint_folders(plan).values()]
    if problems := [Problem(f"{wrong}, and a run has a file there", where=str(path), hint="remove it")
                    for path in files if (wrong := _no_file(path))]:
        raise Refusal(problems)


def _no_file(path: Path) -> str | None:
    """What it is, if it is there and no plain file."""
    try:
        return None if stat.S_ISREG(path.stat().st_mode) else "is no plain file"
    except FileNotFoundError:
        return None
    except OSError as error:  # a link to itself
        return f"cannot be read: {error.strerror}"


def refuse_losses(run: RunDirectory, plan: Plan, saved: frozenset[str]) -> None:
    """Raise Refusal for results that are none, and where events tell of checkpoints of which none is left: starting
    over must be asked for."""
    problems = [problem for stage in plan.stages if (problem := _bad_result(run.stage_result(stage.id), stage, run))]
    done = {name for stage in plan.stages for name in _finished(run, stage)}
    problems += [Problem("the events tell of checkpoints, and none is left", where=str(folder))
                 for name, folder in run.checkpoint_folders(plan).items()
                 if name in saved - done and not manifests.steps(folder)]
    if problems:
        problems[-1] = replace(problems[-1], hint="put back what is missing, or --fresh moves the run aside and starts "
                                                  "over")
        raise Refusal(problems)


def _finished(run: RunDirectory, stage: StagePlan) -> Iterator[str]:
    """The stage or those of its trainings that need no checkpoint any more."""
    done = run.stage_result(stage.id).exists()
    yield from [stage.id] if done else []
    yield from (f"{stage.id}/{training.name}" for training in stage.trainings
                if done or run.training_result(stage.id, training.name).exists())


def _bad_result(path: Path, stage: StagePlan, run: RunDirectory) -> Problem | None:
    """What is wrong with a stage's result, if there is one: without it the stage is not done."""
    try:
        result = read_json(path)
        if result is None:
            return None
        whole = isinstance(result["seconds"], int | float) and result.get("steps", stage.steps) == stage.steps
        folders = [run.path / result["model"]] if "model" in result else []
    except (ValueError, OSError, TypeError, KeyError, AttributeError):
        whole, folders = False, []
    if whole and all((folder / "config.json").is_file() for folder in folders):
        return None
    return Problem("is not what the stage has written", where=str(path))


def refuse_changes(previous: Plan, plan: Plan, run: RunDirectory) -> None:
    """Raise Refusal if the run was begun with another recipe, or a stage cannot go on from its checkpoints."""
    way_on = ("go on as it began, or choose: --run-dir DIR for another run, --fresh to move this one aside and start "
              "over")
    problems = [
        Problem(f"was {json.dumps(old)} when the run began, is {json.dumps(new)} now", key, _where(key, plan, run))
        for key, old, new in differences(previous.recipe, plan.recipe) if not harmless(key)
    ]
    if not problems:
        way_on = ("go on as it began, or take the weights alone into another run: mux export "
                  f"{shown(run)} DIR --checkpoint latest --stage STAGE, and there from = \"path:DIR\"")
        problems = [Problem(f"cannot go on: {reason}", f"stages.{stage}", _where("engine.zero_stage", plan, run))
                    for stage, reason in resizing.refusals(run, plan).items()]
    if problems:
        problems[-1] = replace(problems[-1], hint=way_on)
        raise Refusal(problems)


def _where(key: str, plan: Plan, run: RunDirectory) -> str:
    """"file:line" or "--set" where a key has its value from; the run where it is a default."""
    place = plan.provenance.get(key, "default")
    return str(run.path) if place == "default" else place


def notes(previous: Plan, plan: Plan) -> list[str]:
    """What is not as it was when the run began, and makes no difference to what is trained: a line a key."""
    return [f"goes on with {key} = {json.dumps(new)} (was {json.dumps(old)})"
            for key, old, new in differences(previous.recipe, plan.recipe) if harmless(key)]


def move_aside(run: RunDirectory) -> Path | None:
    """Keep what an earlier run left, under another name; the new place, if there was anything."""
    if not run.path.exists():
        return None
    refuse_if_running(run)
    aside = run.path.with_name(f"{run.path.name}.{time.strftime('%Y%m%d-%H%M%S')}")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}x")
    run.path.rename(aside)
    return aside


def clear(run: RunDirectory) -> None:
    """Remove what a start that was killed has left, and would mislead this one."""
    run.stop_request.unlink(missing_ok=True)  # from now on it is ours
    for question in run.logs.glob(f"{QUESTION}.*"):
        shutil.rmtree(question, ignore_errors=True)


def write_beginning(run: RunDirectory, loaded: Loaded, plan: Plan, overrides: Sequence[str]) -> None:
    """What was asked, what was planned, and with what."""
    write_text(run.recipe, loaded.text)
    run.write_plan(plan)
    write_json(run.environment, software.environment(overrides) | {"data": _data(run)})


def _data(run: RunDirectory) -> dict[str, str]:
    """Hashes of the data, which the stages add when they open it; kept when a run goes on with something."""
    if not has_trained(run):
        return {}
    try:
        return read_json(run.environment)["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def shown(run: RunDirectory) -> str:
    """The run directory as a person would type it from here."""
    try:
        return str(run.path.relative_to(Path.cwd()))
    except ValueError:
        return str(run.path)

