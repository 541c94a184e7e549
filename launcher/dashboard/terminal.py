"""rich's console with two habits changed: whose size it asks for, and what it does on a closed pipe; one for tables."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TextIO

from rich.console import Console, ConsoleDimensions

PIPE_COLUMNS = 120  # of a file, a pipe or a CI log, which wrap nothing
TABLE_COLUMNS = 1_000  # the same of a table: a line a row, for grep and awk


def table_console(stream: TextIO) -> Console:
    """As wide as the terminal; in a pipe or a file as wide as the table, or as COLUMNS."""
    unlimited = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(file=stream, highlight=False, markup=False, emoji=False, width=TABLE_COLUMNS if unlimited else None)


class Terminal(Console):
    def __init__(self, stream: TextIO) -> None:
        super().__init__(file=stream, highlight=False)

    @property  # type: ignore[misc]  # rich gives it a setter, too
    def size(self) -> ConsoleDimensions:
        """That of the terminal that is written to, as it is now; COLUMNS, or much room, where it is none."""
        with suppress(OSError, ValueError):
            columns, lines = os.get_terminal_size(self.file.fileno())
            if columns > 0 and lines > 0:
                return ConsoleDimensions(columns, lines)
        return super().size if "COLUMNS" in os.environ else ConsoleDimensions(PIPE_COLUMNS, 25)

    def on_broken_pipe(self) -> None:
        """Raise on what is being handled, BrokenPipeError, rather than end the program."""
        raise
