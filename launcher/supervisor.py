"""The supervisor: runs a plan's phases in order, merges what the ranks say, and ends in one honest exit status."""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future
from itertools import groupby
from threading import Thread
from typing import Any

from launcher import hosts, last_words
from launcher.dashboard import Display
from launcher.ending import remedy
from launcher.failure import Failure
from launcher.phase import LOOK_SECONDS, Outcome, Phase, Regroup, Restarts
from launcher.preview import model_name
from launcher.regrouping import Regrouped, Replan, TooFewHosts, regroup
from launcher.stopping import Stopping
from mux.event import Event, Notice, Restarting, RunFailed, RunFinished, RunStarted, RunStopped, StageDone
from mux.journal import EventWriter
from mux.plan import JobPlan, Plan, StagePlan
from mux.recipe import Refusal
from mux.recipe.schema import ModelSection
from mux.run import RunDirectory

FINISHED, FAILED, STOPPED, INTERRUPTED = 0, 1, 75, 130


class Supervisor:
    def __init__(self, run: RunDirectory, plan: Plan, display: Display, resumed: bool, replan: Replan) -> None:
        """`replan` makes the plan again for other hosts."""
        self.run, self.plan, self.display, self.resumed, self.replan = run, plan, display, resumed, replan
        self.events = EventWriter(run.events)
        self.stopping = Stopping(run)
        self.restarts = Restarts(plan.recipe["cluster"]["max_restarts"])
        self.acknowledged = False  # a request to stop, on the dashboard
        self.unwritable: OSError | None = None  # why the run's own files cannot be written

    def execute(self) -> int:
        """Run to the end of the plan, or as far as it goes; the exit status of `mux-launch`."""
        started = time.monotonic()
        with self.stopping.listening(), self.display:
            self._hear_last_words()
            self.say(self._run_started())
            self._record("running")
            code = self._phases(started)
        self.events.close()
        if self.unwritable is None:
            return code
        print(f"the run's events and results cannot be written: {remedy(self.unwritable)}, then the same "
              "command goes on", file=sys.stderr)
        return FAILED

    def _phases(self, started: float) -> int:
        """One phase after the other; a plan that was made anew goes on with what it has left to do."""
        while jobs := self._next():
            if self.stopping.asked():
                return self._stopped(Outcome())
            outcome = Phase(self.run, self.plan, jobs, self.stopping, self.restarts, self._heard, self._tick).execute()
            if outcome.regroup and outcome.failed is None:
                self._regroup(outcome, outcome.regroup)
            if (code := self._verdict(outcome)) is not None:
                return code
            if jobs[0].measurement and outcome.regroup is None:  # there are micro batches now
                self._go_on_with(Regrouped(self.replan(self.plan.cluster), ()))
        whole = all(self.run.stage_result(stage.id).exists() for stage in self.plan.stages)
        self._record("finished" if whole else "partial")
        self.say(RunFinished(seconds=round(time.monotonic() - started, 2)))
        return FINISHED

    def _next(self) -> list[JobPlan]:
        """The jobs to do of the first phase that has any."""
        phases = groupby(self.plan.jobs, key=lambda job: job.phase)
        return next((left for _, jobs in phases if (left := [job for job in jobs if not self.run.done(job)])), [])

    def _verdict(self, outcome: Outcome) -> int | None:
        """What the end of a phase means for the run; None: it goes on."""
        if self.stopping.interrupted_again:
            return self._failed(INTERRUPTED, 0, "interrupted twice: ended without saving")
        asked = self.stopping.asked()
        unsaved = outcome.unsaved if asked and not outcome.stopped else None
        if failure := outcome.failed or unsaved:
            lost = "a stop was asked for, and what was done since the last checkpoint could not be saved: "
            return self._failed(FAILED, failure.code, f"{lost if asked else ''}{failure.text}")
        return self._stopped(outcome) if asked and self._next() else None

    # --- other hosts --------------------------------------------------------------------------------
    def _regroup(self, outcome: Outcome, suspected: Regroup) -> None:
        """Wait, ask the hosts, and make the plan anew if some have to be left out; what is against it goes into the
        outcome."""
        again: Restarting | None = suspected.restarting
        while again is not None:
            try:
                inspection = self._inspect() if self._wait(again.seconds) else None
                outcome.failed = None
                if inspection is None:  # a stop was asked for
                    outcome.unsaved = suspected.unsaved
                    return
                found = regroup(self.run, self.plan, inspection.problems, self.replan)
            except Refusal as refusal:
                outcome.failed = Failure("host", "; ".join(problem.message for problem in refusal.problems))
                again = self.restarts.after(suspected.job) if isinstance(refusal, TooFewHosts) else None
                if again is not None:
                    self.say(Notice(level="error", text=outcome.failed.text))
                    self.say(again)
            else:
                self._go_on_with(found)
                return

    def _go_on_with(self, found: Regrouped) -> None:
        self.plan = found.plan
        self.run.write_plan(found.plan)
        for event in found.events:
            self.say(event)
        self.stopping.release()

    def _inspect(self) -> hosts.Inspection | None:
        """What the hosts say; None if a stop was asked for in the meantime."""
        answer: Future[hosts.Inspection] = Future()
        cluster = self.plan.cluster

        def ask() -> None:
            try:
                everyone = cluster.model_copy(update={"hosts": cluster.everyone, "spare": ()})
                answer.set_result(hosts.inspect(everyone, self.run, self.plan.disk_bytes, rendezvous=True))
            except BaseException as error:  # raised where it is waited for
                answer.set_exception(error)

        Thread(target=ask, name="inspect", daemon=True).start()
        while not answer.done():
            if not self._wait(LOOK_SECONDS):
                return None
        return answer.result()

    def _wait(self, seconds: float) -> bool:
        """False as soon as a stop is asked for."""
        until = time.monotonic() + seconds
        while not self.stopping.asked():
            if time.monotonic() >= until:
                return True
            self._tick()
            time.sleep(LOOK_SECONDS)
        return False

    # --- what is said -------------------------------------------------------------------------------
    def _heard(self, event: Event) -> None:
        self.say(event)
        if isinstance(event, StageDone):
            self._record("running")

    def _tick(self) -> None:
        if self.stopping.asked() and not self.acknowledged:
            self.acknowledged = True
            self.say(Notice(text="stopping: a checkpoint is saved at the next step. Ctrl-C twice ends at once"))
        self.display.tick(time.time())

    def say(self, event: Event) -> None:
        """Log and show it. What cannot be logged must not end what is done: the run saves and stops."""
        try:
            self.events.write(event)
        except OSError as error:
            self._cannot_write(error)
        self.display.show(event)

    def _record(self, status: str) -> None:
        try:
            self.run.write_results(status)
        except OSError as error:
            self._cannot_write(error)

    def _cannot_write(self, error: OSError) -> None:
        if self.unwritable is None:
            self.unwritable = error
            self.stopping.ask(f"the run's files cannot be written: {error}")

    def _hear_last_words(self) -> None:
        """Of ranks whose launcher was killed; they are put away once they are in the run's events."""
        for event in last_words.unheard(self.run):
            self.say(event)
        if self.unwritable is None:
            last_words.put_away(self.run)

    def _stopped(self, outcome: Outcome) -> int:
        self._record("stopped")
        places = dict.fromkeys(f"{one.stage}{f' at step {one.step}' if one.step is not None else ''}"
                               for one in outcome.stopped)
        self.say(RunStopped(reason=f"stopped on request ({self.stopping.asked()}): "
                                   f"{', '.join(places) or 'between jobs'}; the same command goes on from there"))
        return STOPPED

    def _failed(self, status: int, code: int, reason: str) -> int:
        self._record("failed")
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
