"""One start of a job: its processes, what its ranks say, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from launcher.failure import Ended, Failure, Who, of_end, of_silence, of_stall
from launcher.liveness import Liveness
from launcher.process import JobProcesses
from mux.event import Event, Heartbeat, JobEnded, JobStarted, RankFailed, RankSignalled, StepDone, StopAgreed
from mux.journal import EventReader
from mux.run import JobPlan, Plan, RunDirectory

LAST_WORDS_SECONDS = 30.0  # after a rank has said that it failed, for its agent to end the others
BEAT_SECONDS_PER_RANK = 0.15  # 64 ranks: each one's heartbeat is passed on every 10 s


class Attempt:
    """A job from its start to its end. `say` is told all that its ranks say, and what is seen from outside."""

    def __init__(self, run: RunDirectory, plan: Plan, job: JobPlan, number: int, say: Callable[[Event], None],
                 further: Callable[[Event], bool]) -> None:
        """Start the processes; `number` counts the starts of this job, `further` knows whether an event is progress."""
        self.run, self.plan, self.job, self.say, self.further = run, plan, job, say, further
        self.code: int | None = None  # when it has ended: 0, or what the first process to fail returned
        self.failure: Failure | None = None
        self.stopped: StopAgreed | None = None
        self.signalled: RankSignalled | None = None  # a rank was sent a signal that asks for a stop
        self.trained = False  # a step was done
        self.progressed = False  # the run has come further than it ever was
        self._failed: list[RankFailed] = []
        self._ending_until = 0.0
        self._beats: dict[Who, float] = {}  # when a heartbeat was last passed on
        self._readers = list(self._from_now_on())
        ranks = [(row["name"], rank) for row in job.ranks() for rank in row["ranks"]]
        cluster = plan.recipe["cluster"]
        self.say(JobStarted(job=job.id, stages=list(job.stages), hosts=job.ranks(), attempt=number))
        self._processes = JobProcesses(plan, job, run)
        self.liveness = Liveness(ranks, cluster["heartbeat_seconds"], cluster["stall_seconds"])

    def _from_now_on(self) -> Iterator[EventReader]:
        """Readers of what the ranks will say."""
        for row in self.job.ranks():
            for rank in row["ranks"]:
                path = self.run.rank_events(row["name"], rank)
                yield EventReader(path, path.stat().st_size if path.exists() else 0)

    def look(self) -> None:
        """One look: what the ranks say, whether they live and come further. Ends a job that does not, everywhere."""
        self.liveness.look()
        code = self._processes.poll()  # asked before reading: what a dying rank said last is then still read
        self._listen()
        if code is None:
            self.failure = self._standing_still()
            if self.failure is None:
                return
        if code is None and self.run.done(self.job):
            self.failure = None  # only the end of its processes is missing
        elif code is None:
            assert self.failure is not None
            self.say(self.failure.event(self.job.id))  # at once: the end may take its time
        self.end()

    def end(self) -> None:
        """End it at once, everywhere; nothing is left of it when this returns."""
        ends = {host: code for host, code in self._processes.codes().items() if code is not None}
        self._processes.kill()
        self._listen()
        if self.failure is None and self.stopped is None and not self.run.done(self.job) and ends:
            self.failure = self._judged(ends)
            self.say(self.failure.event(self.job.id))
        self.code = self.failure.code if self.failure else 0
        if not self.run.done(self.job):
            self.code = self.code or self._processes.poll() or 0
        self.say(JobEnded(job=self.job.id, code=self.code))

    def kill(self) -> None:
        """`end` without a word: for when there is nobody to tell."""
        self._processes.kill()

    def _standing_still(self) -> Failure | None:
        if time.monotonic() < self._ending_until:
            return None
        if silent := self.liveness.silent():
            return of_silence(silent, self.liveness.places, self.run)
        if (seconds := self.liveness.stalled()) is not None:
            return of_stall(seconds, self.liveness.places, self.run)
        return None

    def _judged(self, ends: dict[str, int]) -> Failure:
        """`ends`: the exit codes of the hosts that had ended by themselves."""
        name, code = next(((name, code) for name, code in ends.items() if code), next(iter(ends.items())))
        host = next(host for host in self.job.hosts if host.name == name)
        told = {(event.host, event.rank) for event in self._failed}
        ranks = next(row["ranks"] for row in self.job.ranks() if row["name"] == name)
        mute = self.liveness.mute((name, rank) for rank in ranks if (name, rank) not in told)
        return of_end(Ended(self.run, self._failed, mute, name, not host.local, code, self._last_words(name)))

    def _listen(self) -> None:
        for reader in self._readers:
            for event in reader.read():
                if event.host is not None and event.rank is not None:
                    self.liveness.heard(event)
                if not (isinstance(event, Heartbeat) and self._heard_lately(event)):
                    self.say(event)
                self.progressed = self.further(event) or self.progressed
                match event:
                    case StopAgreed():
                        self.stopped = event
                    case RankSignalled():
                        self.signalled = event
                    case RankFailed():
                        self._failed.append(event)
                        self._ending_until = time.monotonic() + LAST_WORDS_SECONDS
                    case StepDone():
                        self.trained = True

    def _heard_lately(self, beat: Heartbeat) -> bool:
        """Thin out heartbeats: however many ranks there are, the log grows by a few of them a second."""
        who, now = (beat.host or "", beat.rank or 0), time.monotonic()
        if now - self._beats.get(who, float("-inf")) < self.plan.cluster.devices * BEAT_SECONDS_PER_RANK:
            return True
        self._beats[who] = now
        return False

    def _last_words(self, host: str) -> str:
        """The last line that a host's agent and DeepSpeed's launcher, or the ssh to them, have printed."""
        log = self.run.node_log(host, self.job)
        lines = log.read_text(errors="replace").split("\n") if log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
