"""One phase of a plan: jobs that run at the same time, each started again as often as it may."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from launcher.attempt import Attempt
from launcher.directory import has_trained
from launcher.failure import FINAL, OF_HOSTS, Failure
from launcher.stopping import Stopping
from mux.event import CheckpointSaved, Event, Notice, Restarting, StageDone, StopAgreed, TrainingDone
from mux.plan import JobPlan, Plan
from mux.run import RunDirectory

LOOK_SECONDS = 0.1
LONGEST_PAUSE = 60.0  # seconds


class Restarts:
    """How often each job has been started, and has failed without progress in between. A job is known by its work."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._starts: dict[object, int] = {}
        self._failures: dict[object, int] = {}
        self._saved: dict[object, int] = {}  # the last step that was saved, by training

    def started(self, job: JobPlan) -> int:
        """Count a start; which one it is."""
        self._starts[job.work] = self._starts.get(job.work, 0) + 1
        return self._starts[job.work]

    def further(self, event: Event) -> bool:
        """Whether the run has never been as far: a checkpoint that is saved once more is no progress."""
        match event:
            case TrainingDone() | StageDone():
                return True
            case CheckpointSaved():
                training = event.stage, event.training
                before, self._saved[training] = self._saved.get(training, 0), event.step
                self._saved[training] = max(before, event.step)
                return event.step > before
        return False

    def after(self, job: JobPlan, progressed: bool = False) -> Restarting | None:
        """Count a failure; the start that follows, if one may."""
        failures = 1 if progressed else self._failures.get(job.work, 0) + 1
        self._failures[job.work] = failures
        if failures > self.most:
            return None
        pause = min(LONGEST_PAUSE, 2.0 ** min(failures, 10))
        return Restarting(job=job.id, seconds=pause, failures=failures, most=self.most)


@dataclass(frozen=True)
class Regroup:
    """The hosts are to be asked before a job starts again."""

    job: JobPlan
    restarting: Restarting
    unsaved: Failure | None  # if the job has trained and there is nothing to go on from


@dataclass
class Outcome:
    """How a phase ended: with all its jobs done, if nothing here says otherwise."""

    stopped: list[StopAgreed] = field(default_factory=list)
    failed: Failure | None = None  # for good
    unsaved: Failure | None = None  # of a job that failed when it should have saved, or before it ever did
    regroup: Regroup | None = None


class Phase:
    def __init__(self, run: RunDirectory, plan: Plan, jobs: Sequence[JobPlan], stopping: Stopping, restarts: Restarts,
                 say: Callable[[Event], None], tick: Callable[[], None]) -> None:
        self.run, self.plan, self.jobs = run, plan, jobs
        self.stopping, self.restarts, self.say, self.tick = stopping, restarts, say, tick
        self.live: list[Attempt] = []
        self.due = {job.id: 0.0 for job in jobs}  # when a job that is not running starts
        self.outcome = Outcome()
        self._unsaved: dict[int, Failure] = {}  # of jobs that wait to start again, and what they did is lost

    def execute(self) -> Outcome:
        """Run the jobs until all are done, or as far as it goes. The first that fails for good stops the others, who
        save first."""
        try:
            while (self.due or self.live) and not self.stopping.interrupted_again:
                self._start_due()
                self._look()
                for attempt in [attempt for attempt in self.live if attempt.code is not None]:
                    self.live.remove(attempt)
                    self._ended(attempt)
                time.sleep(LOOK_SECONDS)
            for attempt in self.live:
                attempt.end()
        finally:
            for attempt in self.live:
                attempt.kill()
        return self.outcome

    def _start_due(self) -> None:
        if self.stopping.asked():
            self.outcome.unsaved = self.outcome.unsaved or next(
                (self._unsaved[job] for job in self.due if job in self._unsaved), None)
            self.due.clear()
        for job in [job for job in self.jobs if self.due.get(job.id, math.inf) <= time.monotonic()]:
            del self.due[job.id]
            self._unsaved.pop(job.id, None)
            self.live.append(Attempt(self.run, self.plan, job, self.restarts.started(job), self.say,
                                     self.restarts.further))

    def _look(self) -> None:
        for attempt in self.live:
            attempt.look()
            if attempt.signalled is not None:
                self.stopping.ask(f"rank {attempt.signalled.rank} was sent {attempt.signalled.signal}")
        self.tick()

    def _ended(self, attempt: Attempt) -> None:
        """What follows from a job's end."""
        failure = attempt.failure
        if attempt.stopped is not None:
            self.outcome.stopped.append(attempt.stopped)
        elif failure is None:
            return
        elif failure.kind in FINAL or (again := self.restarts.after(attempt.job, attempt.progressed)) is None:
            self.outcome.failed = self.outcome.failed or failure
            self._hold("a job has failed")
        elif self.stopping.asked() or self.outcome.failed:
            self.outcome.unsaved = self.outcome.unsaved or failure
            self.say(Notice(level="error", text=f"not started again, since the run stops: {failure.text}"))
        else:
            self._again(attempt, failure, again)

    def _again(self, attempt: Attempt, failure: Failure, again: Restarting) -> None:
        self.say(again)
        lost = attempt.trained and not has_trained(self.run)
        hosts = self.plan.cluster.hosts
        suspect = failure.kind in OF_HOSTS or not attempt.liveness.all_started
        if suspect and (len(hosts) > 1 or not hosts[0].local) and self.outcome.regroup is None:
            self.outcome.regroup = Regroup(attempt.job, again, failure if lost else None)
            self._hold("the hosts are asked before a job starts again")
        elif self.outcome.regroup is None:
            self.due[attempt.job.id] = time.monotonic() + again.seconds
            if lost:
                self._unsaved[attempt.job.id] = failure

    def _hold(self, why: str) -> None:
        """Nothing starts in this phase any more, and what runs saves and ends."""
        self.due.clear()
        if self.live:
            self.stopping.hold(why)
            self.say(Notice(text=f"the other jobs save a checkpoint and end: {why}"))
