"""Hostile hostfiles through the real command: refused by line before any host is asked, and nothing is run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.security.conftest import RECIPE

FILES: dict[str, tuple[str | bytes, str]] = {
    "an option": ("-oProxyCommand=touch${IFS}p slots=1", "h:1: host '-oProxyCommand=touch${IFS}p' begins with -"),
    "a variable": ("a$IFS slots=1", "h:1: host 'a$IFS' contains '$'"),
    "two commands": ("a;touch p slots=1", "h:1: host 'a;touch' contains ';'"),
    "a command inside": ("`touch p` slots=1", "h:1: host '`touch' contains '`'"),
    "a quote": ("'a' slots=1", "h:1: host \"'a'\" contains \"'\""),
    "a comma": ("a,b slots=1", "h:1: host 'a,b' contains ','"),
    "pdsh's file": ("^file slots=1", "h:1: host '^file' contains '^'"),
    "a path": ("../a slots=1", "h:1: host '../a' contains '/'"),
    "a pattern of ssh": ("%h slots=1", "h:1: host '%h' contains '%'"),
    "a user": ("root@a slots=1", "h:1: host 'root@a' contains '@'"),
    "no width": ("a\u200b slots=1", "h:1: host 'a\\u200b' contains '\\u200b'"),
    "another direction": ("a\u202e slots=1", "h:1: host 'a\\u202e' contains '\\u202e'"),
    "an escape": ("\x1b[31ma slots=1", "h:1: host '\\x1b[31ma' contains '\\x1b'"),
    "NUL": ("a\0 slots=1", "h:1: host 'a\\x00' contains '\\x00'"),
    "no slots": ("a slots=0", "h:1: host a has slots=0"),
    "more slots than any": ("a slots=99999999999999999999", "h:1: host a has slots=999999999999..., more than 1024"),
    "negative slots": ("a slots=-1", "h:1: expected `HOST slots=N`, found 'a slots=-1'"),
    "slots in other digits": ("a slots=\u0661", "h:1: expected `HOST slots=N`, found 'a slots=\\u0661'"),
    "junk behind": ("a slots=1 $(touch p)", "h:1: expected `HOST slots=N`, found 'a slots=1 $(touch p)'"),
    "a host twice": ("a slots=1\nA slots=2", "h:2: host A is already on line 1"),
    "a host twice, by its whole name": ("gpu.x slots=1\nGPU.X. slots=2", "h:2: host GPU.X. is already on line 1"),
    "this machine twice": ("127.0.0.1 slots=1\nlocalhost slots=1", "h:2: host localhost is this machine, which is"),
    "lines of Windows": ("a slots=1\r\na slots=0\r\n", "h:2: host a has slots=0"),
    "a byte order mark": ("\ufeffa slots=1", "h:1: begins with a byte order mark"),
    "nothing": ("", "h: the hostfile names no host"),
    "comments": ("# a slots=1\n\n", "h: the hostfile names no host"),
    "other bytes": (b"a slots=1\n\xff\n", "h:2: byte 0xff is not UTF-8"),
    "a name without end": ("a" * 900_000 + " slots=1", "h:1: a host name of 900000 characters"),
    "100 MB": (b"#" * 100_000_000, "h: is larger than 1 MB"),
    "lines without end": ("h slots=x\n" * 90_000, "h:1: expected `HOST slots=N`"),
    "hosts without end": ("".join(f"h{i} slots=1024\n" for i in range(30_000)), "ranks are more than 16,384"),
}


@pytest.mark.parametrize(("text", "told"), FILES.values(), ids=FILES)
def test_hostfiles(refused: Callable[..., str], text: str | bytes, told: str) -> None:
    assert told in refused(["x.toml", "--plain", "--hostfile", "h"], {"x.toml": RECIPE, "h": text})


@pytest.mark.parametrize(("make", "told"), [
    (lambda path: None, "h: no such hostfile"),
    (Path.mkdir, "h: is a directory, not a hostfile"),
    (os.mkfifo, "h: is not a regular file"),
    (lambda path: path.symlink_to("/dev/zero"), "h: is not a regular file"),
    (lambda path: path.symlink_to("h"), "h: no such hostfile"),
])
def test_what_is_no_file(refused: Callable[..., str], tmp_path: Path, make: Callable, told: str) -> None:
    make(tmp_path / "h")
    assert told in refused(["x.toml", "--hostfile", "h"], {"x.toml": RECIPE})
