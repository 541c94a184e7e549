"""Asking hosts, all at once, whether a run can start on them: before its first process, and again after a failure.

Each host answers for itself (launcher.probe), then all add up a number over the network that the ranks will use
(mux.handshake). Nothing is left on any host, nor in the run directory.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TextIO

from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from launcher import errands, preflight, process
from launcher.dashboard.terminal import table_console
from launcher.directory import QUESTION
from launcher.errands import Errand
from launcher.host_checks import CHECKS, Asked, Reply, Seen, last_line, unreached
from launcher.probe import MARK, Answer, Question, installed
from launcher.reach import environment, reach
from mux.handshake import DONE, MET
from mux.plan import Cluster, Host
from mux.recipe import Problem, Refusal
from mux.run import RunDirectory, write_text

ANSWER_SECONDS = 60.0  # Python starts slowly where a shared disk is busy
HANDSHAKE_SECONDS = 60.0  # after torch is imported, which may take as long
PORTS_TRIED = 8
NARROW_COLUMNS = 90  # fewer have no room for a column a check


@dataclass(frozen=True)
class Inspection:
    """What was seen of a cluster's hosts."""

    cluster: Cluster  # as it was asked
    device: Literal["cpu", "cuda"]  # "cpu" also if no host that answered has a GPU
    replies: dict[str, Reply]  # by host name, as all that follows; of hosts that answered
    seen: dict[str, dict[str, Seen]]  # check -> what was seen
    problems: dict[str, tuple[str, ...]]  # of hosts with any

    @property
    def healthy(self) -> tuple[Host, ...]:
        return tuple(host for host in self.cluster.hosts if host.name not in self.problems)

    @property
    def gpus(self) -> dict[str, int]:
        return {name: reply.answer.gpus for name, reply in self.replies.items()}

    def with_problems(self, problems: dict[str, str]) -> Inspection:
        return replace(self, problems=self.problems | {
            name: (*self.problems.get(name, ()), problem) for name, problem in problems.items()})

    def refusals(self) -> list[Problem]:
        return [Problem(text, where=f"{self.cluster.source}: {name}")
                for name, texts in self.problems.items() for text in texts]

    def table(self, columns: int = 200) -> Table:
        """A row a host, in so many columns of a terminal: narrow ones have room for verdicts alone."""
        checks = list(CHECKS) if columns >= NARROW_COLUMNS else []
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("host", *checks, ""):
            table.add_column(title)
        for host in self.cluster.hosts:
            seen, wrong = self.seen.get(host.name, {}), self.problems.get(host.name, ())
            cells = [Text(seen[check].cell, "red" if seen[check].wrong else "") if check in seen else Text("")
                     for check in checks]
            table.add_row(Text(host.name), *cells, Text("; ".join(wrong), "red") if wrong else Text("ok", "green"))
        return table


def inspect(cluster: Cluster, run: RunDirectory, bytes_needed: int, rendezvous: bool,
            say: Callable[[str], None] = lambda text: None, begun: bool = True) -> Inspection:
    """Ask all hosts. `bytes_needed` is what the run may need in all, also if it has `begun`; with `rendezvous` the
    healthy ones then meet. `say` hears how far it is. Raises Refusal if nothing can be written where the run is to
    be."""
    say(f"asking {len(cluster.hosts)} host{'s' if len(cluster.hosts) > 1 else ''} ...")
    with _question(run) as question:
        replies, silent = _ask(cluster, question)
        needed = preflight.room_needed(bytes_needed, run, begun)
        inspection = _judged(cluster, question, needed, replies).with_problems(silent)
    while rendezvous and len(inspection.healthy) > 1:
        seconds, problems = _meet(inspection)
        if not problems:
            say(f"all-reduce over {len(inspection.healthy)} hosts: {seconds:.1f} s")
            break
        inspection = inspection.with_problems(problems)
    return inspection


def show(inspection: Inspection, stream: TextIO) -> None:
    """Print the table: as wide as the terminal, in a pipe a line a host."""
    console = table_console(stream)
    console.print(inspection.table(console.width))


# --- asking ---------------------------------------------------------------------------------------
@contextmanager
def _question(run: RunDirectory) -> Iterator[Question]:
    """A question with a token in the run directory, of which nothing is left afterwards."""
    folder = run.logs / f"{QUESTION}.{secrets.token_hex(8)}"
    made = [path for path in (run.logs, *run.logs.parents) if not path.exists()]
    try:
        for path in (*reversed(made), folder):
            path.mkdir(mode=0o700, exist_ok=True)
        token = secrets.token_hex(16)
        write_text(folder / "asked", token)
    except OSError as error:
        raise Refusal(Problem(f"cannot be used: {error.strerror}", where=str(run.path),
                              hint="--run-dir DIR chooses another place")) from None
    ports = random.SystemRandom().sample(range(process.FIRST_PORT, process.FIRST_PORT + process.PORTS), PORTS_TRIED)
    try:
        yield Question(folder=str(folder), name="", token=token, ports=tuple(ports))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # somebody else has put something there
            for path in made:
                path.rmdir()


