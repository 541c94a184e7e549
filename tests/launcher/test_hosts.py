"""Asking hosts, as far as one machine goes; several real ones are in tests/hosts."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from launcher import errands, gpu, host_checks, hosts
from launcher.errands import Errand
from launcher.host_checks import CHECKS, Asked, Reply
from launcher.probe import Answer, Installed
from mux.plan import Cluster, Host
from mux.recipe import Refusal
from mux.run import RunDirectory

HERE = Host(name="localhost", slots=2, local=True)
NAMES = {"host": "gpu-02", "directory": "/home/a/b", "python": "/venv/bin/python"}
INSTALLED = Installed(python="3.11.7", packages={"torch": "2.13.0", "deepspeed": "0.19.8"}, commit="a" * 40, code="c")
ANSWER = Answer(hostname="gpu-02", installed=INSTALLED, gpus=8, free=10**12, wrong=None, token="t", ports=(20_000,),
                clock=0.0)
REPLY = Reply(Host(name="gpu-02", slots=8), ANSWER, skew=0.3, uncertain=0.4, left="t")
ASKED = Asked(INSTALLED, "t", bytes_needed=10**9, device="cuda", first="gpu-02")


def wrong(reply: Reply, asked: Asked = ASKED) -> dict[str, tuple[str, ...]]:
    seen = {name: check(reply, asked).wrong for name, check in CHECKS.items()}
    return {name: texts for name, texts in seen.items() if texts}


def answering(**changes) -> Reply:
    return replace(REPLY, answer=ANSWER.model_copy(update=changes))


def test_a_host_that_is_well():
    assert wrong(REPLY) == {}


@pytest.mark.parametrize(("reply", "check", "told"), [
    (answering(installed=INSTALLED.model_copy(update={"python": "3.12.0", "packages": {"torch": "2.13.0"}})), "python",
     ("has Python 3.12.0, and the launcher 3.11.7", "has deepspeed (none), and the launcher 0.19.8")),
    (answering(installed=INSTALLED.model_copy(update={"commit": "b" * 40})), "commit",
     ("its project is at commit bbbbbbb, the launcher's at aaaaaaa",)),
    (answering(installed=INSTALLED.model_copy(update={"code": "d"})), "commit",
     ("its project's files differ from the launcher's",)),
    (answering(token=None), "shared",
     ("the run directory is not shared: what the launcher writes there does not arrive",)),
    (replace(REPLY, left=None), "shared",
     ("the run directory is not shared: what it writes there does not arrive here",)),
    (answering(wrong="Permission denied", token=None), "shared",
     ("cannot read and write the run directory: Permission denied",)),
    (answering(free=10**8), "disk", ("the run may need 1.00 GB, and its disk has 0.10 GB free",)),
    (answering(ports=()), "port", ("all ports that were tried for the ranks to meet at are taken",)),
    (replace(REPLY, skew=-8.0), "clock",
     ("its clock is 8 s behind: files on the shared disk would have the wrong time",)),
    (answering(gpus=4), "devices", ("has slots=8, but 4 GPUs",)),
])
def test_what_may_be_wrong_with_a_host(reply, check, told):
    assert wrong(reply) == {check: told}


def test_what_is_no_fault():
    unversioned = INSTALLED.model_copy(update={"commit": None})  # git is missing there, the files are the same
    assert wrong(answering(installed=unversioned)) == {}
    assert wrong(replace(REPLY, skew=8.0, uncertain=3.5)) == {}  # the answer was 7 s under way
    assert wrong(answering(ports=()), replace(ASKED, first="gpu-01")) == {}
    assert wrong(answering(gpus=0), replace(ASKED, device="cpu")) == {}


@pytest.mark.parametrize(("said", "code", "meaning"), [
    ("WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.", 255, "ssh-keygen -R gpu-02"),
    ("No ED25519 host key is known for gpu-02 and you have requested strict checking.\nHost key verification failed.",
     255, "not known here: connect once by hand (ssh gpu-02)"),
    ("a@gpu-02: Permission denied (publickey,password).", 255, "ssh-copy-id gpu-02"),
    ("ssh: Could not resolve hostname gpu-02: Name or service not known", 255, "its name does not resolve"),
    ("ssh: connect to host gpu-02 port 22: No route to host", 255, "no route to it"),
    ("ssh: connect to host gpu-02 port 22: Connection refused", 255, "connection refused"),
    ("Connection timed out during banner exchange", 255, "the connection timed out"),
    ("kex_exchange_identification: Connection closed by remote host", 255, "it closed the connection"),
    ("bash: line 1: cd: /home/a/b: No such file or directory", 1, "does not have the directory"),
    ("sh: 1: cd: can't cd to /home/a/b", 2, "(/home/a/b)"),
    ("env: ‘/venv/bin/python’: No such file or directory", 127, "there is no /venv/bin/python"),
    ("/venv/bin/python: No module named launcher", 1, "not installed there (/venv/bin/python)"),
    ("motd\nsomething \x1b[31mnew\n\n", 3, "gave no answer: something \\u001b[31mnew"),
    ("", 3, "gave no answer: exit code 3"),
    ("", None, "gave no answer within 60 s"),
])
def test_why_there_was_no_answer(said, code, meaning):
    assert meaning in host_checks.unreached(said, 60.0, code, NAMES)


@pytest.mark.parametrize(("outputs", "blamed"), [
    (("mux-met", "", "mux-met"), ["b"]),
    (("port is taken", "", ""), ["a"]),  # nobody could meet a host that was not there
    (("mux-met", "mux-met", "mux-met"), ["a", "b", "c"]),
])
def test_who_is_to_blame_where_hosts_do_not_meet(outputs, blamed):
    said = {name: Errand(f"{output}\nRuntimeError: {name} failed\n", 1, 0.0, 1.0)
            for name, output in zip("abc", outputs, strict=True)}
    told = hosts._blamed(said, "a port 20000")
    assert list(told) == blamed
    assert all("(a port 20000)" in text and f"{name} failed" in text for name, text in told.items())


@pytest.fixture
def place(tmp_path, monkeypatch) -> RunDirectory:
    monkeypatch.setattr(gpu, "installed", list)
    return RunDirectory(tmp_path / "runs" / "run")


def cluster(*hosts_: Host, device="cuda") -> Cluster:
    return Cluster(hosts=hosts_, device=device, source="hosts.txt")


@pytest.mark.processes
def test_this_machine_answers_too_and_a_host_without_ssh_does_not(place, monkeypatch):
    there = Host(name="gpu-02", slots=1)
    monkeypatch.setenv("PATH", "")
    found = hosts.inspect(cluster(HERE, there), place, 0, rendezvous=True)
    assert found.healthy == (HERE,) and found.replies["localhost"].left
    assert found.problems == {"gpu-02": ("gave no answer: ssh: No such file or directory",)}
    assert [str(problem) for problem in found.refusals()] == [f"hosts.txt: gpu-02: {found.problems['gpu-02'][0]}"]
    assert not place.path.parent.exists()


@pytest.mark.processes
def test_a_run_that_is_there_is_left_as_it_was(place):
    place.create()
    (place.path / "plan.json").write_text("{}")
    place.path.chmod(0o750)
    hosts.inspect(cluster(HERE), place, 0, rendezvous=True)
    assert sorted(path.name for path in place.path.rglob("*")) == ["logs", "plan.json"]
    assert place.path.stat().st_mode & 0o777 == 0o750


@pytest.mark.processes
def test_what_a_run_has_written_needs_no_room_unless_it_starts_over(place):
    place.create()
    with open(place.path / "shard", "wb") as shard:
        shard.truncate(10**12)
    needed = shutil.disk_usage(place.path).free + 10**12 // 2
    assert hosts.inspect(cluster(HERE), place, needed, rendezvous=False).problems == {}
    (told,) = hosts.inspect(cluster(HERE), place, needed, rendezvous=False, begun=False).problems["localhost"]
    assert told.startswith(f"the run may need {needed / 1e9:,.2f} GB, ")


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match="cannot be used: Not a directory"):
        hosts.inspect(cluster(HERE), RunDirectory(tmp_path / "file" / "run"), 0, rendezvous=False)


@pytest.mark.parametrize("columns", [30, 40, 200])
def test_the_table_on_any_terminal(columns):
    names = ["gpu-01", "gpu-02"]
    seen = {"gpu-01": {name: check(REPLY, ASKED) for name, check in CHECKS.items()}}
    found = hosts.Inspection(cluster(*(Host(name=name, slots=8) for name in names)), "cuda", {}, seen,
                             {"gpu-02": ("permission denied: [bold]it does not take this user's key",)})
    stream = io.StringIO()
    console = Console(file=stream, width=columns)
    console.print(found.table(console.width))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= columns and ("8 GPUs" in lines[1]) == (columns == 200)
    words = " ".join(stream.getvalue().split())
    assert "ok" in words and "permission" in words and "[bold]" in words


@pytest.mark.processes
def test_errands_are_ended_when_their_time_is_up(tmp_path):
    waiting = ["sh", "-c", "echo begun; echo $$ > pid; exec sleep 600"]
    environment = {"PATH": "/usr/bin:/bin"}
    commands = {"quick": (["sh", "-c", "echo done; exit 4"], environment),
                "slow": (["sh", "-c", f"cd {tmp_path}; {waiting[2]}"], environment)}
    found = errands.together(commands, 5.0)
    assert (found["quick"].output, found["quick"].code) == ("done\n", 4)
    assert (found["slow"].output, found["slow"].code) == ("begun\n", None)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
