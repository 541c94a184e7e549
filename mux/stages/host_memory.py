"""How much of a host's memory is free for this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class GroupFiles:
    """Where a version of cgroups says what a group may take and has taken."""

    folder: str
    limit: str
    used: str
    kept: str  # of memory.stat: what files have that nobody has looked at for a while


LIMITS = {"v1": GroupFiles("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
          "v2": GroupFiles("", "memory.max", "memory.current", "inactive_file")}


def free_memory() -> int:
    """Bytes of this host's memory that are free, or of the share of it that a container or a scheduler's job has."""
    groups = Path("/proc/self/cgroup")
    lines = groups.read_text().splitlines() if groups.exists() else []
    return min(psutil.virtual_memory().available, *free_of_groups(lines, Path("/sys/fs/cgroup")))


def free_of_groups(lines: list[str], root: Path) -> Iterator[int]:
    """Of each memory cgroup of this process, as the `lines` of /proc/self/cgroup name them, and of those that it is in:
    what it may still take. What the kernel keeps of files is free: it is given back when asked for."""
    for line in lines:
        _, kinds, path = line.split(":", 2)
        files = LIMITS.get("v1" if "memory" in kinds.split(",") else "v2" if not kinds else "")
        if files is None:
            continue
        folder = root / files.folder
        own = folder / path.lstrip("/")
        for group in (own, *own.parents):
            if not group.is_relative_to(folder):
                break
            with suppress(OSError, ValueError):  # not to be seen in this container; "max": no limit of its own
                limit, used = (int((group / name).read_text()) for name in (files.limit, files.used))
                kept = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
                yield max(0, limit - used + int(kept[files.kept]))
