"""Errands: short commands on many hosts at once, and what each has printed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

from launcher import agent, process

LOOK_SECONDS = 0.02
NOT_STARTED = 127  # as a shell says it


@dataclass(frozen=True)
class Errand:
    """One command that has ended, or was ended."""

    output: str  # stdout and stderr
    code: int | None  # None: it was still running when the time was up
    started: float  # time.time()
    ended: float


def together(commands: Mapping[str, tuple[list[str], dict[str, str]]], seconds: float) -> dict[str, Errand]:
    """Run commands, each with its environment, by name. None of them is left when this returns or raises."""
    with ExitStack() as cleanup:
        started, ends = {}, {}
        for name, (argv, environment) in commands.items():
            output = cleanup.enter_context(tempfile.TemporaryFile())
            try:
                started[name] = (process.start(argv, output, environment), output, time.time())
                cleanup.callback(process.kill_tree, started[name][0])
            except OSError as error:  # there is no ssh here
                ends[name] = Errand(f"{argv[0]}: {error.strerror}", NOT_STARTED, time.time(), time.time())
        deadline, next_beat = time.monotonic() + seconds, time.monotonic()
        while len(ends) < len(commands) and time.monotonic() < deadline:
            beat = time.monotonic() >= next_beat
            next_beat += process.BEAT_SECONDS if beat else 0
            for name, (child, output, since) in started.items():
                if name not in ends and (code := child.poll()) is not None:
                    ends[name] = Errand(_text(output), code, since, time.time())
                if beat:
                    process.tell(child, agent.KEEP)
            time.sleep(LOOK_SECONDS)
        return {name: ends.get(name) or Errand(_text(started[name][1]), None, started[name][2], time.time())
                for name in commands}


def _text(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode(errors="replace")
