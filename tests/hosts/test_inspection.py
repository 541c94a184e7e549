"""What the launcher sees of real hosts before it starts anything there, and how it says what is wrong with them."""

import importlib.metadata
import io
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher import hostfile, hosts, process
from mux.plan import Cluster, Host
from mux.run import RunDirectory
from tests.conftest import COMMAND, ROOT, TINY

pytestmark = [pytest.mark.multihost, pytest.mark.processes, pytest.mark.fault("preflight")]


@pytest.fixture
def there(whole, monkeypatch):
    """The hosts, within reach of this process."""
    monkeypatch.setenv("PATH", whole.environment["PATH"])
    monkeypatch.chdir(ROOT)
    return whole


def cluster(*names: str, slots: int = 1) -> Cluster:
    return Cluster(hosts=tuple(Host(name=name, slots=slots) for name in names), device="cuda", source="hosts.txt")


def inspect(place: Path, *names: str, needed: int = 0, rendezvous: bool = False) -> hosts.Inspection:
    return hosts.inspect(cluster(*names), RunDirectory(place / "run"), needed, rendezvous)


@contextmanager
def mounted(there, name: str, over: Path, *what: str):
    """A mount that one host alone has."""
    there.inside(name, "mount", *what, str(over))
    try:
        yield
    finally:
        there.inside(name, "umount", str(over))


def test_hosts_that_are_well(there, tmp_path):
    said = []
    found = hosts.inspect(hostfile.read(there.hostfile), RunDirectory(tmp_path / "run"), 1000, True, said.append)
    assert found.problems == {} and [host.name for host in found.healthy] == list(there.names)
    assert found.device == "cpu" and found.gpus == dict.fromkeys(there.names, 0)
    assert said[0] == "asking 2 hosts ..." and said[1].startswith("all-reduce over 2 hosts: ") and len(said) == 2
    assert list(tmp_path.iterdir()) == [] and there.emptied()
    stream = io.StringIO()
    hosts.show(found, stream)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3 and all("yes" in line and line.rstrip().endswith("ok") for line in lines[1:])
    assert "free" in lines[1] and "free" not in lines[2]


def test_everything_is_told_at_once(there, tmp_path):
    """One host does not answer; the other one has another project, another clock and another disk."""
    first, second = there.names
    run, changed = tmp_path / "runs" / "run", tmp_path / "probe.py"
    run.parent.mkdir()
    probe = ROOT / "launcher" / "probe.py"
    changed.write_text(probe.read_text().replace("clock=time.time()", "clock=time.time() - 3600"))
    environment = os.environ | there.environment | {"MUX_CACHE": str(tmp_path / "cache"), "COLUMNS": "40"}
    command = [*COMMAND, TINY, "--plain", "--run-dir", str(run), "--hostfile", str(there.hostfile)]
    there.stop_sshd(second)
    with mounted(there, first, probe, "--bind", str(changed)), mounted(there, first, run.parent, "-t", "tmpfs", "none"):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    # In a clean checkout its commit has a "+", in one with changes of its own only the files differ.
    for words in (f"{first}: its project", f"{first}: the run directory is not shared",
                  f"{first}: its clock is 3", f"{second}: it does not answer: the connection timed out"):
        assert f"{there.hostfile}: {words}" in done.stderr
    assert re.search(r"its clock is 3[56]\d\d", done.stderr)  # an hour, and what asking takes on a busy host
    assert len(done.stderr.splitlines()) == 5
    assert list(run.parent.iterdir()) == []


def test_hosts_that_cannot_be_reached(there, tmp_path):
    first, second = there.names
    net = first.rpartition(".")[0]
    others = {f"{net}.77": "there is no route to it", "no-such-host.invalid": "its name does not resolve",
              f"{net}.254": "connection refused: no sshd listens there"}
    known = (there.folder / "known_hosts").read_text()
    swapped = f"{first} {known.splitlines()[1].partition(' ')[2]}\n"
    try:
        (there.folder / "known_hosts").write_text(swapped)
        found = inspect(tmp_path, first, second, *others)
    finally:
        (there.folder / "known_hosts").write_text(known)
    assert found.healthy == ()
    (changed,), (unknown,) = found.problems[first], found.problems[second]
    assert "its host key has changed" in changed and f"ssh-keygen -R {first}" in changed
    assert "its host key is not known here" in unknown and f"(ssh {second})" in unknown
    assert {name: found.problems[name] for name in others} == {name: (why,) for name, why in others.items()}


