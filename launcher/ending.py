"""How commands end: with an exit status that says what happened, and without a traceback for what users did."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from mux.disk import FULL
from mux.recipe import Refusal
from mux.recipe.wording import printable

FAILED, REFUSED, INTERRUPTED = 1, 2, 130


@contextmanager
def ending(code: int) -> Iterator[None]:
    """Print what is wrong as one block, and exit with `code`, or 1 for what the system refuses."""
    try:
        yield
    except (Refusal, ValueError) as error:
        print(told(error), file=sys.stderr)
        raise typer.Exit(code) from None
    except OSError as error:
        print(told(error), file=sys.stderr)
        raise typer.Exit(FAILED) from None


def told(error: Exception) -> str:
    """What an error says, whatever it quotes: lines without anything that a terminal would obey."""
    return "\n".join(map(printable, str(error).split("\n")))


def remedy(error: OSError) -> str:
    """What the system has refused, of which file, and what to do about it: the beginning of a sentence."""
    place = f"{error.filename}: " if error.filename else ""
    what = "free some room" if error.errno in FULL else "mend that"
    return f"{place}{error.strerror or error}; {what}"
