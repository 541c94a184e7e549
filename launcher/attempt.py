"""One start of a job: its processes, what its ranks say, and why it ended."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

from launcher.process import JobProcesses
from mux.event import (
    CheckpointSaved,
    Event,
    EventReader,
    Heartbeat,
    JobEnded,
    JobStarted,
    Notice,
    RankFailed,
    StageDone,
    StopAgreed,
    TrainingDone,
)
from mux.run import JobPlan, Plan, RunDirectory

LAST_WORDS_SECONDS = 10.0  # for the other ranks to end after one has failed
BEAT_SECONDS_PER_RANK = 0.15  # 64 ranks: each one's heartbeat is passed on every 10 s


class Attempt:
    """A job from its start to its end. `say` is told all that its ranks say, and what is seen from outside."""

    def __init__(self, run: RunDirectory, plan: Plan, job: JobPlan, number: int, say: Callable[[Event], None]) -> None:
        """Start the processes; `number` counts the starts of this job."""
        self.run, self.plan, self.job, self.say = run, plan, job, say
        self.code: int | None = None  # when it has ended: 0, or what the first process to fail returned
        self.stopped: StopAgreed | None = None
        self.failures: list[RankFailed] = []
        self.progressed = False  # a checkpoint was saved, a training or a stage done
        self._failing_since: float | None = None  # a rank has failed or is gone
        self._seen: dict[tuple[str, int], float] = {}  # (host, rank) -> when it last said anything
        self._beats: dict[tuple[str, int], float] = {}  # ... -> when a heartbeat was last passed on
        self._reported: set[tuple[str, int]] = set()  # silent ranks that a notice has named
        self._readers = list(self._from_now_on())
        self.say(JobStarted(job=job.id, stages=list(job.stages), hosts=job.ranks(), attempt=number))
        self._processes = JobProcesses(plan, job, run)

    def _from_now_on(self) -> Iterator[EventReader]:
        """Readers of what the ranks will say."""
        for row in self.job.ranks():
            for rank in row["ranks"]:
                path = self.run.rank_events(row["name"], rank)
                yield EventReader(path, path.stat().st_size if path.exists() else 0)

    def look(self) -> None:
        """One look: what the ranks say, whether they live; ends those that a failed one has left behind."""
        self.code = self._processes.poll()
        self._listen()
        self._name_silent()
        if self._failing_since is None and (self.failures or self._processes.ranks_lost()):
            self._failing_since = time.monotonic()
        if self._failing_since and time.monotonic() - self._failing_since > LAST_WORDS_SECONDS:
            self._processes.end()
        if self.code is not None:
            self.kill()
            self._listen()
            self.say(JobEnded(job=self.job.id, code=self.code))

    def kill(self) -> None:
        """End it at once; nothing is left when this returns."""
        self._processes.kill()

    @property
    def input_at_fault(self) -> bool:
        """Whether another start would fail in the same way."""
        return any(failed.input_at_fault for failed in self.failures)

    def _listen(self) -> None:
        for reader in self._readers:
            for event in reader.read():
                if event.host is not None and event.rank is not None:
                    # Age by our own clock: the hosts' clocks need not agree.
                    self._seen[event.host, event.rank] = time.monotonic()
                    self._reported.discard((event.host, event.rank))
                if not (isinstance(event, Heartbeat) and self._heard_lately(event)):
                    self.say(event)
                match event:
                    case StopAgreed():
                        self.stopped = event
                    case RankFailed():
                        self.failures.append(event)
                    case CheckpointSaved() | TrainingDone() | StageDone():
                        self.progressed = True

    def _heard_lately(self, beat: Heartbeat) -> bool:
        """Thin out heartbeats: however many ranks there are, the log grows by a few of them a second."""
        who, now = (beat.host or "", beat.rank or 0), time.monotonic()
        if now - self._beats.get(who, float("-inf")) < self.plan.cluster.devices * BEAT_SECONDS_PER_RANK:
            return True
        self._beats[who] = now
        return False

    def _name_silent(self) -> None:
        for (host, rank), seen in self._seen.items():
            silent = time.monotonic() - seen
            if silent > self.plan.recipe["cluster"]["heartbeat_seconds"] and (host, rank) not in self._reported:
                self._reported.add((host, rank))
                self.say(Notice(level="warning", text=f"rank {rank} on {host} has been silent for {silent:.0f} s"))

    def reason(self) -> str:
        """Why it has failed, for people."""
        code = self.code or 0
        if self.failures:
            # The first to fail, and among those the one that knows why: the others only lost their peer.
            failed = min(self.failures, key=lambda event: (not event.input_at_fault, event.time))
            gone = set(self._seen) - {(event.host, event.rank) for event in self.failures}
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
        logs = [self.run.node_log(host.name, self.job) for host in self.job.hosts]
        newest = max((log for log in logs if log.exists()), key=lambda log: log.stat().st_mtime, default=None)
        lines = newest.read_text(errors="replace").split("\n") if newest else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def signal_name(code: int) -> str:
    """What a process's return code says: "exit code 1", "SIGKILL"."""
    for number in (-code, code - 128, 256 - code):
        if 0 < number < 65 and number in set(signal.Signals):
            return signal.Signals(number).name
    return f"exit code {code}"
