"""One start of a job: its processes, what its ranks say, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from launcher.failure import Ended, Failure, Who, of_end, of_silence, of_stall
from launcher.liveness import Liveness
from launcher.process import JobProcesses
from mux.event import (
    Event,
    Heartbeat,
    JobEnded,
    JobStarted,
    RankEnded,
    RankFailed,
    RankSignalled,
    StepDone,
    StopAgreed,
)
from mux.journal import EventReader, decode
from mux.plan import JobPlan, Plan
from mux.run import RunDirectory, write_bytes
from mux.secrets import found, redacted

ENDING_SECONDS = 30.0  # after a rank has said that it failed, for its agent to end the others
LOG_BLOCK = 1 << 20  # characters of a log that are looked at at once
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
        self._ended: dict[Who, int] = {}  # ranks that ended badly by themselves, in that order, and their codes
        self._ending_until = 0.0
        self._beats: dict[Who, float] = {}  # when a heartbeat was last passed on
        self._ranks: list[Who] = [(row["name"], rank) for row in job.ranks() for rank in row["ranks"]]
        self._readers = [EventReader(emptied(run.rank_events(host, rank))) for host, rank in self._ranks]
        self._agents = {host.name: EventReader(log, log.stat().st_size if log.exists() else 0)
                        for host in job.hosts for log in [run.node_log(host.name, job)]}
        self._log_sizes = {name: reader.offset for name, reader in self._agents.items()}  # before this start
        cluster = plan.recipe["cluster"]
        self.say(JobStarted(job=job.id, stages=list(job.stages), hosts=job.ranks(), attempt=number,
                            measures=bool(job.measurement)))
        self._processes = JobProcesses(plan, job, run)
        self.liveness = Liveness(self._ranks, cluster["heartbeat_seconds"], cluster["stall_seconds"])

    def look(self) -> None:
        """One look: what the ranks say, whether they live and come further. Ends a job that does not, everywhere."""
        self.liveness.look()
        code = self._processes.poll()  # asked before reading: what a dying rank said last is then still read
        self._listen()
        if code is None:
            failure = self._standing_still()
            if failure is None:
                return
            if not self.run.done(self.job):  # else only the end of its processes is missing
                self.failure = failure
                self.say(failure.event(self.job.id))  # at once: the end may take its time
        self.end()

    def end(self) -> None:
        """End it at once, everywhere; nothing is left of it when this returns."""
        ends = {host: code for host, code in self._processes.codes().items() if code is not None}
        self._processes.kill()
        self._listen()
        if self.failure is None and self.stopped is None and not self.run.done(self.job) and ends:
            self.failure = self._judged(ends)
            self.say(self.failure.event(self.job.id))
        self._take_secrets_out()
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
        mute = {who: code for who, code in self._ended.items()
                if who not in told and (who in self.liveness.started or code < 0)}
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
                        self._ending_until = time.monotonic() + ENDING_SECONDS
                    case StepDone():
                        self.trained = True
        for name, reader in self._agents.items():
            for ended in reader.only(RankEnded):
                rank = self.job.first_rank + (ended.rank or 0)
                self._ended[name, rank] = ended.code
                self.say(replace(ended, host=name, rank=rank))

    def _heard_lately(self, beat: Heartbeat) -> bool:
        """Thin out heartbeats: however many ranks there are, the log grows by a few of them a second."""
        who, now = (beat.host or "", beat.rank or 0), time.monotonic()
        if now - self._beats.get(who, float("-inf")) < self.plan.cluster.devices * BEAT_SECONDS_PER_RANK:
            return True
        self._beats[who] = now
        return False

    def _take_secrets_out(self) -> None:
        """Of what was printed past Python by C++, an ssh or a shell: nobody writes to these logs any more, but those
        who are out of reach."""
        logs = [self.run.node_log(host.name, self.job) for host in self.job.hosts]
        for log in (*logs, *(self.run.rank_log(host, rank) for host, rank in self._ranks)):
            with suppress(OSError, MemoryError):  # it is not there, the disk is full: its folder is the user's alone
                redact(log)

    def _last_words(self, host: str) -> str:
        """The last line in words that a host's agent and ranks, or the ssh to them, have printed in this start."""
        log = self.run.node_log(host, self.job)
        printed = log.read_bytes()[self._log_sizes[host] :] if log.exists() else b""
        lines = [line.strip() for line in printed.decode(errors="replace").split("\n")]
        return next((line for line in reversed(lines) if line and decode(line) is None), "")


def emptied(log: Path) -> Path:
    """A rank's events, without those of earlier starts. A rank of one that still lives, out of reach, has the old file
    open and goes on writing where nobody reads."""
    log.unlink(missing_ok=True)
    log.touch(0o600)
    return log


def redact(log: Path) -> None:
    """Replace the secrets in a log: whole or not at all, and only if there are any. Raises OSError."""
    with open(log, encoding="utf-8", errors="surrogateescape", newline="") as file:
        if any(found("".join(lines)) for lines in iter(lambda: file.readlines(LOG_BLOCK), [])):
            file.seek(0)
            write_bytes(log, redacted(file.read()).encode(errors="surrogateescape"))
