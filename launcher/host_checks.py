"""What is checked of a host: a row a check, each with what the table shows and what may be wrong; and why a host could
not be asked at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from launcher.probe import Answer, Installed
from mux.plan import Host
from mux.recipe.wording import printable, short_commit

MOST_SKEW_SECONDS = 5.0
GB = 1e9


@dataclass(frozen=True)
class Asked:
    """What the answers are compared with."""

    installed: Installed  # here
    token: str
    bytes_needed: int
    device: Literal["cpu", "cuda"]
    first: str  # the host where the ranks meet


@dataclass(frozen=True)
class Reply:
    """A host's answer, and what only the launcher can tell."""

    host: Host
    answer: Answer
    skew: float  # seconds that its clock is ahead, by no more than half of the round trip off
    uncertain: float  # half of that round trip
    left: str | None  # the token as the host left it in the run directory, seen from here


@dataclass(frozen=True)
class Seen:
    cell: str  # of the table
    wrong: tuple[str, ...] = ()


def _versions(reply: Reply, asked: Asked) -> Seen:
    there, here = reply.answer.installed, asked.installed
    pairs = {"Python": (there.python, here.python)} | {
        name: (there.packages.get(name), own) for name, own in here.packages.items()}
    return Seen(there.python, tuple(f"has {name} {theirs or '(none)'}, and the launcher {own or '(none)'}"
                                    for name, (theirs, own) in pairs.items() if theirs != own))


def _commit(reply: Reply, asked: Asked) -> Seen:
    there, here = reply.answer.installed, asked.installed
    cell = short_commit(there.commit or "none")
    if there.commit and here.commit and there.commit != here.commit:
        own = short_commit(here.commit)
        return Seen(cell, (f"its project is at commit {cell}, the launcher's at {own}",))
    if there.code != here.code:
        return Seen(cell, ("its project's files differ from the launcher's",))
    return Seen(cell)


def _shared(reply: Reply, asked: Asked) -> Seen:
    if reply.answer.wrong:
        return Seen("no", (f"cannot read and write the run directory: {reply.answer.wrong}",))
    if reply.answer.token != asked.token:
        return Seen("no", ("the run directory is not shared: what the launcher writes there does not arrive",))
    if reply.left != asked.token:
        return Seen("no", ("the run directory is not shared: what it writes there does not arrive here",))
    return Seen("yes")


def _disk(reply: Reply, asked: Asked) -> Seen:
    if (free := reply.answer.free) is None:
        return Seen("?")
    wrong = (f"the run may need {asked.bytes_needed / GB:,.2f} GB, and its disk has {free / GB:,.2f} GB free",)
    return Seen(f"{free / GB:,.0f} GB", wrong if free < asked.bytes_needed else ())


def _port(reply: Reply, asked: Asked) -> Seen:
    if reply.host.name != asked.first:
        return Seen("")
    return Seen("free") if reply.answer.ports else Seen("taken", ("all ports that were tried for the ranks to meet at "
                                                                  "are taken",))


def _clock(reply: Reply, asked: Asked) -> Seen:
    certain = max(0.0, abs(reply.skew) - reply.uncertain)
    way = "ahead" if reply.skew > 0 else "behind"
    wrong = (f"its clock is {certain:.0f} s {way}: files on the shared disk would have the wrong time",)
    return Seen(f"{certain:.0f} s {way}" if certain >= 1 else "right", wrong if certain > MOST_SKEW_SECONDS else ())


def _devices(reply: Reply, asked: Asked) -> Seen:
    gpus, slots = reply.answer.gpus, reply.host.slots
    if asked.device == "cpu":
        return Seen(f"{slots} on CPU")
    return Seen(f"{gpus} GPUs", () if gpus >= slots else (f"has slots={slots}, but {gpus} GPUs",))


CHECKS: dict[str, Callable[[Reply, Asked], Seen]] = {
    "python": _versions, "commit": _commit, "shared": _shared, "disk": _disk, "port": _port, "clock": _clock,
    "devices": _devices,
}

# Of what ssh, srun or the remote shell say when there is no answer: what it means and the way out, the first that fits.
UNREACHED = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key has changed: it was installed anew, or somebody is in "
     "between. After checking, ssh-keygen -R {host} forgets the old key"),
    (r"No \S+ host key is known|Host key verification failed", "its host key is not known here: connect once by hand "
     "(ssh {host}) and compare the fingerprint"),
    (r"Permission denied \(", "permission denied: it does not take this user's key (ssh-copy-id {host})"),
    (r"Could not resolve hostname|Name or service not known|Invalid node name", "its name does not resolve"),
    (r"No route to host|Network is unreachable", "there is no route to it"),
    (r"Connection refused", "connection refused: no sshd listens there"),
    (r"timed out", "it does not answer: the connection timed out"),
    (r"Connection (?:closed|reset)", "it closed the connection"),
    (r"cd: |can't cd|chdir\(", "it does not have the directory that this was started in ({directory})"),
    (r"No module named '?(?:launcher|mux)", "the project is not installed there ({python})"),
    (r"env: .*No such file|not found", "there is no {python}"),
)


def unreached(said: str, seconds: float, code: int | None, names: dict[str, str]) -> str:
    """Why a host gave no answer. `code` None: it had not ended after so many seconds."""
    if code is None:
        return f"gave no answer within {seconds:.0f} s"
    for pattern, meaning in UNREACHED:
        if re.search(pattern, said):
            return meaning.format_map(names)
    return f"gave no answer: {last_line(said.splitlines()) or f'exit code {code}'}"


def last_line(lines: Iterable[str]) -> str:
    return next((printable(line.strip())[:200] for line in reversed(list(lines)) if line.strip()), "")
