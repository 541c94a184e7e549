"""The supervisor: runs a plan's jobs in order, merges what the ranks say, and ends in one honest exit status."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from launcher.attempt import Attempt
from launcher.dashboard import Display
from launcher.preview import model_name
from mux.event import (
    Event,
    EventReader,
    EventWriter,
    Notice,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    StageDone,
    StopAgreed,
    encode,
)
from mux.recipe.schema import ModelSection
from mux.run import JobPlan, Plan, RunDirectory, StagePlan

FINISHED, FAILED, STOPPED, INTERRUPTED = 0, 1, 75, 130
LOOK_SECONDS = 0.1


class Supervisor:
    def __init__(self, run: RunDirectory, plan: Plan, display: Display, resumed: bool) -> None:
        self.run, self.plan, self.display, self.resumed = run, plan, display, resumed
        self.events = EventWriter(run.events)
        self.asked: list[str] = []  # names of the signals that asked for a stop
        self.stopping = False  # a stop was asked for; from then on nothing starts
        self.acknowledged = False  # a request to stop, on the dashboard
        self.attempts: dict[int, int] = {}  # how often each job was started
        self.max_restarts: int = plan.recipe["cluster"]["max_restarts"]

    def execute(self) -> int:
        """Run to the end of the plan, or as far as it goes; the exit status of `mux-launch`."""
        started = time.monotonic()
        self.run.stop_request.unlink(missing_ok=True)
        with self._listening(), self.display:
            for event in self._unheard():
                self.say(event)
            self.say(self._run_started())
            self.run.write_results("running")
            code = self._jobs(started)
        self.events.close()
        return code

    def _jobs(self, started: float) -> int:
        for _, jobs in groupby(self.plan.jobs, key=lambda job: job.phase):
            code = self._phase([job for job in jobs if not self.run.done(job)])
            if code != FINISHED:
                return code
        whole = all(self.run.stage_result(stage.id).exists() for stage in self.plan.stages)
        self.run.write_results("finished" if whole else "partial")
        self.say(RunFinished(seconds=round(time.monotonic() - started, 2)))
        return FINISHED

    def _phase(self, jobs: list[JobPlan]) -> int:
        """Run jobs at the same time until all are done. Each starts as often as `cluster.max_restarts` allows without
        progress; once, if its input is at fault. The first that fails for good stops the others, who save first."""
        due = {job.id: 0.0 for job in jobs}  # when a job that is not running starts
        live: list[Attempt] = []
        failures = dict.fromkeys(due, 0)
        stopped: list[StopAgreed] = []
        failed: tuple[int, str] | None = None
        try:
            while due or live:
                ending = self._stop_asked()
                for job in [job for job in jobs if ending or due.get(job.id, math.inf) <= time.monotonic()]:
                    due.pop(job.id, None)
                    if not ending:
                        live.append(self._start(job))
                self._look_after(live)
                for attempt in [attempt for attempt in live if attempt.code is not None]:
                    live.remove(attempt)
                    match self._after(attempt, failures):
                        case float(moment):
                            due[attempt.job.id] = moment
                        case StopAgreed() as stop:
                            stopped.append(stop)
                        case (int(), str()) as failure:
                            failed = failed or failure
                            self._stop("a job has failed")
                time.sleep(LOOK_SECONDS)
        finally:
            for attempt in live:
                attempt.kill()
        return self._verdict(jobs, failed, stopped)

    def _look_after(self, live: list[Attempt]) -> None:
        for attempt in live:
            attempt.look()
            if self._interrupted_again():
                attempt.kill()
            if attempt.stopped is not None and not self._stop_asked():
                self._stop("a rank was sent a signal")  # ranks of other jobs may not have heard of it
        if live and self._stop_asked() and not self.acknowledged:
            self.acknowledged = True
            self.say(Notice(text="stopping: a checkpoint is saved at the next step. Ctrl-C twice ends at once"))
        self.display.tick(time.time())

    def _verdict(self, jobs: list[JobPlan], failed: tuple[int, str] | None, stopped: list[StopAgreed]) -> int:
        """What the end of a phase's last job means for the run."""
        if failed is not None:
            return self._failed(INTERRUPTED if self._interrupted_again() else FAILED, *failed)
        if all(self.run.done(job) for job in jobs):
            return FINISHED
        places = [f"{one.stage}{f' at step {one.step}' if one.step is not None else ''}" for one in stopped]
        return self._stopped(", ".join(places) or "between jobs")

    def _start(self, job: JobPlan) -> Attempt:
        self.attempts[job.id] = self.attempts.get(job.id, 0) + 1
        return Attempt(self.run, self.plan, job, self.attempts[job.id], self._heard)

    def _heard(self, event: Event) -> None:
        self.say(event)
        if isinstance(event, StageDone):
            self.run.write_results("running")

    def _after(self, attempt: Attempt, failures: dict[int, int]) -> float | StopAgreed | tuple[int, str] | None:
        """What follows from a job's end: nothing (it is done), when it starts again, that it stopped as it was asked
        to, or that the run fails with (code, reason)."""
        job, code = attempt.job, attempt.code or 0
        if self._interrupted_again():
            return code, "interrupted twice: ended without saving"
        if attempt.stopped is not None:
            return attempt.stopped
        if self.run.done(job):
            return None
        failures[job.id] = 1 if attempt.progressed else failures[job.id] + 1
        if failures[job.id] > self.max_restarts or attempt.input_at_fault:
            return code, attempt.reason()
        if self._stop_asked():
            self.say(Notice(level="error", text=f"not started again, since the run stops: {attempt.reason()}"))
            return None
        # Ranks that were sent SIGTERM because another one failed have asked for a stop that nobody wanted.
        self.run.stop_request.unlink(missing_ok=True)
        pause = min(60.0, 2.0 ** failures[job.id])
        self.say(Notice(level="error", text=f"starting again in {pause:.0f} s ({failures[job.id]} of "
                                            f"{self.max_restarts} without progress), since {attempt.reason()}"))
        return time.monotonic() + pause

    def _unheard(self) -> list[Event]:
        """What ranks of an earlier start said after its launcher was killed, in the order of their clocks."""
        last = {(event.host, event.rank): encode(event) for event in EventReader(self.run.events).read()}
        unheard: list[Event] = []
        for path in sorted(self.run.logs.glob("*.events.jsonl")):
            said = list(EventReader(path).read())
            merged = [index for index, event in enumerate(said) if encode(event) == last.get((event.host, event.rank))]
            unheard += said[merged[-1] + 1 :] if merged else said
        return sorted(unheard, key=lambda event: event.time)

    def _stopped(self, where: str) -> int:
        self.run.write_results("stopped")
        asked = f" ({self.asked[0]})" if self.asked else ""
        self.say(RunStopped(reason=f"stopped on request{asked}: {where}; the same command goes on from there"))
        return STOPPED

    def _failed(self, status: int, code: int, reason: str) -> int:
        self.run.write_results("failed")
        self.say(RunFailed(code=code, reason=reason))
        return status

    def _run_started(self) -> RunStarted:
        model = ModelSection.model_validate(self.plan.recipe["model"])
        stages = [self._announced(stage) for stage in self.plan.stages]
        cluster = JobPlan(id=0, phase=0, stages=(), hosts=self.plan.cluster.hosts)
        return RunStarted(name=self.plan.name, directory=self.plan.directory, N=model.N, stages=stages,
                          model=model_name(model), hosts=cluster.ranks(), resumed=self.resumed)

    def _announced(self, stage: StagePlan) -> dict[str, Any]:
        """A stage as RunStarted has it."""
        entry = {"id": stage.id, "kind": stage.kind, "steps": stage.steps,
                 "done": self.run.stage_result(stage.id).exists()}
        trainings = [
            {"name": training.name, "task": training.task, "seed": training.seed, "steps": training.steps,
             "learning_rate": training.point.learning_rate, "batch": training.point.batch,
             "done": self.run.training_result(stage.id, training.name).exists()}
            for training in stage.trainings]
        return entry | ({"trainings": trainings} if trainings else {})

    def say(self, event: Event) -> None:
        self.events.write(event)
        self.display.show(event)

    def _stop_asked(self) -> bool:
        """Whether anyone but a rank has ever asked: a rank's own request may take the place of another in the file."""
        self.stopping = self.stopping or self.run.stop_asked()
        return self.stopping

    def _stop(self, why: str) -> None:
        """Ask all ranks of the phase to save and end."""
        self.stopping = True
        self.run.ask_to_stop(f"launcher: {why}")

    def _interrupted_again(self) -> bool:
        """Ctrl-C after a stop was asked for already: end at once."""
        return "SIGINT" in self.asked[1:]

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Turn signals into a stop request; a second Ctrl-C ends the run at once."""
        names = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
        before = {name: signal.signal(name, self._on_signal) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        self.asked.append(signal.Signals(number).name)
        self._stop(self.asked[-1])
