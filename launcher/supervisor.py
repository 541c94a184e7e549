"""The supervisor: runs a plan's jobs in order, merges what the ranks say, and ends in one honest exit status."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from launcher.dashboard import Display
from launcher.preview import model_name
from launcher.process import JobProcesses
from mux.event import (
    CheckpointSaved,
    Event,
    EventReader,
    EventWriter,
    Heartbeat,
    JobEnded,
    JobStarted,
    Notice,
    RankFailed,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    StageDone,
    StopAgreed,
    encode,
)
from mux.recipe.schema import ModelSection
from mux.run import JobPlan, Plan, RunDirectory

FINISHED, FAILED, STOPPED, INTERRUPTED = 0, 1, 75, 130
LOOK_SECONDS = 0.1
LAST_WORDS_SECONDS = 10.0  # for the other ranks to end after one has failed
BEAT_SECONDS_PER_RANK = 0.15  # 64 ranks: each one's heartbeat is passed on every 10 s


@dataclass
class Attempt:
    """What became known of one start of a job."""

    stopped: StopAgreed | None = None
    failures: list[RankFailed] = field(default_factory=list)
    failing_since: float | None = None  # a rank has failed or is gone
    acknowledged: bool = False  # a request to stop, on the dashboard
    progressed: bool = False  # a checkpoint was saved or a stage done
    seen: dict[tuple[str, int], float] = field(default_factory=dict)  # (host, rank) -> when it last said anything
    beats: dict[tuple[str, int], float] = field(default_factory=dict)  # ... -> when a heartbeat was last passed on
    reported: set[tuple[str, int]] = field(default_factory=set)  # silent ranks that a notice has named


class Supervisor:
    def __init__(self, run: RunDirectory, plan: Plan, display: Display, resumed: bool) -> None:
        self.run, self.plan, self.display, self.resumed = run, plan, display, resumed
        self.events = EventWriter(run.events)
        self.asked: list[str] = []  # names of the signals that asked for a stop
        cluster = plan.recipe["cluster"]
        self.max_restarts, self.heartbeat_seconds = cluster["max_restarts"], cluster["heartbeat_seconds"]

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
        for job in self.plan.jobs:
            code = self._until_done(job)
            if code != FINISHED:
                return code
        whole = all(self.run.stage_result(stage.id).exists() for stage in self.plan.stages)
        self.run.write_results("finished" if whole else "partial")
        self.say(RunFinished(seconds=round(time.monotonic() - started, 2)))
        return FINISHED

    def _until_done(self, job: JobPlan) -> int:
        """Start a job as often as `cluster.max_restarts` allows without progress; once, if its input is at fault."""
        failures = 0
        for attempt in range(1, 1_000_000):
            if self._done(job):
                return FINISHED
            if self._stop_asked():
                return self._stopped("between jobs")
            outcome, code = self._attempt(job, attempt)
            if self._interrupted_again():
                return self._failed(INTERRUPTED, code, "interrupted twice: ended without saving")
            if outcome.stopped is not None:
                step = f" at step {outcome.stopped.step}" if outcome.stopped.step is not None else ""
                return self._stopped(f"{outcome.stopped.stage}{step}")
            if self._done(job):
                return FINISHED
            if not self._stop_asked():
                # Ranks that were sent SIGTERM because another one failed have asked for a stop that nobody wanted.
                self.run.stop_request.unlink(missing_ok=True)
            reason = self._reason(outcome, code)
            failures = 1 if outcome.progressed else failures + 1
            if failures > self.max_restarts or any(failed.input_at_fault for failed in outcome.failures):
                return self._failed(FAILED, code, reason)
            pause = min(60.0, 2.0**failures)
            self.say(Notice(level="error", text=f"starting again in {pause:.0f} s ({failures} of {self.max_restarts} "
                                                f"without progress), since {reason}"))
            self._pause(pause)
        raise AssertionError("unreachable")

    def _attempt(self, job: JobPlan, number: int) -> tuple[Attempt, int]:
        """Start the job's processes and stay with them to their end."""
        outcome, readers = Attempt(), self._readers(job)
        self.say(JobStarted(job=job.id, stages=list(job.stages), hosts=job.ranks(), attempt=number))
        processes = JobProcesses(self.plan, job, self.run)
        try:
            while (code := processes.poll()) is None:
                self._listen(readers, outcome)
                self._name_silent(outcome)
                if self._stop_asked() and not outcome.acknowledged:
                    outcome.acknowledged = True
                    self.say(Notice(text="stopping: a checkpoint is saved at the next step. Ctrl-C twice ends at once"))
                self.display.tick(time.time())
                if self._interrupted_again():
                    processes.kill()
                if outcome.failing_since is None and (outcome.failures or processes.ranks_lost()):
                    outcome.failing_since = time.monotonic()
                if outcome.failing_since and time.monotonic() - outcome.failing_since > LAST_WORDS_SECONDS:
                    processes.end()
                time.sleep(LOOK_SECONDS)
        finally:
            processes.kill()
        self._listen(readers, outcome)
        self.say(JobEnded(job=job.id, code=code))
        return outcome, code

    def _readers(self, job: JobPlan) -> list[EventReader]:
        """Readers of what the ranks will say from now on."""
        paths = [self.run.rank_events(row["name"], rank) for row in job.ranks() for rank in row["ranks"]]
        return [EventReader(path, path.stat().st_size if path.exists() else 0) for path in paths]

    def _unheard(self) -> list[Event]:
        """What ranks of an earlier start said after its launcher was killed, in the order of their clocks."""
        last = {(event.host, event.rank): encode(event) for event in EventReader(self.run.events).read()}
        unheard: list[Event] = []
        for path in sorted(self.run.logs.glob("*.events.jsonl")):
            said = list(EventReader(path).read())
            merged = [index for index, event in enumerate(said) if encode(event) == last.get((event.host, event.rank))]
            unheard += said[merged[-1] + 1 :] if merged else said
        return sorted(unheard, key=lambda event: event.time)

    def _listen(self, readers: list[EventReader], outcome: Attempt) -> None:
        for reader in readers:
            for event in reader.read():
                if event.host is not None and event.rank is not None:
                    # Age by our own clock: the hosts' clocks need not agree.
                    outcome.seen[event.host, event.rank] = time.monotonic()
                    outcome.reported.discard((event.host, event.rank))
                if not (isinstance(event, Heartbeat) and self._heard_lately(event, outcome, len(readers))):
                    self.say(event)
                match event:
                    case StopAgreed():
                        outcome.stopped = event
                    case RankFailed():
                        outcome.failures.append(event)
                    case StageDone():
                        outcome.progressed = True
                        self.run.write_results("running")
                    case CheckpointSaved():
                        outcome.progressed = True

    def _heard_lately(self, beat: Heartbeat, outcome: Attempt, ranks: int) -> bool:
        """Thin out heartbeats: however many ranks there are, the log grows by a few of them a second."""
        who, now = (beat.host or "", beat.rank or 0), time.monotonic()
        if now - outcome.beats.get(who, float("-inf")) < ranks * BEAT_SECONDS_PER_RANK:
            return True
        outcome.beats[who] = now
        return False

    def _name_silent(self, outcome: Attempt) -> None:
        for (host, rank), seen in outcome.seen.items():
            silent = time.monotonic() - seen
            if silent > self.heartbeat_seconds and (host, rank) not in outcome.reported:
                outcome.reported.add((host, rank))
                self.say(Notice(level="warning", text=f"rank {rank} on {host} has been silent for {silent:.0f} s"))

    def _reason(self, outcome: Attempt, code: int) -> str:
        if outcome.failures:
            # The first to fail, and among those the one that knows why: the others only lost their peer.
            failed = min(outcome.failures, key=lambda event: (not event.input_at_fault, event.time))
            gone = set(outcome.seen) - {(event.host, event.rank) for event in outcome.failures}
            if len(gone) == 1 and not failed.input_at_fault:
                host, rank = gone.pop()
                log = self.run.rank_log(host, rank)
                return f"rank {rank} on {host} ended without a word ({signal_name(code)}); see {log}"
            return (f"rank {failed.rank} on {failed.host}: {failed.error} "
                    f"(see {self.run.rank_log(failed.host or '', failed.rank or 0)})")
        if code == 0:
            return "the processes ended without finishing their stages"
        words = self._last_words()
        return f"the processes ended with {signal_name(code)}{': ' + words if words else ''} (see {self.run.logs})"

    def _last_words(self) -> str:
        """The last line that a node's launcher, or the ssh to it, has printed."""
        logs = sorted(self.run.logs.glob("*.node.log"), key=lambda path: path.stat().st_mtime)
        lines = logs[-1].read_text(errors="replace").split("\n") if logs else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _done(self, job: JobPlan) -> bool:
        return all(self.run.stage_result(stage).exists() for stage in job.stages)

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
        widest = max(self.plan.jobs, key=lambda job: job.world_size)
        stages = [{"id": stage.id, "kind": stage.kind, "steps": stage.steps,
                   "done": self.run.stage_result(stage.id).exists()} for stage in self.plan.stages]
        return RunStarted(name=self.plan.name, directory=self.plan.directory, N=model.N, stages=stages,
                          model=model_name(model), hosts=widest.ranks(), resumed=self.resumed)

    def say(self, event: Event) -> None:
        self.events.write(event)
        self.display.show(event)

    def _stop_asked(self) -> bool:
        return bool(self.asked) or self.run.stop_asked()

    def _interrupted_again(self) -> bool:
        """Ctrl-C after a stop was asked for already: end at once."""
        return "SIGINT" in self.asked[1:]

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stop_asked():
            self.display.tick(time.time())
            time.sleep(LOOK_SECONDS)

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
        self.run.ask_to_stop(f"launcher: {self.asked[-1]}")


def signal_name(code: int) -> str:
    """What a process's return code says: "exit code 1", "SIGKILL"."""
    for number in (-code, code - 128, 256 - code):
        if 0 < number < 65 and number in set(signal.Signals):
            return signal.Signals(number).name
    return f"exit code {code}"
