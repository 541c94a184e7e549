"""Hostfiles: what is read, what is refused, and which GPUs are seen without torch."""

import os
import socket
import stat
from pathlib import Path

import pytest

from launcher import gpu, hostfile
from mux.plan import Host
from mux.recipe.refusal import Refusal

SHIPPED = Path(__file__).parents[2] / "hostfiles"


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    monkeypatch.setattr(gpu, "installed", list)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "hosts.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(Refusal) as caught:
        hostfile.read(path)
    return str(caught.value)


def test_reads_hosts_in_order(tmp_path):
    path = written(tmp_path, "# a\n\nnode-01 slots=8\n\tnode_02.x.org\t slots=4   # half\n 10.0.0.3 slots=1")
    cluster = hostfile.read(path)
    assert cluster.hosts == (
        Host(name="node-01", slots=8), Host(name="node_02.x.org", slots=4), Host(name="10.0.0.3", slots=1))
    assert (cluster.devices, cluster.device, cluster.source) == (13, "cuda", str(path))


def test_reads_windows_line_ends(tmp_path):
    cluster = hostfile.read(written(tmp_path, b"a slots=1\r\nb slots=2\r\n"))
    assert [(host.name, host.slots) for host in cluster.hosts] == [("a", 1), ("b", 2)]


def test_reads_what_mpi_reads(tmp_path):
    """Open MPI's lines and MPICH's."""
    cluster = hostfile.read(written(tmp_path, "a slots=2 max_slots=4\nb slots=2 max-slots=2 # all\nc:8\nd.x.org:1\n"))
    assert [(host.name, host.slots) for host in cluster.hosts] == [("a", 2), ("b", 2), ("c", 8), ("d.x.org", 1)]
    assert cluster == hostfile.read(written(tmp_path, "a slots=2\nb:2\nc slots=8 max_slots=1000\nd.x.org slots=1\n"))


def test_shipped_hostfiles():
    cluster = hostfile.read(SHIPPED / "8x_a100.txt")
    assert [host.name for host in cluster.hosts] == [f"a100-0{i}" for i in range(1, 9)]
    assert (cluster.devices, cluster.device) == (64, "cuda")
    assert not any(host.local for host in cluster.hosts)
    alone = hostfile.read(SHIPPED / "one_host_8x_a100.txt")
    assert alone.hosts == (Host(name="localhost", slots=8, local=True),)


@pytest.mark.parametrize(("line", "wrong"), [
    ("-oProxyCommand=id slots=8", "begins with -"),
    ("- slots=8", "begins with -"),
    (".a slots=8", "begins with ."),
    ("_a slots=8", "begins with _"),
    ("a$IFS slots=8", "contains '$'"),
    ("a;id slots=8", "contains ';'"),
    ("a,b slots=8", "contains ','"),
    ("^hosts slots=8", "contains '^'"),
    ("user@a slots=8", "contains '@'"),
    ("fe80::1 slots=8", "contains ':'"),
    ("a`id` slots=8", "contains '`'"),
    ("a\u200bb slots=8", r"contains '\u200b'"),
    ("a\u00a0slots=8", r"contains '\xa0'"),
    ("\u0430100 slots=8", r"contains '\u0430'"),
    ("\x0b", r"contains '\x0b'"),
    ("a\x1b[31m slots=8", r"contains '\x1b'"),
    ("a\rb slots=8", r"contains '\r'"),
    ("a" * 254 + " slots=8", "254 characters"),
    ("a slots=0", "slots=0"),
    ("a slots=000", "slots=0"),
    ("a slots=1025", "more than 1024"),
    ("a slots=" + "9" * 5000, "slots=999999999999..., more than 1024"),
    ("a slots=-1", "expected `HOST slots=N`"),
    ("a slots=8.0", "expected `HOST slots=N`"),
    ("a slots=\u0668", r"found 'a slots=\u0668'"),
    ("a slots=", "expected `HOST slots=N`"),
    ("a slots = 8", "expected `HOST slots=N`"),
    ("a SLOTS=8", "expected `HOST slots=N`"),
    ("a 8", "expected `HOST slots=N`"),
    ("a", "expected `HOST slots=N`"),
    ("slots=8", "contains '='"),
    ("a slots=8 slots=4", "expected `HOST slots=N`"),
    ("a slots=8 max_slots=7", "slots=8, more than its max_slots=7"),
    ("a slots=8 max_slots=0", "slots=8, more than its max_slots=0"),
    ("a slots=10 max-slots=9", "slots=10, more than its max_slots=9"),
    ("a slots=8 max_slots=", "expected `HOST slots=N`"),
    ("a slots=8 max_slots=8 max_slots=8", "expected `HOST slots=N`"),
    ("a slots=8 min_slots=8", "expected `HOST slots=N`"),
    ("a:0", "slots=0"),
    ("a:1025", "more than 1024"),
    ("a:" + "9" * 5000, "slots=999999999999..., more than 1024"),
    ("a:", "contains ':'"),
    ("a:8:8", "contains ':'"),
    ("a:8 slots=8", "contains ':'"),
    ("a: 8", "contains ':'"),
    (":8", "contains ':'"),
    ("-a:8", "begins with -"),
    ("a;id:8", "contains ';'"),
    ("a:8;id", "contains ':'"),
    ("good:8", "host good is already on line 2"),
    ("a slots=8;", "expected `HOST slots=N`"),
    ("a slots=8\x00", r"found 'a slots=8\x00'"),
    ("a slots=8\u2028", r"found 'a slots=8\u2028'"),
    ("good slots=8", "host good is already on line 2"),
    ("GOOD slots=4", "host GOOD is already on line 2"),
    ("Good. slots=4", "host Good. is already on line 2"),
])
def test_refuses_a_bad_line_and_names_it(tmp_path, line, wrong):
    path = written(tmp_path, f"# comment\ngood slots=8\n{line}\n")
    text = refusal(path)
    assert text.startswith(f"{path}:3: ")
    assert wrong in text
    assert text.isascii() or not line.isascii()
    assert all(char.isprintable() or char == "\n" for char in text)


