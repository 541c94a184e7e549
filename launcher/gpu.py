"""The GPUs of this machine, found without torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc/driver/nvidia/gpus")
TIMEOUT_SECONDS = 5.0  # a wedged driver must not hang a dry run


@dataclass(frozen=True)
class Gpu:
    """`capability` is CUDA's compute capability, such as (8, 0) for an A100; None where it is not known."""

    name: str
    uuid: str = ""
    capability: tuple[int, int] | None = None


def visible() -> list[Gpu]:
    """The GPUs that a process started from here would see, `CUDA_VISIBLE_DEVICES` honoured."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None and chosen.strip() in ("", "-1"):
        return []  # without asking the driver
    there = installed()
    return there if chosen is None else select(there, chosen)


def select(gpus: list[Gpu], chosen: str) -> list[Gpu]:
    """What `CUDA_VISIBLE_DEVICES` leaves of `gpus`; as in CUDA, the list ends at its first invalid entry."""
    picked: list[Gpu] = []
    for entry in chosen.split(","):
        gpu = _named(gpus, entry.strip())
        if gpu is None:
            break
        picked.append(gpu)
    return picked


def _named(gpus: list[Gpu], entry: str) -> Gpu | None:
    if re.fullmatch(r"[0-9]{1,4}", entry):
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    if entry.startswith(("GPU-", "MIG-")):  # a UUID, which may be shortened; a MIG slice is listed by its own
        return next((gpu for gpu in gpus if gpu.uuid.startswith(entry)), None) or (
            Gpu("MIG slice", entry) if entry.startswith("MIG-") and gpus else None)
    return None


def installed() -> list[Gpu]:
    """All GPUs of this machine or container, by `nvidia-smi -L`, else by the driver's folder in /proc."""
    if shutil.which("nvidia-smi"):
        found = re.findall(r"^GPU \d+: (.*?)(?: \(UUID: ([^)]+)\))?\s*$", _ask("-L"), re.MULTILINE)
        known = capabilities() if found else []
        known = known if len(known) == len(found) else [None] * len(found)
        return [Gpu(name, uuid, capability) for (name, uuid), capability in zip(found, known, strict=True)]
    if PROC.is_dir():
        return [Gpu(f"NVIDIA GPU at {folder.name}") for folder in sorted(PROC.iterdir())]
    return []


def capabilities() -> list[tuple[int, int] | None]:
    """Compute capabilities in the order of `nvidia-smi -L`; empty where nvidia-smi is too old to tell."""
    rows = _ask("--query-gpu=compute_cap", "--format=csv,noheader").split()
    found = [re.fullmatch(r"(\d+)\.(\d+)", row) for row in rows]
    return [(int(match[1]), int(match[2])) if match else None for match in found]


def _ask(*options: str) -> str:
    """What nvidia-smi prints; nothing if it fails (a machine with the tool but without a working driver)."""
    try:
        done = subprocess.run(["nvidia-smi", *options], capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout if done.returncode == 0 else ""
