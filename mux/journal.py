"""Events in files, one JSON object a line.

Ranks append to `logs/<host>.<rank>.events.jsonl`; the launcher merges those into `events.jsonl`, of which it is
the only writer. The dashboard, `mux watch`, `results.json` and the tests read only that file. A reader ignores
keys it does not know and passes over events it does not know, so that old readers survive new writers.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

from mux.content import checked, sayable
from mux.event import Event

Kind = TypeVar("Kind", bound=Event)

VERSION = 1
BLOCK = 1 << 16  # bytes that are read at once from the end of a file


def encode(event: Event) -> str:
    """One line of JSON without its newline, and without secrets. NaN and infinity become null: JSON lacks them."""
    values = {key: sayable(value) for key, value in asdict(event).items()}
    head = {"v": VERSION, "time": round(values.pop("time"), 3), "event": type(event).__name__}
    return json.dumps(head | values, ensure_ascii=False, allow_nan=False)


def decode(line: str) -> Event | None:
    """The event of a line; None for one of a kind or version that this program does not know, odd, or torn."""
    try:
        values = json.loads(line)
        kind = Event.kinds.get(values.pop("event"))
        if kind is None or values.pop("v") != VERSION:
            return None
        return kind(**checked(kind, values))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


class EventWriter:
    """Appends events to one file, a whole line per write, so that a reader never sees two lines mixed."""

    def __init__(self, path: Path, host: str | None = None, rank: int | None = None) -> None:
        self.host, self.rank = host, rank
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        size = os.fstat(self._file).st_size
        # The last line of a killed writer, or of a full disk, stays a line of its own.
        self._torn = bool(size) and os.pread(self._file, 1, size - 1) != b"\n"

    def write(self, event: Event) -> None:
        """Raises OSError if the event is not in the file as a whole."""
        if event.host is None and self.host is not None:
            object.__setattr__(event, "host", self.host)
            object.__setattr__(event, "rank", self.rank)
        line = ("\n" * self._torn + encode(event) + "\n").encode()
        written = os.write(self._file, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        """Have a shared disk show what was written: NFS sends it whenever a descriptor is closed."""
        os.close(os.dup(self._file))

    def close(self) -> None:
        os.close(self._file)


class EventReader:
    """Reads what was appended to a file since the last call; a line without its newline waits for the next call."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path, offset

    def read(self) -> Iterator[Event]:
        """The new events, in order. A file that does not exist yet has none."""
        return filter(None, map(_event, self._lines()))

    def only(self, kind: type[Kind]) -> Iterator[Kind]:
        """The new events of one kind; hardly a line of another one is decoded."""
        name = kind.__name__.encode()
        return (event for line in self._lines() if name in line and isinstance(event := _event(line), kind))

    def _lines(self) -> Iterator[bytes]:
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self.offset += len(line)
                    yield line
        except FileNotFoundError:
            return


def backwards(path: Path) -> Iterator[Event]:
    """The events of a file, the last one first. A file that does not exist has none, and what follows the last newline
    is none."""
    try:
        with open(path, "rb") as file:
            yield from filter(None, map(_event, islice(_lines_backwards(file), 1, None)))
    except FileNotFoundError:
        return


def _event(line: bytes) -> Event | None:
    return decode(line.decode("utf-8", "replace"))


def _lines_backwards(file: BinaryIO) -> Iterator[bytes]:
    """What stands between the newlines of a file, the last first; at least an empty one."""
    begun, end = b"", file.seek(0, os.SEEK_END)  # a line whose beginning is not read yet
    while end:
        start = max(0, end - BLOCK)
        file.seek(start)
        begun, *lines = (file.read(end - start) + begun).split(b"\n")
        yield from reversed(lines)
        end = start
    yield begun