def test_a_host_that_takes_no_key(there, tmp_path):
    keys = there.folder / "authorized_keys"
    content = keys.read_text()
    try:
        keys.write_text("")
        assert "permission denied" in inspect(tmp_path, there.names[0]).problems[there.names[0]][0]
    finally:
        keys.write_text(content)


def test_a_host_without_python_or_directory(there, tmp_path, monkeypatch):
    name = there.names[0]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with mounted(there, name, tmp_path, "-t", "tmpfs", "none"):
        told = inspect(tmp_path, name).problems[name]
    assert told == (f"it does not have the directory that this was started in ({tmp_path / 'here'})",)
    monkeypatch.setattr(sys, "executable", "/none/python")
    assert inspect(tmp_path, name).problems[name] == ("there is no /none/python",)


def test_another_version_of_a_package(there, tmp_path):
    name, torch = there.names[0], importlib.metadata.distribution("torch")
    metadata = next(Path(str(torch.locate_file(file))) for file in torch.files or () if file.name == "METADATA")
    other = tmp_path / "METADATA"
    other.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n")
    with mounted(there, name, metadata, "--bind", str(other)):
        told = inspect(tmp_path, name).problems[name]
    assert told == (f"has torch 1.0, and the launcher {torch.version}",)


def test_a_full_disk(there, tmp_path):
    name = there.names[0]
    assert "the run may need 1,000,000.00 GB" in inspect(tmp_path, name, needed=10**15).problems[name][0]


def test_ports_that_are_taken(there, tmp_path, monkeypatch):
    first, second = there.names
    monkeypatch.setattr(process, "PORTS", hosts.PORTS_TRIED)
    program = (f"import socket, time\nheld = [socket.create_server(('', port)) for port in range({process.FIRST_PORT}, "
               f"{process.FIRST_PORT + process.PORTS})]\nprint('held', flush=True)\ntime.sleep(600)")
    with subprocess.Popen(["ip", "netns", "exec", there.namespace(first), sys.executable, "-c", program],
                          stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        found = inspect(tmp_path, first, second)
        turned = inspect(tmp_path, second, first)
        holder.kill()
    assert "all ports that were tried" in found.problems[first][0] and second not in found.problems
    assert turned.problems == {}  # the ranks meet on the first host


def test_some_hosts_have_gpus(there, tmp_path):
    """A cluster is one of CPUs only if no host has a GPU."""
    first, second = there.names
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text("#!/bin/sh\n[ \"$1\" = -L ] && echo 'GPU 0: NVIDIA A100 (UUID: GPU-a)'; true\n")
    (tools / "nvidia-smi").chmod(0o755)
    with mounted(there, first, Path("/usr/local/bin"), "--bind", str(tools)):
        found = inspect(tmp_path, first, second)
    assert found.device == "cuda" and found.gpus == {first: 1, second: 0}
    assert found.problems == {second: ("has slots=1, but 0 GPUs",)}


def test_hosts_that_cannot_talk_to_each_other(there, tmp_path, monkeypatch):
    """The launcher reaches both, and one of them does not reach the other."""
    first, second = there.names
    monkeypatch.setattr(hosts, "HANDSHAKE_SECONDS", 8.0)
    there.inside(second, "ip", "route", "add", "blackhole", first)
    try:
        found = inspect(tmp_path, first, second, rendezvous=True)
    finally:
        there.inside(second, "ip", "route", "del", "blackhole", first)
    assert [host.name for host in found.healthy] == [first]
    assert f"did not come to the all-reduce ({first} port " in found.problems[second][0]
    assert there.emptied()


def test_narrow_terminals_see_the_verdicts(there, tmp_path):
    from rich.console import Console

    found = inspect(tmp_path, there.names[0], "no-such-host.invalid")
    stream = io.StringIO()
    console = Console(file=stream, width=40)
    console.print(found.table(console.width))
    assert max(map(len, stream.getvalue().splitlines())) <= 40
    words = " ".join(stream.getvalue().split())
    assert there.names[0] in words and "ok" in words and "its name does not" in words
