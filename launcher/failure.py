"""Why a job failed: judged from what its ranks said, how its hosts' processes ended, and who has fallen silent."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mux.event import JobFailed, RankFailed
from mux.run import RunDirectory

Who = tuple[str, int]  # a host and the number of one of its ranks
Kind = Literal["input", "loss", "rank", "killed", "silent", "stalled", "host", "processes"]  # see JobFailed

FINAL = frozenset({"input", "loss"})  # another start would fail alike
OF_HOSTS = frozenset({"host", "silent", "killed", "processes"})  # maybe a host's fault: it is asked before it is used
SSH_FAILED = 255  # the exit code of an ssh that has lost its host, or never reached it
# What a rank says that has only lost another one: gloo, NCCL and the store through which ranks meet.
PEER_LOST = ("gloo", "nccl", "closed by peer", "reset by peer", "broken pipe", "tcpstore")


@dataclass(frozen=True)
class Failure:
    """`text` is for people; host and rank are those at fault, `code` is what the first process to fail returned."""

    kind: Kind
    text: str
    host: str | None = None
    rank: int | None = None
    code: int = 0

    def event(self, job: int) -> JobFailed:
        return JobFailed(job=job, kind=self.kind, text=self.text, on=self.host, by=self.rank, code=self.code)


@dataclass(frozen=True)
class Ended:
    """What is known of a job whose processes have ended before its work was done."""

    run: RunDirectory
    failed: Sequence[RankFailed]  # in the order they were heard
    mute: Mapping[Who, int]  # ranks that ended badly without a word, in that order, and their codes
    host: str  # whose processes ended first with another code than 0, or at all
    remote: bool  # it is reached through ssh or srun
    code: int  # with which they did
    last_words: str  # what they printed last


def of_end(ended: Ended) -> Failure:
    """The failure of a job that has ended; the first judge who knows has the word."""
    return next(failure for judge in JUDGES if (failure := judge(ended)) is not None)


def of_silence(silent: Mapping[Who, float], places: Mapping[Who, str], run: RunDirectory) -> Failure:
    """Some ranks, on any host, have sent no heartbeat for so many seconds."""
    host, rank = min(silent, key=lambda who: (-silent[who], who))
    there = sorted(number for name, number in silent if name == host)
    others = sorted({name for name, _ in silent} - {host})
    text = f"{_ranks(there)} on {host} {_has(there)} sent no heartbeat for {silent[host, rank]:.0f} s"
    text += f", nor have ranks on {', '.join(others)}" if others else ""
    text += f"; last seen at {places[host, rank]}" if (host, rank) in places else ""
    return Failure("silent", f"{text} (see {run.rank_log(host, rank)})", host, rank)


def of_stall(seconds: float, places: Mapping[Who, str], run: RunDirectory) -> Failure:
    """All ranks live and none comes further: where they are, those first that are not where most are."""
    at = Counter(places.values())
    odd = sorted(places, key=lambda who: (at[places[who]], who))
    told = []
    for place in dict.fromkeys(places[who] for who in odd):
        here = [who for who in odd if places[who] == place]
        hosts = list(dict.fromkeys(host for host, _ in here))
        name = f"{_ranks([rank for _, rank in here])} on {hosts[0]}" if len(hosts) == 1 else f"{len(here)} ranks"
        told.append(f"{name} {'is' if len(here) == 1 else 'are'} at {place}")
    host, rank = odd[0] if len(at) > 1 else (None, None)
    logs = run.logs if host is None or rank is None else run.rank_log(host, rank)
    text = ": ".join([f"no rank has come further for {seconds:.0f} s", *([", ".join(told)] if told else [])])
    return Failure("stalled", f"{text} (see {logs})", host, rank)


# --- judges ----------------------------------------------------------------------------------------
def _knowing(kind: str) -> Callable[[Ended], Failure | None]:
    """A rank has said why in so many words: the first to say so."""

    def judge(ended: Ended) -> Failure | None:
        known: dict[str, Kind] = {"input": "input", "loss": "loss"}
        said = [event for event in ended.failed if event.kind == kind]
        return _said(ended, said[0], known.get(kind, "rank")) if said else None

    return judge


def _reason(ended: Ended) -> Failure | None:
    """One failed by itself, not because it had lost another one."""
    said = [event for event in ended.failed if not any(word in event.error.lower() for word in PEER_LOST)]
    return _said(ended, said[0], "rank") if said else None


def _host(ended: Ended) -> Failure | None:
    """The link to a host, or our process there."""
    if ended.code < 0:
        text = f"the process that holds the ranks on {ended.host} was killed ({signal_name(ended.code)})"
    elif ended.remote and ended.code == SSH_FAILED:
        text = f"{ended.host} is out of reach" + (f": {ended.last_words}" if ended.last_words else "")
    else:
        return None
    return Failure("host", f"{text} (see {ended.run.logs})", ended.host, code=ended.code)


def _killed(ended: Ended) -> Failure | None:
    """One ended without a word: the first that did."""
    if not ended.mute:
        return None
    (host, rank), code = next(iter(ended.mute.items()))
    return Failure("killed", f"rank {rank} on {host} ended without a word ({signal_name(code)}); "
                             f"see {ended.run.rank_log(host, rank)}", host, rank, code)


def _lost_peer(ended: Ended) -> Failure | None:
    """All that is known is that one has lost another."""
    return _said(ended, ended.failed[0], "rank") if ended.failed else None


def _processes(ended: Ended) -> Failure:
    if ended.code == 0:
        return Failure("processes", "the processes ended without finishing their stages")
    words = f": {ended.last_words}" if ended.last_words else ""
    return Failure("processes", f"the processes on {ended.host} ended with {signal_name(ended.code)}{words} "
                                f"(see {ended.run.logs})", ended.host, code=ended.code)


JUDGES: tuple[Callable[[Ended], Failure | None], ...] = (
    _knowing("input"), _knowing("loss"), _host, _reason, _killed, _lost_peer, _processes)


def _said(ended: Ended, event: RankFailed, kind: Kind) -> Failure:
    host, rank = event.host or "", event.rank or 0
    return Failure(kind, f"rank {rank} on {host}: {event.error} (see {ended.run.rank_log(host, rank)})", host, rank,
                   ended.code)


def _ranks(numbers: Sequence[int]) -> str:
    return f"rank {numbers[0]}" if len(numbers) == 1 else f"ranks {', '.join(map(str, numbers))}"


def _has(numbers: Sequence[int]) -> str:
    return "has" if len(numbers) == 1 else "have"


def signal_name(code: int) -> str:
    """What a process's return code says: "exit code 1", "SIGKILL"."""
    for number in (-code, code - 128):
        if 0 < number < 65 and number in set(signal.Signals):
            return signal.Signals(number).name
    return f"exit code {code}"
