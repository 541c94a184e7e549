"""Where the time of a step goes: torch's profiler over a few steps, as a trace and as a table of parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from mux.model.parts import PREFIX

PASSED_OVER, RECORDED = 3, 5  # optimizer steps
TRACE = "trace.json.gz"
COLLECTIVES = ("nccl:", "gloo:")  # how torch.distributed names what crosses ranks

Table = dict[str, float]  # part -> seconds of a step


class Profile:
    """Of one rank's steps PASSED_OVER .. PASSED_OVER + RECORDED - 1 since its start, if there are so many.

    `done` is told the table and where the trace is, or why there is none. Parts inside others count once: for the
    innermost.
    """

    def __init__(self, folder: Path, device: torch.device, done: Callable[[Table, str], None]) -> None:
        self._folder, self._on_gpu, self._done, self._steps = folder, device.type == "cuda", done, 0
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_gpu else [])]
        self._profiler = profile(activities=activities, on_trace_ready=self._recorded,
                                 schedule=schedule(wait=PASSED_OVER - 1, warmup=1, active=RECORDED, repeat=1))
        self._profiler.start()

    def step(self) -> None:
        """An optimizer step is over."""
        self._steps += 1
        self._profiler.step()

    def close(self) -> None:
        self._profiler.stop()

    def _recorded(self, profiler: Any) -> None:
        if self._steps < PASSED_OVER + RECORDED:  # the training ends before
            return
        trace = self._folder / TRACE
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(trace))
            said = f"{trace} opens in ui.perfetto.dev"
        except OSError as error:  # a full disk, say: no reason to end what is recorded
            said = f"the trace could not be written: {error}"
        self._done(self._table(profiler.events()), said)

    def _table(self, events: Any) -> Table:
        seconds: Table = {}
        for event in events:
            name = event.name
            if name.startswith(PREFIX):
                part = name.removeprefix(PREFIX)
            elif name.startswith(COLLECTIVES):
                part = "communication"
            else:
                continue
            seconds[part] = seconds.get(part, 0.0) + self._time(event)
            if (outer := self._outer(event)) is not None:
                seconds[outer] = seconds.get(outer, 0.0) - self._time(event)
        return {part: round(total / RECORDED / 1e6, 6) for part, total in seconds.items()}

    def _time(self, event: Any) -> float:
        """Microseconds: of the device's work that was asked for inside, or on a CPU of the thread."""
        return float(event.device_time_total if self._on_gpu else event.cpu_time_total)

    def _outer(self, event: Any) -> str | None:
        """The part that this one is inside of."""
        around = event.cpu_parent
        while around is not None and not around.name.startswith(PREFIX):
            around = around.cpu_parent
        return None if around is None else around.name.removeprefix(PREFIX)
