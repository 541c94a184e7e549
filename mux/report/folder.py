"""The folder of a report. It lists its own files, so that the next report replaces those and touches nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

LIST = "files.txt"
HEAD = "# The files of a report; the next one replaces or deletes them."
NAME = re.compile(r"(figures|tables)/[a-z0-9_]+\.[a-z]+|index\.html|report\.md")  # what a list is believed


def replace(out: Path, files: Mapping[str, bytes]) -> None:
    """Write these files ("figures/a.svg") into `out` and delete what an earlier report wrote there and this does not.

    Raises ValueError, with everything as it was, where something else is in the way, and OSError where the system
    refuses.
    """
    old = _listed(out)
    for name in sorted({LIST, *old, *files}):
        _check(out, name, old)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{out}: cannot become a folder, a file is in the way: give another --out") from None
    write(out / LIST, _list((old | set(files)) - {LIST}))  # should it end halfway, the next report knows of everything
    for name, content in files.items():
        (out / name).parent.mkdir(exist_ok=True)
        write(out / name, content)
    for name in old - {LIST, *files}:
        (out / name).unlink(missing_ok=True)
    write(out / LIST, _list(files))


def _list(names: Collection[str]) -> bytes:
    return "".join(f"{line}\n" for line in (HEAD, *sorted(names))).encode()


def _listed(out: Path) -> set[str]:
    """The files of an earlier report, the list among them; none if the list is not a report's."""
    path = out / LIST
    lines = path.read_bytes().decode(errors="replace").splitlines() if path.is_file() else []
    return {LIST, *filter(NAME.fullmatch, lines)} if lines[:1] == [HEAD] else set()


def _check(out: Path, name: str, old: Collection[str]) -> None:
    path, folder = out / name, (out / name).parent
    if folder != out and (folder.is_symlink() or (folder.exists() and not folder.is_dir())):
        raise ValueError(f"{folder}: a report makes a folder of this name: move this away, or give another --out")
    if os.path.lexists(path) and (name not in old or path.is_dir()):
        raise ValueError(f"{path}: no report wrote this: move it away, or give another --out")


def write(path: Path, content: bytes) -> None:
    """Whole or not at all; a link is replaced, not followed."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    part.write_bytes(content)
    os.replace(part, path)