def _ask(cluster: Cluster, question: Question) -> tuple[dict[str, Reply], dict[str, str]]:
    """What each host answers, by name; and why there is no answer of the others."""
    commands = {}
    for index, host in enumerate(cluster.hosts):
        asked = question.model_copy(update={"name": str(index)}).model_dump_json()
        argv = [sys.executable, "-u", "-m", "launcher.probe", asked]
        commands[host.name] = (reach(cluster, host, argv, {}), environment(cluster, host, {}))
    replies, silent = {}, {}
    said = errands.together(commands, ANSWER_SECONDS)
    for index, host in enumerate(cluster.hosts):
        errand = said[host.name]
        answer = _answer(errand)
        if answer is None:
            names = {"host": host.name, "directory": os.getcwd(), "python": sys.executable}
            silent[host.name] = unreached(errand.output, ANSWER_SECONDS, errand.code, names)
            continue
        middle = (errand.started + errand.ended) / 2
        replies[host.name] = Reply(host, answer, skew=answer.clock - middle, uncertain=errand.ended - middle,
                                   left=_left(question, str(index)))
    return replies, silent


def _answer(errand: Errand) -> Answer | None:
    """The line behind MARK, whatever else was printed."""
    for line in errand.output.splitlines():
        if line.startswith(MARK):
            with suppress(ValidationError):
                return Answer.model_validate_json(line.removeprefix(MARK))
    return None


def _left(question: Question, name: str) -> str | None:
    """What a host has left for us in the run directory."""
    with suppress(OSError, UnicodeDecodeError):
        return (Path(question.folder) / name).read_text()
    return None


def _judged(cluster: Cluster, question: Question, bytes_needed: int, replies: dict[str, Reply]) -> Inspection:
    """All checks on all answers."""
    without_gpus = bool(replies) and not any(reply.answer.gpus for reply in replies.values())
    device: Literal["cpu", "cuda"] = "cpu" if without_gpus else cluster.device
    asked = Asked(installed(), question.token, bytes_needed, device, cluster.hosts[0].name)
    seen = {name: {check: judge(reply, asked) for check, judge in CHECKS.items()} for name, reply in replies.items()}
    problems = {name: tuple(text for one in row.values() for text in one.wrong) for name, row in seen.items()}
    return Inspection(cluster, device, replies, seen, {name: texts for name, texts in problems.items() if texts})


# --- meeting --------------------------------------------------------------------------------------
def _meet(inspection: Inspection) -> tuple[float, dict[str, str]]:
    """An all-reduce over the healthy hosts: its seconds; or what is wrong with which of them."""
    hosts = inspection.healthy
    port = (inspection.replies[hosts[0].name].answer.ports or (process.FIRST_PORT,))[0]
    addresses = process.meeting(hosts)
    backend = "gloo" if inspection.device == "cpu" else "nccl"
    commands = {}
    for index, host in enumerate(hosts):
        argv = [sys.executable, "-u", "-m", "mux.handshake", str(index), str(len(hosts)), addresses[0], str(port),
                backend, str(HANDSHAKE_SECONDS)]
        variables = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": str(process.devices(host, inspection.device)[0])}
        started = process.agent_command(host, process.peer(addresses, index), argv)
        commands[host.name] = (reach(inspection.cluster, host, started, variables),
                                environment(inspection.cluster, host, variables))
    said = errands.together(commands, 2 * HANDSHAKE_SECONDS)
    summed = {name: errand.output.partition(f"{DONE} ")[2].split() for name, errand in said.items()}
    if all(summed.values()):
        return max(float(words[0]) for words in summed.values()), {}
    return 0.0, _blamed(said, f"{addresses[0]} port {port}")


def _blamed(said: dict[str, Errand], place: str) -> dict[str, str]:
    """Who is at fault, and how: the first host if it never was there to be met, else those that never met it, else
    all, who met and then could not talk."""
    first = next(iter(said))
    absent = [name for name, errand in said.items() if MET not in errand.output]
    blamed = [first] if first in absent else absent or list(said)
    what = "met the others, and then the all-reduce failed" if not absent else "did not come to the all-reduce"
    return {name: f"{what} ({place}): {last_line(said[name].output.splitlines()) or 'without a word'}"
            for name in blamed}
