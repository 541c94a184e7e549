"""Checkpoints: ZeRO shards that exist when their manifest does.

All ranks write and fsync their shards into `step_<n>.part/`, the sha256 of each is gathered, rank 0 writes
`manifest.json`, renames the folder to `step_<n>/` and moves `latest` atomically. Loading verifies the hashes before
anything is unpickled and falls back to the newest valid checkpoint, loudly. A hash is not authentication: shards are
read only from a folder that this user owns and others cannot write to.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mux.run import write_json, write_text
from mux.train.engine import Engine, Ranks

MANIFEST, LATEST, VERSION = "manifest.json", "latest", 1


@dataclass(frozen=True)
class Identity:
    """What must be the same for a checkpoint to go on bit by bit."""

    recipe_digest: str
    stage: str
    world_size: int
    zero_stage: int
    precision: str


@dataclass(frozen=True)
class Saved:
    path: Path
    bytes: int
    seconds: float


class InvalidCheckpoint(ValueError):
    """A checkpoint that must not be loaded; the message names the file and what is wrong with it."""


class Checkpoints:
    """The checkpoints of one training (a stage, or one task of it) in one folder."""

    def __init__(self, folder: Path, ranks: Ranks, identity: Identity, keep: int) -> None:
        self.folder, self.ranks, self.identity, self.keep = folder, ranks, identity, keep

    def save(self, engine: Engine, step: int, progress: dict[str, Any]) -> Saved:
        """Commit a checkpoint of optimizer step `step`; all ranks must call it.

        `progress` is what the training needs besides weights and optimizer, as JSON. The random state is not among it:
        every step seeds its generators from (seed, stage, step, rank).
        """
        started = time.monotonic()
        name = f"step_{step:08d}"
        part, final = self.folder / f"{name}.part", self.folder / name
        if self.ranks.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(part, ignore_errors=True)
        self.ranks.barrier()
        engine.save(self.folder, part.name)
        self.ranks.barrier()
        files = self._hash_share(part)
        if self.ranks.first:
            manifest = {"version": VERSION, "step": step, "time": time.time(), **vars(self.identity),
                        "rng": "seeded per step from (seed, stage, step, rank)", "progress": progress, "files": files}
            write_json(part / MANIFEST, manifest)
            fsync_folder(part)
            shutil.rmtree(final, ignore_errors=True)
            os.rename(part, final)
            fsync_folder(self.folder)
            write_text(self.folder / LATEST, f"{name}\n")
            fsync_folder(self.folder)
            self._retire(step)
        self.ranks.barrier()
        return Saved(final, sum(entry["bytes"] for entry in files.values()), time.monotonic() - started)

    def _hash_share(self, part: Path) -> dict[str, dict[str, Any]]:
        """fsync and hash every shard, the work divided over the ranks; all ranks get all entries."""
        # Rank 0's list: a shared disk may show its newest files to each host at another time.
        names = self.ranks.from_first(sorted(path.name for path in part.iterdir()))
        mine = {}
        for name in names[self.ranks.rank :: self.ranks.size]:
            with open(part / name, "rb+") as file:
                os.fsync(file.fileno())
                file.seek(0)
                mine[name] = {"bytes": os.fstat(file.fileno()).st_size,
                              "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        return {name: entry for share in self.ranks.gather(mine) for name, entry in sorted(share.items())}

    def _retire(self, newest: int) -> None:
        """Delete what is older than the last `keep`, and what never became a checkpoint."""
        steps = [step for step in self.steps() if step <= newest]
        for step in steps[: -self.keep]:
            shutil.rmtree(self.folder / f"step_{step:08d}")
        for part in self.folder.glob("step_*.part"):
            shutil.rmtree(part)

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        found = (path.name.removeprefix("step_") for path in self.folder.glob("step_*") if (path / MANIFEST).exists())
        return sorted(int(name) for name in found if name.isdigit())

    def load(self, engine: Engine, warn: Callable[[str], None]) -> dict[str, Any] | None:
        """Load the newest valid checkpoint and return its manifest; None if there is none at all.

        All ranks must call it and load the one that rank 0 chose. `warn` is told about each one passed over. Raises
        InvalidCheckpoint if there are checkpoints and none is valid: starting over must be asked for.
        """
        chosen: dict[str, Any] | str | None = None
        if self.ranks.first:
            try:
                chosen = self._newest_valid(warn)
            except InvalidCheckpoint as problem:
                chosen = str(problem)
        chosen = self.ranks.from_first(chosen)
        if isinstance(chosen, str):
            raise InvalidCheckpoint(chosen)
        if chosen is not None:
            engine.load(self.folder, f"step_{chosen['step']:08d}")
        return chosen

    def _newest_valid(self, warn: Callable[[str], None]) -> dict[str, Any] | None:
        problems = []
        for step in reversed(self.steps()):
            folder = self.folder / f"step_{step:08d}"
            try:
                return verify(folder, self.identity)
            except InvalidCheckpoint as problem:
                problems.append(str(problem))
                warn(f"passing over {folder}: {problem}")
        if problems:
            raise InvalidCheckpoint(f"no valid checkpoint in {self.folder}: {problems[0]}; --fresh starts over")
        return None


def verify(folder: Path, identity: Identity) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are all there, unchanged and private; else raises InvalidCheckpoint."""
    check_private(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files, step = manifest["files"], manifest["step"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise InvalidCheckpoint(f"{folder / MANIFEST} cannot be read: {problem}") from problem
    if manifest.get("version") != VERSION or folder.name != f"step_{step:08d}":
        raise InvalidCheckpoint(f"{folder / MANIFEST} is of another version or step")
    for key, wanted in vars(identity).items():
        if manifest.get(key) != wanted:
            raise InvalidCheckpoint(f"{folder} was saved with {key} = {manifest.get(key)!r}, this run has {wanted!r}")
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    if odd := present ^ set(files):
        raise InvalidCheckpoint(f"{folder / min(odd)} is {'missing' if min(odd) in files else 'not in the manifest'}")
    for name, entry in files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise InvalidCheckpoint(f"{path} is not a plain file")
        if path.stat().st_size != entry["bytes"]:
            raise InvalidCheckpoint(f"{path} has {path.stat().st_size} bytes, its manifest says {entry['bytes']}")
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                raise InvalidCheckpoint(f"{path} is not what was saved: its sha256 differs from the manifest's")
    return manifest


def check_private(folder: Path) -> None:
    """Raise InvalidCheckpoint if someone else could have put a file here: unpickling one runs its code."""
    for place in (folder, folder.parent):
        status = place.stat()
        if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise InvalidCheckpoint(f"{place} is owned by another user or writable by others; "
                                    f"take it over (chown) and chmod go-w it if you trust it")


def fsync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a crash of the machine."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
