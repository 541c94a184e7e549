"""One run of the tiny recipe among secrets, under a umask that hides nothing; and the command, for what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import COMMAND, ROOT, TINY, Run

MUX = str(Path(sys.executable).parent / "mux")
RECIPE = (ROOT / TINY).read_text()
HANG_SECONDS = 60  # a guard: nothing here takes more than a second on an idle machine

SECRETS = {
    "HF_TOKEN": "hf_notARealTokenButShapedLikeOne0123",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "MY_PASSWORD": "correct horse\tbattery",
    "SMTP_PASSWD": "pass\"word\\with'quotes",
    "SOME_API_KEY": "0123456789abcdef",
}
REMOTE_TOKEN = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
GIT_REMOTE = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "remote.origin.url",
              "GIT_CONFIG_VALUE_0": f"https://x-access-token:{REMOTE_TOKEN}@github.com/owner/project"}


class Guarded(Run):
    """A finished run and what the process list showed meanwhile."""

    command_lines: set[str]


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    place = tmp_path_factory.mktemp("guarded")
    made = Guarded(place / "runs" / "tiny", place / "cache")
    made.environment |= SECRETS | GIT_REMOTE | {"PYTHONPATH": str(Path(__file__).parent / "talkative")}
    command = made.command("--set", "stages.pretrain.save_every=2")
    made.command_lines = set()
    with open(place / "tiny.out", "w") as output:
        launcher = psutil.Popen(command, cwd=ROOT, env=made.environment, stdout=output, stderr=subprocess.STDOUT,
                                umask=0)
    while launcher.poll() is None:
        made.command_lines |= set(command_lines(launcher))
        psutil.wait_procs([launcher], timeout=0.2)
    made.printed = (place / "tiny.out").read_text()
    assert launcher.returncode == 0, made.printed
    return made


def command_lines(process: psutil.Process) -> list[str]:
    """Of a process and all that descend from it."""
    lines = []
    for one in [process, *process.children(recursive=True)]:
        try:
            lines.append(" ".join(one.cmdline()))
        except psutil.Error:  # it has ended
            continue
    return lines


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """`refused(words, files, variables)`: what `mux-launch` says in a folder of these files. It must refuse in one
    block of printable text, without a traceback, and leave the folder as it was."""
    def launch(words: list[str], files: dict[str, str | bytes] | None = None, **variables: str) -> str:
        for name, content in (files or {}).items():
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        before = content_of(tmp_path)
        done = subprocess.run([*COMMAND, *words], cwd=tmp_path, env=os.environ | variables, capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=HANG_SECONDS)
        said = done.stderr.decode()
        assert (done.returncode, done.stdout) == (2, b""), said
        assert said.startswith("refused, nothing was started:\n") and "Traceback" not in said
        assert all(letter.isprintable() or letter == "\n" for letter in said), ascii(said)
        assert content_of(tmp_path) == before
        return said.partition("\n")[2].rstrip("\n")
    return launch


def content_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder, with size and time of change."""
    found = ((path, path.lstat()) for path in folder.rglob("*"))
    return {str(path): (status.st_size, status.st_mtime_ns) for path, status in found}