def test_refuses_this_machine_twice(tmp_path):
    text = refusal(written(tmp_path, "localhost slots=2\n127.0.0.1 slots=2\n"))
    assert "127.0.0.1 is this machine, which is already on line 1" in text


def test_reports_every_bad_line_at_once(tmp_path):
    path = written(tmp_path, "a slots=0\nb slots=1\nc,d slots=1\n-e slots=1\n")
    with pytest.raises(Refusal) as caught:
        hostfile.read(path)
    assert [problem.where for problem in caught.value.problems] == [f"{path}:{n}" for n in (1, 3, 4)]


def test_reports_of_a_foreign_file_stay_short(tmp_path):
    text = refusal(written(tmp_path, "#!/bin/sh\n" + "echo one two\n" * 500))
    assert "480 more lines are wrong" in text
    assert len(text.splitlines()) < 60


@pytest.mark.parametrize(("content", "wrong"), [
    (b"\xef\xbb\xbfa slots=1\n", ":1: begins with a byte order mark"),
    ("a slots=1\n".encode("utf-16"), ":1: begins with a byte order mark"),
    (b"a slots=1\nb\xff slots=1\n", ":2: byte 0xff is not UTF-8"),
    (b"", "names no host"),
    (b"\n# nothing\n\n", "names no host"),
    (b"#" * 1_000_001, "larger than 1 MB"),
])
def test_refuses_a_bad_file(tmp_path, content, wrong):
    path = written(tmp_path, content)
    text = refusal(path)
    assert text.startswith(str(path))
    assert wrong in text


def test_a_missing_hostfile_names_those_that_are_there(tmp_path):
    written(tmp_path, "a slots=1")
    (tmp_path / "two_hosts").write_text("a slots=1")
    (tmp_path / "picture.png").write_text("")
    text = refusal(tmp_path / "host.txt")
    assert "host.txt: no such hostfile" in text
    assert f"{tmp_path}/ has: hosts.txt, two_hosts" in text
    assert f"there is no folder {tmp_path}/none either" in refusal(tmp_path / "none" / "host.txt")
    assert "cannot be read: File name too long" in refusal(tmp_path / ("x" * 300))


def test_names_of_files_are_made_visible(tmp_path):
    folder = tmp_path / "a\x1b[2J"
    folder.mkdir()
    (folder / "b\u200b").write_text("c$ slots=1")
    (folder / "c\udcff").write_text("")  # not UTF-8 on the disk
    for text in (refusal(folder / "none"), refusal(folder / "b\u200b")):
        assert text.isascii()
        assert r"a\u001b[2J/" in text
    assert r"has: b\u200b, c\udcff" in refusal(folder / "none")


