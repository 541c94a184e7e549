"""From what was typed to a running supervisor: recipe -> cluster -> plan -> preflight -> run directory -> run."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from launcher import directory, hostfile, plan, preflight
from launcher.directory import Resume
from mux.recipe import Loaded, Problem, Refusal, load
from mux.run import Plan, RunDirectory, read_json


@dataclass(frozen=True)
class Request:
    """What the user typed."""

    recipe: Path
    hostfile: Path | None
    overrides: tuple[str, ...]
    run_dir: Path | None
    stages: str | None  # "A,B"
    resume: Resume
    fresh: bool


def resume_word(text: str) -> Resume:
    if text not in get_args(Resume):
        raise Refusal(Problem(f"{text!r} is not one of {', '.join(get_args(Resume))}", where="--resume"))
    return cast(Resume, text)


def planned(request: Request) -> tuple[Loaded, Plan, RunDirectory]:
    """The recipe, its plan here, and where it would run. Raises Refusal."""
    loaded = load(request.recipe, request.overrides)
    cluster = (hostfile.read(request.hostfile) if request.hostfile
               else hostfile.this_host(loaded.recipe.cluster.processes))
    run = RunDirectory(request.run_dir or Path("runs") / loaded.recipe.name)
    return loaded, plan.make(loaded, cluster, run.path), run


def preview(request: Request) -> str:
    """What --dry-run prints."""
    from launcher import preview as text

    loaded, made, run = planned(request)
    only(made, run, request.stages)  # refuses unknown stages
    return text.render(made, loaded, preflight.warnings(made))


def only(made: Plan, run: RunDirectory, stages: str | None) -> Plan:
    """The plan with jobs for the chosen stages alone. Raises Refusal for one that cannot start."""
    if stages is None:
        return made
    wanted = [word.strip() for word in stages.split(",")]
    known = [stage.id for stage in made.stages]
    if unknown := [word for word in wanted if word not in known]:
        raise Refusal(Problem(f"there is no stage {unknown[0]!r}", where="--stages",
                              hint=f"there are: {', '.join(known)}"))
    for stage in made.stages:
        source = stage.source
        if stage.id in wanted and source in known and source not in wanted and not run.stage_result(source).exists():
            raise Refusal(Problem(f"{stage.id} starts from {source}, which is not done", where="--stages",
                                  hint=f"--stages {source},{stage.id}"))
    kept = [(job, tuple(stage for stage in job.stages if stage in wanted)) for job in made.jobs]
    jobs = [job.model_copy(update={"id": index, "stages": stages})
            for index, (job, stages) in enumerate((job, stages) for job, stages in kept if stages)]
    return made.model_copy(update={"jobs": tuple(jobs)})


def checked(request: Request) -> tuple[Loaded, Plan, RunDirectory, directory.State]:
    """Everything that can be refused, refused; nothing written yet."""
    loaded, made, run = planned(request)
    made = only(made, run, request.stages)
    try:
        state = directory.state_of(run, made, request.resume, request.fresh)
        run.path.resolve(strict=run.path.is_symlink())
    except OSError as error:
        raise Refusal(Problem(f"cannot be used: {error.strerror}", where=str(run.path),
                              hint="choose another place with --run-dir")) from None
    if state != "finished" and (problems := preflight.check(made, run)):
        raise Refusal(problems)
    return loaded, made, run, state


def launch(request: Request, plain: bool) -> int:
    """Start or go on with the run and stay with it to its end; the exit status."""
    from launcher import dashboard
    from launcher.supervisor import FAILED, FINISHED, Supervisor

    loaded, made, run, state = checked(request)
    if state == "finished":
        print_summary(run)
        print(f"This run was finished already; --fresh moves {directory.shown(run)} aside and starts over.")
        return FINISHED
    if request.fresh and (aside := directory.move_aside(run)):
        print(f"The earlier run is kept in {aside}.")
    run.create()
    lock = directory.Lock(run)
    try:
        directory.write_beginning(run, loaded, made, request.overrides)
        display = dashboard.choose(sys.stdout, plain)
        code = Supervisor(run, made, display, resumed=state == "unfinished").execute()
    except OSError as error:  # the disk is full or gone: there is nothing to write events to
        print(f"the run ended: {error}; free some room, then the same command goes on", file=sys.stderr)
        return FAILED
    finally:
        lock.release()
    if code == FINISHED:
        print_summary(run)
    return code


def detach(request: Request, command: list[str]) -> int:
    """Start the same command without this terminal, and see that it gets under way."""
    _, _, run, state = checked(request)
    if state == "finished":
        return launch(request, plain=True)
    log = Path(f"{run.path}.launcher.log")  # beside the run: --fresh may move the run itself
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                 start_new_session=True)
    while child.poll() is None and not (run.lock.exists() and directory.running(run)):
        time.sleep(0.1)
    if child.poll():
        print(f"the run did not start; see {log}", file=sys.stderr)
        return int(child.returncode)
    print(f"running as process {child.pid}; mux watch {directory.shown(run)} shows it, "
          f"mux stop {directory.shown(run)} stops it, its lines go to {log}")
    return 0


def print_summary(run: RunDirectory) -> None:
    """The final screen."""
    from launcher import summary

    try:
        results, made = read_json(run.results), run.read_plan()
    except ValueError as error:
        raise Refusal(Problem(f"cannot be read: {str(error).splitlines()[0]}", where=str(run.path))) from None
    if results is None:
        raise Refusal(Problem("has no results yet", where=str(run.path)))
    summary.show(results, made, run.path, sys.stdout)
