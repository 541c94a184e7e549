"""Folders that are built once, under the hash of what they are built from, and shared by ranks and runs.

A folder appears whole or not at all: it is built beside its place under a temporary name, flushed to disk and
renamed. Of two builders at once both build and the first to finish wins. Other ranks wait for the rename.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# progress(what, done, total, unit); it may raise to abort the work, which then leaves nothing half-written.
Progressing = Callable[[str, int, int | None, str], None]

WAIT_SECONDS = 0.2
ABANDONED_SECONDS = 3600.0


def built_once(folder: Path, make: Callable[[Path], None], build: bool, progress: Progressing,
               what: str) -> Path:
    """`folder`, after `make(temporary folder)` has filled it here or, with build=False, in another process.

    A waiting rank calls progress(f"waiting for {what}", 0, None, "") every 0.2 s: a stop can raise there.
    """
    if build and not folder.exists():
        _build(folder, make)
    while not folder.exists():
        progress(f"waiting for {what}", 0, None, "")
        time.sleep(WAIT_SECONDS)
    return folder


def _build(folder: Path, make: Callable[[Path], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    # Readable by its owner alone. The random part keeps apart what process ids do not: containers reuse them.
    part = Path(tempfile.mkdtemp(".part", f"{_prefix(folder)}{os.getpid()}.", folder.parent))
    try:
        make(part)
        for path in [*part.rglob("*"), part]:
            _flush(path)
        try:
            part.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)  # gone already if it was renamed
    _flush(folder.parent)


def _remove_abandoned(folder: Path) -> None:
    """Parts of builders on this host that were killed and could not clean up.

    A process id says little where containers share a host name, so a part must also have been left alone for
    an hour.
    """
    for part in folder.parent.glob(f"{_prefix(folder)}*.part"):
        pid = part.name.removeprefix(_prefix(folder)).split(".")[0]
        with suppress(FileNotFoundError):  # another builder renames or removes it at this moment
            touched = max(path.stat().st_mtime for path in [part, *part.rglob("*")])
            if time.time() - touched > ABANDONED_SECONDS and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(part, ignore_errors=True)


def _prefix(folder: Path) -> str:
    return f".{folder.name}.{socket.gethostname()}."


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