def test_refuses_what_is_not_a_file(tmp_path):
    written(tmp_path, "a slots=1")
    assert f"is a directory, not a hostfile\n    {tmp_path}/ has: hosts.txt" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")
    assert "not a regular file" in refusal(Path("/dev/zero"))


def test_knows_this_machine_by_its_names(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "Box7")
    monkeypatch.setattr(hostfile, "_full_name", lambda: "box7.lab.example")
    own = ["localhost", "LOCALHOST", "127.0.0.1", "box7", "BOX7", "box7.lab.example"]
    assert all(map(hostfile.is_local, own))
    assert not any(map(hostfile.is_local, ["box8", "box7.other.example", "10.0.0.7", "local"]))
    monkeypatch.setattr(hostfile, "_full_name", lambda: pytest.fail("the resolver was asked"))
    assert not hostfile.is_local("box8.lab.example")


def test_device_of_a_hostfile(tmp_path, monkeypatch):
    assert hostfile.read(written(tmp_path, "localhost slots=2")).device == "cpu"
    assert hostfile.read(written(tmp_path, "localhost slots=2\nother slots=2")).device == "cuda"
    assert hostfile.read(written(tmp_path, "other slots=2")).device == "cuda"
    monkeypatch.setattr(gpu, "installed", lambda: [gpu.Gpu("A100")])
    assert hostfile.read(written(tmp_path, "localhost slots=2")).device == "cuda"


def test_alone(tmp_path):
    assert hostfile.alone(hostfile.this_host(1)) and hostfile.alone(hostfile.read(written(tmp_path, "localhost:2")))
    assert not hostfile.alone(hostfile.read(written(tmp_path, "localhost:2\nother:2")))
    assert not hostfile.alone(hostfile.read(written(tmp_path, "other:2")))


def test_this_host(monkeypatch):
    cluster = hostfile.this_host(3)
    assert (cluster.hosts, cluster.device, cluster.source) == (
        (Host(name="localhost", slots=3, local=True),), "cpu", "this host")
    monkeypatch.setattr(gpu, "installed", lambda: [gpu.Gpu("A100")] * 4)
    assert (hostfile.this_host(3).devices, hostfile.this_host(3).device) == (4, "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert hostfile.this_host(3).devices == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert (hostfile.this_host(3).devices, hostfile.this_host(3).device) == (3, "cpu")


@pytest.mark.parametrize(("chosen", "names"), [
    ("0", "a"), ("2,0", "ca"), (" 1 , 2 ", "bc"), ("0,-1,1", "a"), ("0,7,1", "a"), ("7", ""), ("0,,1", "a"),
    ("GPU-bbbb", "b"), ("GPU-cc,GPU-zz,GPU-aa", "c"), ("9" * 5000, ""), ("\u0661", ""), ("x", ""),
])
def test_cuda_visible_devices(chosen, names):
    gpus = [gpu.Gpu(name, f"GPU-{name * 8}") for name in "abc"]
    assert "".join(found.name for found in gpu.select(gpus, chosen)) == names


def fake_nvidia_smi(folder: Path, script: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)


def test_gpus_by_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpu, "PROC", tmp_path / "none")
    assert gpu.installed() == []
    fake_nvidia_smi(tmp_path, """case "$1" in
-L) echo 'GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-aa)'; echo '  MIG 1g.10gb Device 0: (UUID: MIG-1)'
    echo 'GPU 1: Tesla V100 (UUID: GPU-bb)' ;;
*) echo 8.0; echo 7.0 ;;
esac""")
    assert gpu.installed() == [
        gpu.Gpu("NVIDIA A100-SXM4-80GB", "GPU-aa", (8, 0)), gpu.Gpu("Tesla V100", "GPU-bb", (7, 0))]
    fake_nvidia_smi(tmp_path, """[ "$1" = -L ] && echo 'GPU 0: Old (UUID: GPU-aa)' || exit 6""")
    assert gpu.installed() == [gpu.Gpu("Old", "GPU-aa", None)]
    fake_nvidia_smi(tmp_path, "echo 'NVIDIA-SMI has failed: it could not reach the driver'; exit 9")
    assert gpu.installed() == []


def test_gpus_by_the_drivers_folder(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(gpu, "PROC", tmp_path)
    for name in ("0000:3b:00.0", "0000:86:00.0"):
        (tmp_path / name).mkdir()
    assert len(gpu.installed()) == 2
