"""With which software a run is made: versions of what it depends on, and the commit of the project."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mux.run import RunDirectory, read_json

PACKAGES = ("mux-plm", "torch", "deepspeed", "transformers", "datasets", "tokenizers", "sentencepiece", "safetensors",
            "numpy", "scikit-learn", "scipy", "seqeval", "pyarrow", "pydantic", "rich", "typer")


def environment(overrides: Sequence[str]) -> dict[str, Any]:
    """Versions of what the run depends on. Nothing of the process environment: it may hold secrets."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": socket.gethostname(), "platform": platform.platform(),
            "processors": processors(), "python": platform.python_version(), "packages": versions, "commit": commit(),
            "set": list(overrides)}


def processors() -> str:
    """Those that this process may use, for people: `2 x AMD EPYC`."""
    model = platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{len(os.sched_getaffinity(0))} x {model}"


def commit() -> str | None:
    """The commit of the project's checkout, with "+" if files differ from it; None if it is not a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")


def changes(run: RunDirectory) -> list[str]:
    """In words, with which other versions of this project and its packages a run goes on."""
    try:
        before = read_json(run.environment) or {}
        known = {"commit": before.get("commit"), "python": before.get("python"), **before.get("packages", {})}
    except (ValueError, AttributeError, TypeError):
        return []
    now = environment(())
    found = {"commit": now["commit"], "python": now["python"], **now["packages"]}
    return [f"goes on with another {name}: {found[name]} (was {known[name]})" for name in found
            if known.get(name) not in (None, found[name])]
