"""From what was typed to a running supervisor: recipe -> cluster -> plan -> preflight -> run directory -> run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast, get_args

from launcher import allocation, directory, hostfile, hosts, micro_batches, plan, preflight, software
from launcher.dashboard.sentences import sentence
from launcher.directory import Resume
from launcher.ending import remedy
from launcher.regrouping import Replan, TooFewHosts, regroup
from mux.plan import Cluster, Plan
from mux.recipe import Loaded, Problem, Recipe, Refusal, load, secrecy
from mux.recipe.wording import reason
from mux.run import RunDirectory, read_results


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
    slurm: bool = False  # to be submitted as a job


def resume_word(text: str) -> Resume:
    if text not in get_args(Resume):
        raise Refusal(Problem(f"{text!r} is not one of {', '.join(get_args(Resume))}", where="--resume"))
    return cast(Resume, text)


def planned(request: Request) -> tuple[Loaded, Plan, RunDirectory]:
    """The recipe, its plan here, and where it would run. Raises Refusal."""
    typed = (request.recipe, request.hostfile, request.run_dir, request.stages)
    if secret := secrecy.of_words(str(word) for word in typed if word is not None):
        raise Refusal(secret)
    loaded = load(request.recipe, request.overrides)
    cluster = _cluster(request, loaded.recipe)
    run = directory.at(request.run_dir or Path("runs") / loaded.recipe.name)
    return loaded, _plan_on(cluster, request, loaded, run), run


def _cluster(request: Request, recipe: Recipe) -> Cluster:
    """Where it would run: what SLURM is asked for, the hosts of the hostfile, those of the allocation that we are in,
    this one."""
    if request.slurm:
        return allocation.asked_for(recipe)
    if request.hostfile:
        return hostfile.read(request.hostfile)
    processes = recipe.cluster.processes
    return allocation.cluster(processes) or hostfile.this_host(processes)


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
        os.path.realpath(run.path, strict=run.path.is_symlink())
    except OSError as error:
        raise Refusal(Problem(f"cannot be used: {error.strerror}", where=str(run.path),
                              hint="choose another place with --run-dir")) from None
    if state == "finished":
        return loaded, made, run, state
    problems: list[Problem] = []
    if not request.slurm and not hostfile.alone(made.cluster):
        begun = run if state == "unfinished" else None
        made, problems = _on_hosts_that_answer(made, run, begun, _replan(request, loaded, run))
    if problems := [*problems, *preflight.check(made, run, begun=state == "unfinished")]:
        raise Refusal(problems)
    return loaded, made, run, state


def _replan(request: Request, loaded: Loaded, run: RunDirectory) -> Replan:
    """How the plan is made for other hosts."""
    return lambda cluster: only(_plan_on(cluster, request, loaded, run), run, request.stages)


def _plan_on(cluster: Cluster, request: Request, loaded: Loaded, run: RunDirectory) -> Plan:
    kept = {} if request.fresh else micro_batches.known(run, loaded.recipe, cluster)
    return plan.make(loaded, cluster, run.path, kept)


def _on_hosts_that_answer(made: Plan, run: RunDirectory, begun: RunDirectory | None,
                          replan: Replan) -> tuple[Plan, list[Problem]]:
    """Ask the plan's hosts, and show what they say: the plan without those that fail, where the recipe allows that;
    else what is wrong with them. `begun`: the run, if it goes on."""
    inspection = hosts.inspect(made.cluster, run, made.disk_bytes, rendezvous=True, say=partial(print, flush=True),
                               begun=begun is not None)
    hosts.show(inspection, sys.stdout)
    if inspection.device != made.cluster.device:
        print(f"no host has a GPU: {made.cluster.devices} ranks run on their CPUs")
        made = replan(made.cluster.model_copy(update={"device": inspection.device}))
    try:
        regrouped = regroup(begun, made, inspection.problems, replan)
    except TooFewHosts:
        return made, inspection.refusals()
    except Refusal as refusal:
        return made, [*inspection.refusals(), *refusal.problems]
    for said in map(sentence, regrouped.events):
        print(said.text if said else "", flush=True)
    return regrouped.plan, []


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
    try:
        run.create()
    except OSError as error:
        raise Refusal(Problem(f"cannot be used: {error.strerror}", where=str(error.filename or run.path),
                              hint="--run-dir DIR chooses another place")) from None
    lock = directory.Lock(run)
    try:
        directory.clear(run)
        if state == "unfinished":
            notes = (*directory.notes(run.read_plan(), made), *software.changes(run))
            print("".join(f"{note}\n" for note in notes), end="")
        directory.write_beginning(run, loaded, made, request.overrides)
        display = dashboard.choose(sys.stdout, plain)
        begun = replace(request, fresh=False)  # from here on, checkpoints are this run's own
        code = Supervisor(run, made, display, resumed=state == "unfinished",
                          replan=_replan(begun, loaded, run)).execute()
    except OSError as error:  # the disk is full or gone: there is nothing to write events to
        print(f"the run ended: {remedy(error)}, then the same command goes on", file=sys.stderr)
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
    """The final screen. Raises Refusal if there is nothing to show, or nothing that a run has written."""
    from launcher import summary

    try:
        results, made = read_results(run.results), run.read_plan()
        if results is None:
            raise Refusal(Problem("has no results yet", where=str(run.path)))
        summary.show(results, made, run.path, sys.stdout)
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise Refusal(Problem(f"cannot be read: {reason(error)}", where=str(run.path))) from None
