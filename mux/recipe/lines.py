"""Lines of text files, with their numbers. Packed files (.gz, .xz) are unpacked as they are read.

Only "\\n" ends a line: other characters that Unicode calls line ends (U+2028, U+0085) are part of a text.
"""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from mux.recipe.refusal import Problem, Refusal
from mux.recipe.wording import printable, reason

Lines = Iterator[tuple[int, str]]  # (number from 1, line with its end)

LONGEST = 10**9  # bytes of a line: whole corpora have come as one
PACKED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}


def suffix_of(name: Path | str) -> str:
    """What a file's name says of its content: ".txt" of a.txt and of a.txt.xz."""
    path = Path(name)
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def lines_of(path: Path) -> Lines:
    """The lines of a UTF-8 file. Raises Refusal naming the file, and the line where there is one."""
    try:
        with PACKED.get(path.suffix, open)(path, "rb") as file:
            yield from numbered_lines(iter(partial(file.readline, LONGEST + 1), b""), str(path))
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise Refusal(Problem(f"is damaged: {reason(error)}", where=printable(str(path)))) from None
    except OSError as error:
        raise Refusal(Problem(f"cannot be read: {error.strerror}", where=printable(str(path)))) from None


def numbered_lines(file: Iterable[bytes], name: str) -> Lines:
    """The lines of a UTF-8 file; without its byte order mark."""
    reading = iter(file)
    for number in count(1):
        try:
            line = next(reading, None)
            text = None if line is None else _text(line, name, number)
        except MemoryError:  # a small packed file may hold one endless line
            raise refusal(name, number, "is too long for the memory that is left") from None
        if text is None:
            return
        yield number, text


def _text(line: bytes, name: str, number: int) -> str:
    if len(line) > LONGEST:
        raise refusal(name, number, f"is longer than {LONGEST:,} bytes")
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise refusal(name, number, f"is not UTF-8: byte {line[error.start]:#04x}") from None


def refusal(name: str, line: int, message: str, hint: str | None = None) -> Refusal:
    """Of a line in the file `name`."""
    return Refusal(Problem(message, where=f"{printable(name)}:{line}", hint=hint))
