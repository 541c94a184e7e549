"""`--slurm`: the batch script that runs the same command inside of a SLURM job, and its submission.

The script is for people, too: it can be read, changed and submitted again with sbatch. Every word of the user's in it
is quoted, and none is where sbatch looks for its patterns. It holds no secret, and no variable but those named in it
goes along to the job.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from launcher import directory, reach, start
from mux.plan import Plan
from mux.recipe import Problem, Refusal
from mux.recipe.schema import SlurmSection
from mux.recipe.wording import printable
from mux.run import RunDirectory, write_text

SCRIPT = "batch.sh"
SBATCH_SECONDS = 120.0  # it asks again for a minute where SLURM does not answer

BODY = """
cd {place} || exit 1

# A signal goes on to the launcher, which saves a checkpoint and leaves with 75.
ask() {{
  asked=$1 waiting=again
  kill -s "$1" "$launcher"
}}
asked=
trap 'ask USR1' USR1
trap 'ask TERM' TERM

{command} &
launcher=$!

waiting=again
while [ "$waiting" ]; do
  waiting=
  wait "$launcher"
  code=$?
  [ "$code" -gt 128 ] || break # else a trap may have cut the waiting short
done

# The job is queued again, to go on from the checkpoint, if it was SLURM that wanted it to leave: its time was nearly up
# (SIGUSR1; 138 if the launcher did not listen yet), or its nodes were. SIGTERM is SLURM's last word: it cancels the job
# or queues it again itself. After `mux stop` the job is over.
preempted() {{ scontrol show job "$SLURM_JOB_ID" | grep -q ' PreemptTime=[0-9]'; }}
case "$code:$asked" in
  75:USR1 | 138:USR1) scontrol requeue "$SLURM_JOB_ID" ;;
  75:) if preempted; then scontrol requeue "$SLURM_JOB_ID"; fi ;;
esac
exit "$code"
"""


def submit(request: start.Request, dry_run: bool, detach: bool) -> int:
    """Write the script and submit it, or print it alone; the exit status.

    Raises Refusal, and then nothing was written or submitted.
    """
    _refuse_what_does_not_go_with_it(request, detach)
    if dry_run:
        _, made, run = start.planned(request)
        start.only(made, run, request.stages)  # refuses unknown stages
        print(script(request, made), end="")
        return 0
    _, made, run, state = start.checked(request)
    if state == "finished":
        return start.launch(request, plain=True)  # says so
    text = script(request, made)
    # The job waits until its folder is there: its log is in it.
    job = _slurm(["sbatch", "--parsable", "--hold"], text).partition(";")[0]
    try:
        if request.fresh and (aside := directory.move_aside(run)):
            print(f"The earlier run is kept in {aside}.")
        run.create()
        write_text(run.path / SCRIPT, text)
        _slurm(["scontrol", "release", job])
    except BaseException:
        _slurm(["scancel", job])
        raise
    print(_farewell(job, directory.shown(run)))
    return 0


def script(request: start.Request, made: Plan) -> str:
    """The text of the batch script."""
    asked = SlurmSection.model_validate(made.recipe["slurm"])
    run = RunDirectory(made.directory)
    for path in (run.path, Path.cwd(), request.recipe):
        if not str(path).isprintable() or "\\" in str(path):
            raise Refusal(Problem("a batch script cannot name this path: it has a \\ or invisible characters",
                                  where=printable(str(path))))
    head = [f"# The run {made.name}, written by mux-launch --slurm. `sbatch {SCRIPT}` submits it again, to go on."]
    for comment, options in _options(made, asked, run):
        head += [f"# {line}" for line in comment.splitlines()]
        head += [f"#SBATCH --{name}={shlex.quote(str(value))}" if value != "" else f"#SBATCH --{name}"
                 for name, value in options.items() if value is not None]
    body = BODY.format(place=shlex.quote(os.getcwd()), command=shlex.join(_command(request, asked, run)))
    return "\n".join(["#!/bin/bash", *head, body])


def _options(made: Plan, asked: SlurmSection, run: RunDirectory) -> Iterator[tuple[str, dict[str, str | int | None]]]:
    """What sbatch is told, each with its reason; "": an option without a value, None: one that is left out."""
    log = str(run.logs).replace("%", "%%") + "/slurm-%j.log"
    yield "", {"job-name": made.name, "nodes": asked.nodes, "ntasks-per-node": 1,
               "gpus-per-node": asked.gpus_per_node or None, "time": asked.time, "partition": asked.partition,
               "account": asked.account, "qos": asked.qos, "constraint": asked.constraint}
    yield "Whole nodes, with all their cores and memory.", {"exclusive": "", "mem": 0}
    yield ("SIGUSR1 comes so many seconds before the time is up; before a preemption, too, where SLURM has\n"
           "PreemptParameters=send_user_signal."), {"signal": f"B:USR1@{asked.signal_seconds}"}
    yield "After a preemption, or when a node has failed, the job starts again and the run goes on.", {"requeue": ""}
    yield "", {"open-mode": "append", "output": log}
    yield "Of the environment only this goes along.", {"export": ",".join((*reach.LOGIN, *reach.FORWARDED))}


def _command(request: start.Request, asked: SlurmSection, run: RunDirectory) -> list[str]:
    """The launch inside of the job. What is done before it is submitted (--fresh), and what would refuse to go on
    after the job was queued again (--resume never), is left out."""
    # Whole nodes come with their GPUs, also when none were asked for.
    devices = [] if asked.gpus_per_node else ["env", "CUDA_VISIBLE_DEVICES="]
    overrides = [word for override in request.overrides for word in ("--set", override)]
    stages = ["--stages", request.stages] if request.stages is not None else []
    return [*devices, os.path.abspath(sys.argv[0]), os.path.abspath(request.recipe), "--run-dir", str(run.path),
            *overrides, *stages, "--plain"]


def _refuse_what_does_not_go_with_it(request: start.Request, detach: bool) -> None:
    if request.hostfile is not None:
        raise Refusal(Problem("does not go with --slurm: SLURM chooses the hosts", where="--hostfile",
                              hint="[slurm] nodes and gpus_per_node say how many"))
    if detach:
        raise Refusal(Problem("does not go with --slurm: a job needs no terminal anyway", where="--detach"))


def _slurm(argv: list[str], text: str = "") -> str:
    """What a command of SLURM prints. Raises Refusal with its own words where it fails."""
    if not shutil.which(argv[0]):
        raise Refusal(Problem(f"there is no {argv[0]} here: submit from a machine of the cluster", where="--slurm",
                              hint="--slurm --dry-run prints the script without it"))
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=SBATCH_SECONDS)
    except subprocess.TimeoutExpired:
        raise Refusal(Problem(f"{argv[0]} does not answer", where="--slurm")) from None
    if done.returncode:
        words = "; ".join(line.removeprefix(f"{argv[0]}: error: ") for line in done.stderr.strip().splitlines())
        raise Refusal(Problem(f"{argv[0]}: {printable(words)}", where="--slurm",
                              hint="[slurm] of the recipe says what is asked for"))
    return done.stdout.strip()


def _farewell(job: str, run: str) -> str:
    rows = {f"squeue --job {job}": "where it stands in the queue", f"mux watch {run}": "the run, once it has begun",
            f"mux stop {run}": "saves a checkpoint and ends the job", f"scancel {job}": "the same, in a hurry"}
    wide = max(map(len, rows))
    return "\n".join([f"submitted as SLURM job {job}, by {run}/{SCRIPT}",
                      *(f"  {command:<{wide}}  {meaning}" for command, meaning in rows.items())])
