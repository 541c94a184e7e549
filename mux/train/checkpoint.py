"""Checkpoints: ZeRO shards that exist when their manifest does, written while training goes on.

A save copies every rank's shards into memory and returns. A thread of each rank writes and flushes its own into
`step_<n>.part/` and leaves their sha256 there; rank 0's waits for all of these, writes `manifest.json`, renames the
folder to `step_<n>/` and moves `latest` atomically. The next save waits for the one before. Loading verifies the
hashes before anything is unpickled and falls back to the newest valid checkpoint, loudly.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mux import manifest as manifests
from mux.disk import FULL
from mux.manifest import LATEST, FileEntry, Identity, InvalidCheckpoint, Manifest, folder_name, obstacle
from mux.run import read_json, write_json, write_text
from mux.train.engine import Engine, Ranks
from mux.train.snapshot import Snapshot

RNG = "every micro-batch seeds its generators from (seed, stage, task, step, its first group)"
LOOK_SECONDS = 0.05  # how often rank 0 looks whether the others have written theirs


@dataclass(frozen=True)
class Saved:
    path: Path
    bytes: int
    seconds: float  # from the request to the commit
    stalled: float  # seconds of them in which training stood still


class SaveFailed(OSError):
    """A checkpoint could not be written; the ones before it are as they were."""


class Checkpoints:
    """The checkpoints of one training (a stage, or one task of it) in one folder.

    The last `keep` stay, and those of steps that are multiples of `every`.
    """

    def __init__(self, folder: Path, ranks: Ranks, identity: Identity, keep: int, every: int | None = None) -> None:
        self.folder, self.ranks, self.identity, self.keep, self.every = folder, ranks, identity, keep, every
        self._writing: Future[None] | None = None

    def save(self, engine: Engine, step: int, progress: dict[str, Any],
             committed: Callable[[Saved], None] = lambda saved: None) -> float:
        """Have a checkpoint of optimizer step `step` written; the seconds for which this kept training waiting.

        All ranks must call it. `progress` is what the training needs besides weights and optimizer, as JSON.
        `committed` is told by rank 0's thread. Raises SaveFailed on all ranks if there is no room for it, and on its
        own rank what went wrong with the save before.
        """
        started = time.monotonic()
        self.wait()
        snapshot = engine.snapshot()
        part = self._make_part(step, int(self.ranks.sum([snapshot.bytes])[0]))
        manifest = Manifest(**vars(self.identity), step=step, time=time.time(), rng=RNG, progress=progress, files={})
        stalled = time.monotonic() - started

        def write() -> None:
            self._write_share(snapshot, part)
            if self.ranks.first:
                whole = self._commit(part, manifest)
                final = self.folder / folder_name(step)
                committed(Saved(final, whole.bytes, time.monotonic() - started, stalled))
                self._retire(step)

        self._writing = _in_background(write)
        return time.monotonic() - started

    def check(self) -> None:
        """Raise what went wrong in the background on this rank, if it is known yet."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until this rank's files (rank 0: the checkpoint) are on disk. Raises SaveFailed if they are not."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        return manifests.steps(self.folder)

    def _remains(self) -> str | None:
        """What `latest` names, else the newest folder that has a checkpoint's name: committed or not."""
        named = manifests.pointed(self.folder)
        left = (path.name for path in self.folder.glob("step_*") if path.suffix != ".part")
        return max(left, default=None) if named is None else named

    # --- saving -------------------------------------------------------------------------------------------------
    def _make_part(self, step: int, bytes_needed: int) -> Path:
        """The empty folder that all ranks write to. Raises SaveFailed on all of them."""
        part = self.folder / f"{folder_name(step)}.part"
        problem = None
        if self.ranks.first:
            try:
                self._make_room(bytes_needed)
                part.mkdir(mode=0o700)
            except OSError as error:
                problem = _failure(part, error)
        if (problem := self.ranks.from_first(problem)) is not None:
            raise SaveFailed(problem)
        return part

    def _make_room(self, bytes_needed: int) -> None:
        """Remove what never became a checkpoint. Raises OSError if then the disk has too little room."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        committed = {folder_name(step) for step in self.steps()}
        for path in self.folder.glob("step_*"):
            if path.name not in committed:
                shutil.rmtree(path)
        for path in self.folder.glob(f".{manifests.LATEST}.*.part"):  # a start was killed while it moved `latest`
            path.unlink()
        free = shutil.disk_usage(self.folder).free
        if free < bytes_needed:
            raise OSError(f"it needs {bytes_needed:,} bytes")

    def _write_share(self, snapshot: Snapshot, part: Path) -> None:
        try:
            entries = snapshot.write(part)
            write_json(part / _share(self.ranks.rank), {name: entry.model_dump() for name, entry in entries.items()})
        except OSError as error:
            raise SaveFailed(_failure(part, error)) from error

    def _commit(self, part: Path, manifest: Manifest) -> Manifest:
        """Make it a checkpoint, once all ranks have written their files."""
        shares = {_share(rank) for rank in range(self.ranks.size)}
        while not shares <= set(os.listdir(part)):  # listing asks a shared disk anew, which looking for names may not
            time.sleep(LOOK_SECONDS)
        final = part.with_suffix("")
        try:
            files: dict[str, FileEntry] = {}
            for name in sorted(shares):
                files |= {file: FileEntry(**entry) for file, entry in read_json(part / name).items()}
                (part / name).unlink()
            whole = manifest.model_copy(update={"files": files, "time": time.time()})
            manifests.write(part, whole)
            fsync_folder(part)
            before = final.with_suffix(".before.part")
            if final.exists():  # an earlier one of this step, which was passed over
                os.rename(final, before)
            os.rename(part, final)
            fsync_folder(self.folder)
            shutil.rmtree(before, ignore_errors=True)
            write_text(self.folder / LATEST, f"{final.name}\n")
            fsync_folder(self.folder)
        except OSError as error:
            raise SaveFailed(_failure(final, error)) from error
        return whole

    def _retire(self, newest: int) -> None:
        """Delete what is older than the last `keep` and is not to stay. The newest always does."""
        past = [step for step in self.steps() if step <= newest]
        for step in past[: -self.keep]:
            if self.every is None or step % self.every:
                part = self.folder / f"{folder_name(step)}.part"
                os.rename(self.folder / folder_name(step), part)  # never half of one under its own name
                shutil.rmtree(part, ignore_errors=True)  # someone reads it, perhaps: the next save tries again

    # --- loading ------------------------------------------------------------------------------------------------
    def newest_valid(self, warn: Callable[[str], None]) -> Manifest | None:
        """The manifest of the newest checkpoint that may be loaded: one verdict for all ranks, who share the hashing.

        `latest` is set right if it names another one. Raises InvalidCheckpoint if there are checkpoints and none is
        valid: starting over must be asked for.
        """
        self.wait()
        steps, remains = self.ranks.from_first((self.steps(), self._remains()) if self.ranks.first else None)
        problems = []
        if remains and remains not in map(folder_name, steps):
            if not steps:
                raise InvalidCheckpoint(f"{self.folder / remains} was a checkpoint and has no {manifests.MANIFEST} any "
                                        "more, and there is no other; --fresh starts over")
            warn(f"{self.folder / remains} was the newest checkpoint, and is none any more")
        for step in reversed(steps):
            folder = self.folder / folder_name(step)
            outcome = self._verify(folder)
            if isinstance(outcome, Manifest):
                if self.ranks.first:
                    write_text(self.folder / LATEST, f"{folder.name}\n")
                return outcome
            problems.append(outcome)
            warn(f"passing over {folder}: {outcome}")
        if problems:
            raise InvalidCheckpoint(f"no valid checkpoint in {self.folder}: {problems[0]}; --fresh starts over")
        return None

    def _verify(self, folder: Path) -> Manifest | str:
        """The manifest, or what is wrong; the same on all ranks."""
        outcome: Manifest | str | None = None
        if self.ranks.first:
            try:
                outcome = manifests.examine(folder)
                if reason := obstacle(outcome.identity, self.identity):
                    outcome = f"{folder}: {reason}"
            except InvalidCheckpoint as problem:
                outcome = str(problem)
        outcome = self.ranks.from_first(outcome)
        if isinstance(outcome, str):
            return outcome
        problems = self.ranks.gather(self._verify_share(folder, outcome))
        return next(filter(None, problems), outcome)

    def _verify_share(self, folder: Path, manifest: Manifest) -> str | None:
        """What is wrong with this rank's share of the files: dealt out by size."""
        dealt = sorted(manifest.files.items(), key=lambda item: (item[1].bytes, item[0]))
        try:
            for name, entry in dealt[self.ranks.rank :: self.ranks.size]:
                manifests.check_content(folder / name, entry)
        except InvalidCheckpoint as problem:
            return str(problem)
        return None


def fsync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a crash of the machine."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _share(rank: int) -> str:
    """The file with the hashes of what a rank has written."""
    return f".rank_{rank:05d}.json"


def _failure(place: Path, error: OSError) -> str:
    """One line: what could not be written, why, how much room there is, and what to do."""
    full = error.errno in (None, *FULL)  # None: it was seen before anything was written
    way_out = "make room, or let fewer stay (keep_checkpoints)" if full else "mend that"
    free = shutil.disk_usage(next(folder for folder in place.parents if folder.exists())).free
    return (f"the checkpoint {error.filename or place} cannot be written: {error.strerror or error}; {free:,} bytes "
            f"are free. Those before it are whole: {way_out}, and start again")


def _in_background(work: Callable[[], None]) -> Future[None]:
    """Run `work` in a thread that keeps no process from ending."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="checkpoint", daemon=True).start()
    return future
