"""Soak: one run that something is killed in, again and again, against one that nothing happens to.

    python -m tests.faults.soak --minutes 30

Every 20 to 40 s a process of the run, drawn at random, is killed, stopped or asked to stop, the launcher among them
(which is then started again). In the end all losses must equal those of the undisturbed run, bit by bit.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from tests.conftest import Run
from tests.faults.ledger import steps_lost

RECIPE = "tests/recipes/soak.toml"
PAUSE_SECONDS = (20.0, 40.0)
PROBED_STEPS = 300
SHARE = 0.35  # of the time that goes into steps which stay: the rest are starts, and steps that are lost
FAULTS = (  # (whom, signal)
    ("rank", signal.SIGKILL), ("rank", signal.SIGSTOP), ("rank", signal.SIGTERM), ("agent", signal.SIGKILL),
    ("agent", signal.SIGSTOP), ("launcher", signal.SIGKILL), ("launcher", signal.SIGTERM), ("all", signal.SIGKILL),
)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=30.0, help="how long faults come in (default: %(default)s)")
    options.add_argument("--seed", type=int, default=None, help="of the faults' order (default: another each time)")
    options.add_argument("--folder", type=Path, default=None, help="where the runs live (default: a temporary one)")
    asked = options.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    seed = random.SystemRandom().randrange(10**6) if asked.seed is None else asked.seed
    steps = round(steps_per_second(Run(folder / "probe", folder / "cache")) * asked.minutes * 60 * SHARE)
    size = f"--set=stages.pretrain.steps={steps}"
    print(f"{folder}: seed {seed}, {steps:,} steps; the undisturbed run first", flush=True)
    undisturbed = finished(Run(folder / "undisturbed", folder / "cache"), size)
    disturbed = Run(folder / "disturbed", folder / "cache")
    faults = disturb(disturbed, size, asked.minutes * 60, random.Random(seed))
    return judged(undisturbed, disturbed, faults)


def steps_per_second(run: Run) -> float:
    done = finished(run, f"--set=stages.pretrain.steps={PROBED_STEPS}").events("StepDone")
    return (done[-1]["step"] - done[0]["step"]) / (done[-1]["time"] - done[0]["time"])


def finished(run: Run, *options: str) -> Run:
    process = run.start(*options, recipe=RECIPE)
    if process.wait() != 0:
        raise SystemExit(f"the undisturbed run failed:\n{run.output()}")
    return run


def disturb(run: Run, size: str, seconds: float, draw: random.Random) -> Counter[str]:
    """Inject faults for so many seconds, start the launcher whenever it is gone, let the run finish."""
    faults: Counter[str] = Counter()
    began = time.monotonic()
    due = began + draw.uniform(*PAUSE_SECONDS)
    process = run.start(size, recipe=RECIPE)
    while process.poll() != 0:
        if process.poll() is not None:
            process = run.start(size, recipe=RECIPE)
        if time.monotonic() > due:
            due = time.monotonic() + draw.uniform(*PAUSE_SECONDS)
            if time.monotonic() - began < seconds:
                name = inject(run, process, draw)
                faults[name] += 1
                reached = max((event["step"] for event in run.events("StepDone")), default=0)
                print(f"{time.monotonic() - began:6.0f} s  {name:18} at step {reached:,}", flush=True)
        time.sleep(0.2)
    return faults


def inject(run: Run, process: subprocess.Popen[str], draw: random.Random) -> str:
    """One fault; what it was. Processes that are not up yet cannot be hit: then it is the launcher."""
    whom, number = draw.choice(FAULTS)
    parts = run.parts()
    victims = {"all": run.processes(), "launcher": [psutil.Process(process.pid)]}.get(whom) or parts.get(whom)
    if not victims:
        whom, victims = "launcher", [psutil.Process(process.pid)]
    for victim in victims if whom == "all" else [draw.choice(victims)]:
        try:
            victim.send_signal(number)
        except psutil.NoSuchProcess:
            continue
    return f"{number.name} {whom}"


def judged(undisturbed: Run, disturbed: Run, faults: Counter[str]) -> int:
    expected, seen = undisturbed.losses("pretrain"), disturbed.losses("pretrain")
    last = max(expected)
    events = disturbed.events()
    differing = [step for step in expected if seen.get(step) != expected[step]]
    print(f"\n{'fault':20} times")
    for name, count in sorted(faults.items()):
        print(f"{name:20} {count:5}")
    starts = sum(event["event"] == "JobStarted" for event in events)
    print(f"{sum(faults.values())} faults, {starts} starts, {steps_lost(events):,} of {last:,} steps done twice")
    print(f"final loss {seen.get(last, ('none',))[0]}, undisturbed {expected[last][0]}; "
          f"{len(differing)} of {len(expected):,} logged steps differ")
    return 1 if differing or set(seen) != set(expected) else 0


if __name__ == "__main__":
    sys.exit(main())
