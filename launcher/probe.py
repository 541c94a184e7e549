"""What a host says of itself when the launcher asks: `python -m launcher.probe QUESTION`, over ssh, srun or here.

Light: nothing of torch is imported. The answer is one line behind MARK, whatever login scripts print around it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import socket
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from launcher import gpu
from launcher.agent import taken
from launcher.software import commit
from mux.run import write_text

MARK = "mux-probe "
PACKAGES = ("torch", "deepspeed", "transformers", "mux-plm")
PROJECT = Path(__file__).parent.parent


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Question(Part):
    folder: str  # in the run directory: its file "asked" holds the token, a host leaves its answer beside that
    name: str  # of that answer
    token: str
    ports: tuple[int, ...]  # candidates for the ranks to meet at


class Installed(Part):
    """What must be equal on all hosts."""

    python: str
    packages: dict[str, str | None]
    commit: str | None
    code: str  # sha256 of the project's source files


class Answer(Part):
    hostname: str
    installed: Installed
    gpus: int
    free: int | None  # bytes, where the run directory is
    wrong: str | None  # why the run directory could not be read and written
    token: str | None  # as it was read there
    ports: tuple[int, ...]  # those that nobody has
    clock: float


def main() -> None:
    print(MARK + answer(Question.model_validate_json(sys.argv[1])).model_dump_json(), flush=True)


def answer(question: Question) -> Answer:
    folder = Path(question.folder)
    wrong, token, free = None, None, None
    try:
        free = shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free
        token = (folder / "asked").read_text()
        write_text(folder / question.name, token)
    except FileNotFoundError:
        wrong = None  # another disk: the token says so
    except OSError as error:
        wrong = error.strerror or type(error).__name__
    return Answer(hostname=socket.gethostname(), installed=installed(), gpus=len(gpu.visible()), free=free, wrong=wrong,
                  token=token, ports=tuple(port for port in question.ports if not taken(port)), clock=time.time())


def installed() -> Installed:
    return Installed(python=platform.python_version(), packages={name: _version(name) for name in PACKAGES},
                     commit=commit(), code=code())


def code() -> str:
    """A hash of the project's source files: equal commits need not mean equal files."""
    found = sorted(path for folder in ("launcher", "mux") for path in (PROJECT / folder).rglob("*.py"))
    digests = {str(path.relative_to(PROJECT)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    os.umask(0o077)
    main()
