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
from pathlib import Path

from mux.content import checked, sayable
from mux.event import Event

VERSION = 1


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
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self.offset += len(line)
                    event = decode(line.decode("utf-8", "replace"))
                    if event is not None:
                        yield event
        except FileNotFoundError:
            return
