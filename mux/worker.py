"""The composition root of a rank: `python -m mux.worker RUN_DIRECTORY JOB`, started by launcher.agent.

Reads the plan, joins the other ranks, runs the job's stages one after another, leaves. Exit code 0: done, or stopped
on request (the events say which); 1: failed, with a RankFailed event and a traceback in the log.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from mux import rank as process
from mux.event import RankFailed, RankSignalled, RankStarted, StopAgreed
from mux.plan import JobPlan, Plan
from mux.recipe import Recipe, Refusal
from mux.run import RunDirectory


def main() -> None:
    os.umask(0o077)
    run, job_id = RunDirectory(Path(sys.argv[1])), int(sys.argv[2])
    plan = run.read_plan()
    job = plan.jobs[job_id]
    rank = job.first_rank + int(os.environ["RANK"])
    host = host_of(job, rank)
    process.write_output_to(run.rank_log(host, rank))
    voice = process.Voice(run.rank_events(host, rank), host, rank)
    stop = process.StopFlag(run.stop_request)
    stop.listen(lambda name: voice(RankSignalled(signal=name)))
    voice.beat()  # before the slow imports: the launcher sees the rank at once
    sys.exit(work(run, plan, job, voice, stop))


def work(run: RunDirectory, plan: Plan, job: JobPlan, voice: process.Voice, stop: process.StopFlag) -> int:
    """Run the job's stages; the exit code, unless leaving the other ranks ends the process first."""
    try:
        from mux.stages import measure_stage, run_stage
        from mux.stages.context import Context
        from mux.train.engine import Ranks
        from mux.train.loop import Stopped

        recipe = Recipe.model_validate(plan.recipe)
        ranks = Ranks(recipe.cluster.collective_timeout_seconds)
        voice.gpu = ranks.gpu
        voice(RankStarted(pid=os.getpid(), device=ranks.device_name, job=job.id))
        context = Context(run=run, plan=plan, recipe=recipe, ranks=ranks, voice=voice, stop=stop,
                          trainings=job.trainings, measurement=job.measurement)
        try:
            for stage_id in job.stages:
                if ranks.from_first(run.done(job.model_copy(update={"stages": (stage_id,), "trainings": ()}))):
                    continue
                stage = next(stage for stage in recipe.stages if stage.id == stage_id)
                (measure_stage if job.measurement else run_stage)(context, stage)
        except Stopped as stopped:
            if ranks.first:
                voice(StopAgreed(stage=voice.stage or "", step=stopped.step))
        ranks.leave(0)  # with a heartbeat until all have come
        voice.quiet()
        return 0
    except Exception as error:  # the last stop of every error: told to the launcher, kept in the log
        traceback.print_exc()
        kind = kind_of(error)
        message = str(error).strip() or "no message"
        with suppress(OSError):  # a full disk may be what failed
            voice(RankFailed(error=f"{type(error).__name__}: {message}" if kind == "error" else message, kind=kind))
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(1)  # without waiting for peers that are inside a collective


def kind_of(error: Exception) -> str:
    """As RankFailed has it. Imported here, because imports may be what failed."""
    if isinstance(error, ValueError | Refusal):
        return "input"
    from mux.train.health import LossError

    return "loss" if isinstance(error, LossError) else "error"


def host_of(job: JobPlan, rank: int) -> str:
    return next(row["name"] for row in job.ranks() if rank in row["ranks"])


if __name__ == "__main__":
    main()
