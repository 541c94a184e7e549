"""Hostfile -> Cluster: which machines take how many ranks. One host a line, `name slots=8`, and `#` comments; or as MPI
has it, `name slots=8 max_slots=8` and `name:8`.

The grammar is strict because a host name becomes an argument of ssh: nothing that a shell or ssh could read
as anything but a name gets through. A hostfile that is named but cannot be read ends the launch; there is no
falling back to one machine.
"""

from __future__ import annotations

import re
import socket
from functools import cache
from pathlib import Path
from typing import Literal

from launcher import gpu
from mux.plan import Cluster, Host
from mux.recipe import Problem, Refusal
from mux.recipe.wording import printable

MAX_BYTES = 1_000_000
MAX_SLOTS = 1024
MAX_PROBLEMS = 20  # of a file that is no hostfile at all, every line is wrong
EXAMPLE = "one host a line, such as: gpu-01 slots=8"
LOOPBACK = ("localhost", "127.0.0.1")

# DeepSpeed's and Open MPI's line, and MPICH's.
LINE = re.compile(r"(?P<name>\S+)[ \t]+slots=(?P<slots>[0-9]+)(?:[ \t]+max[_-]slots=(?P<most>[0-9]+))?")
SHORT_LINE = re.compile(r"(?P<name>[^\s:]+):(?P<slots>[0-9]+)")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def read(path: Path) -> Cluster:
    """The hosts of a hostfile, in its order. Raises Refusal with every line that is wrong."""
    name = printable(str(path))
    hosts: dict[str, Host] = {}
    lines: dict[str, int] = {}
    problems: list[Problem] = []
    for number, line in enumerate(text(path).split("\n"), start=1):
        content = line.removesuffix("\r").partition("#")[0].strip(" \t")
        if not content:
            continue
        host = _host(content)
        if isinstance(host, Host):
            key = "localhost" if host.local else _canonical(host.name)
            if key not in hosts:
                hosts[key], lines[key] = host, number
                continue
            whose = f"{host.name} is this machine, which is" if host.local else f"{host.name} is"
            host = Problem(f"host {whose} already on line {lines[key]}", hint="a host has one line")
        problems.append(Problem(host.message, where=f"{name}:{number}", hint=host.hint))
    if len(problems) > MAX_PROBLEMS:
        rest = f"{len(problems) - MAX_PROBLEMS:,} more lines are wrong"
        problems = [*problems[:MAX_PROBLEMS], Problem(rest, where=name, hint=EXAMPLE)]
    if not problems and not hosts:
        problems = [Problem("the hostfile names no host", where=name, hint=EXAMPLE)]
    if problems:
        raise Refusal(problems)
    return Cluster(hosts=tuple(hosts.values()), device=device(*hosts.values()), source=str(path))


def this_host(processes: int) -> Cluster:
    """Without a hostfile: this machine's GPUs, one rank each; without GPUs, `processes` ranks on its CPU."""
    gpus = len(gpu.visible())
    host = Host(name="localhost", slots=gpus or processes, local=True)
    return Cluster(hosts=(host,), device="cuda" if gpus else "cpu", source="this host")


def is_local(name: str) -> bool:
    """Whether a host name means this machine. Asks the resolver only where the answer can matter."""
    name, own = _canonical(name), socket.gethostname().lower()
    if name in (*LOOPBACK, own):
        return True
    return name.split(".")[0] == own.split(".")[0] and name == _full_name()


def _canonical(name: str) -> str:
    """DNS knows no case, and a dot at the end only says that nothing follows."""
    return name.lower().removesuffix(".")


@cache
def _full_name() -> str:
    return socket.getfqdn().lower()


def alone(cluster: Cluster) -> bool:
    """Whether a cluster is this machine and no other."""
    return len(cluster.hosts) == 1 and cluster.hosts[0].local


def device(*hosts: Host) -> Literal["cpu", "cuda"]:
    """Hostfiles describe GPU machines; only this machine, alone, is known to have none before it is asked."""
    here = len(hosts) == 1 and hosts[0].local
    return "cpu" if here and not gpu.visible() else "cuda"


def _host(content: str) -> Host | Problem:
    """One line without its comment."""
    match = SHORT_LINE.fullmatch(content) or LINE.fullmatch(content)
    name = match["name"] if match else re.split(r"[ \t]", content)[0]
    if not NAME.fullmatch(name):
        return Problem(_bad_name(name), hint="a host name is letters, digits, . - _ after a letter or digit")
    if len(name) > 253:
        return Problem(f"a host name of {len(name)} characters; DNS ends at 253")
    if not match:
        return Problem(f"expected `HOST slots=N`, found {content[:80]!a}", hint=EXAMPLE)
    digits = match["slots"].lstrip("0")
    if not digits:
        return Problem(f"host {name} has slots=0", hint="remove the line, or comment it out with #")
    if len(digits) > 4 or int(digits) > MAX_SLOTS:
        return Problem(f"host {name} has slots={digits[:12]}{'...' if len(digits) > 12 else ''}, "
                       f"more than {MAX_SLOTS}", hint="slots is the number of GPUs of that host")
    most = (match.groupdict().get("most") or digits).lstrip("0")
    if len(most) < len(digits) or (len(most) == len(digits) and most < digits):
        return Problem(f"host {name} has slots={digits}, more than its max_slots={most or 0}")
    return Host(name=name, slots=int(digits), local=is_local(name))


def _bad_name(name: str) -> str:
    """What is wrong with it, invisible characters made visible."""
    shown = ascii(name[:80])
    if name.startswith("-"):
        return f"host {shown} begins with -, which ssh would read as an option"
    bad = next((char for char in name if not re.fullmatch(r"[A-Za-z0-9._-]", char)), None)
    return f"host {shown} begins with {name[0]}" if bad is None else f"host {shown} contains {bad!a}"


def text(path: Path, what: str = "hostfile") -> str:
    """The file's text. Raises Refusal for what is not a readable text file of a sensible size."""
    name = printable(str(path))
    try:
        if not path.exists():
            raise Refusal(Problem(f"no such {what}", where=name, hint=_files(path.parent)))
        if path.is_dir():
            raise Refusal(Problem(f"is a directory, not a {what}", where=name, hint=_files(path)))
        if not path.is_file():  # a pipe would block, a device never end
            raise Refusal(Problem("is not a regular file", where=name, hint=EXAMPLE))
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Refusal(Problem(f"cannot be read: {error.strerror}", where=name)) from None
    if len(data) > MAX_BYTES:
        raise Refusal(Problem(f"is larger than 1 MB, so it is no {what}", where=name, hint=EXAMPLE))
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        hint = "save it as UTF-8 without a byte order mark"
        raise Refusal(Problem("begins with a byte order mark", where=f"{name}:1", hint=hint))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Refusal(Problem(f"byte 0x{data[error.start]:02x} is not UTF-8", where=f"{name}:{line}",
                              hint=f"a {what} is plain text")) from None


def _files(folder: Path) -> str:
    """What there is to choose from, for the hint."""
    name = printable(str(folder))
    if not folder.is_dir():
        return f"there is no folder {name} either"
    try:
        files = [entry for entry in folder.iterdir() if entry.is_file()]
    except OSError:
        files = []
    names = sorted(printable(file.name) for file in files if file.suffix in ("", ".txt"))
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"{name}/ has: {shown}" if names else f"{name}/ has no text files"
