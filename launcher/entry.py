"""Where `mux-launch` begins. A request to stop is one from the first moment on, before anything slow is imported: the
command ends at once, with the status of a run that can go on. Once a run is under way, `Stopping` listens instead.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

STOPPED = 75
REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def launch() -> None:
    for number in REQUESTS:
        signal.signal(number, _leave)
    from launcher import cli

    cli.launch()


def _leave(number: int, frame: object) -> None:
    name = signal.Signals(number).name
    with suppress(OSError):  # a terminal that is gone has hung up
        os.write(2, f"ended on request ({name}); the same command goes on from there\n".encode())
    raise SystemExit(STOPPED)
