"""What the system's speed is, against its goals and its peers.

    python -m benchmarks                  # all of them that this machine can run
    python -m benchmarks inference --short
    python -m benchmarks --page docs/performance.md

Each benchmark runs in a process of its own and appends its numbers to a file; what is there already, of this commit and
form, is not measured again unless asked to (--again).
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

# What a page's own texts are put between; the rest of it is written by people.
BEGIN, END = "<!-- measured -->", "<!-- end of what is measured -->"
ON = {  # benchmark -> the devices it is for
    "inference": ("cpu", "cuda"), "limits": ("cpu",), "training": ("cpu", "cuda"), "ragged": ("cpu",),
    "data_path": ("cpu",), "checkpoint_stall": ("cpu",), "first_step": ("cpu",), "peers": ("cpu",),
    "stacking": ("cpu",), "precision": ("cpu",),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ON)} (default: all)")
    parser.add_argument("--short", action="store_true", help="SMALL models and fewer rounds")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results.jsonl"), help="default: %(default)s")
    parser.add_argument("--again", action="store_true", help="also what this commit has measured")
    parser.add_argument("--page", type=Path, help="write the tables of all results into this page")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if unknown := [name for name in asked.names if name not in ON]:
        parser.error(f"{unknown[0]}: there are {', '.join(ON)}")
    names = asked.names or [name for name, devices in ON.items() if asked.device in devices]
    if asked.here:
        for name in names:
            run(name, asked)
        return 0
    failed = []
    for name in [] if asked.page and not asked.names else names:
        if asked.again or not done(name, asked):
            failed += [name] if in_own_process(name, asked) else []
    if asked.page:
        write(asked.page, asked.results)
    for name in failed:
        print(f"{name} failed", file=sys.stderr)
    return 1 if failed else 0


def in_own_process(name: str, asked: argparse.Namespace) -> int:
    from launcher.process import MALLOC

    print(f"--- {name}", flush=True)
    own = [sys.executable, "-m", "benchmarks", name, "--here", "--device", asked.device, "--results",
           str(asked.results), *(["--short"] if asked.short else [])]
    return subprocess.run(own, env=MALLOC | {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))} | os.environ
                          ).returncode


def run(name: str, asked: argparse.Namespace) -> None:
    from benchmarks import records

    console, begun = Console(), time.monotonic()
    found = []
    for record in importlib.import_module(f"benchmarks.{name}").measure(asked.device, asked.short):
        found.append(replace(record, short=asked.short))
        records.append(asked.results, found[-1])
    console.print(records.table(found))
    for conditions in dict.fromkeys(one.conditions for one in found):
        console.print(conditions)
    console.print(f"{records.machine()}, commit {records.commit()}, {time.monotonic() - begun:.0f} s\n")


def done(name: str, asked: argparse.Namespace) -> bool:
    """Whether there are numbers of this commit, machine and form already."""
    from benchmarks import records

    form = (name, records.commit(), records.machine(), asked.short)
    return form in {(one.benchmark, one.commit, one.machine, one.short) for one in records.read(asked.results)}


def write(page: Path, results: Path) -> None:
    """Replace what is measured in a page, and the picture beside it; the rest stays."""
    from benchmarks import records, stacking

    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no lines {BEGIN} and {END} between which tables can be put")
    found = records.read(results)
    page.write_text(f"{before}{BEGIN}\n\n{records.markdown(found)}\n{END}{after}", encoding="utf-8")
    stacking.picture(found, page.with_name("stacking.svg"))


if __name__ == "__main__":
    sys.exit(main())
