"""The agent with real processes: whatever ends it, nothing that it started is left."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from launcher import agent
from mux.journal import decode

ROOT = Path(__file__).parent.parent.parent

# Starts a "rank" in a session of its own that ignores SIGTERM, and says their process ids.
FAMILY = """
import os, signal, subprocess, sys, time
rank = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", rank], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def start():
    """Start an agent over a Python program; `settings` change the agent's own constants."""
    started = []

    def begin(program: str, *options: str, **settings: float) -> subprocess.Popen:
        code = "".join(f"agent.{name} = {value}; " for name, value in settings.items())
        argv = [sys.executable, "-c", f"from launcher import agent; {code}agent.main()", *options, "--",
                sys.executable, "-u", "-c", program]
        started.append(subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def family(process) -> list[int]:
    return [int(word) for word in process.stdout.readline().split()]


def gone(pids, seconds=20) -> bool:
    """Whether all are, after a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(map(alive, pids)):
            return True
        time.sleep(0.02)
    return False


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(("program", "code"), [
    ("print('said')", 0),
    ("print('said'); exit(7)", 7),
    ("print('said'); exit(255)", 254),  # 255 is ssh's own
    ("import os; print('said'); os.kill(os.getpid(), 9)", 137),
])
def test_output_and_code_pass_through(start, program, code):
    process = start(program)
    assert process.wait(30) == code
    assert process.stdout.read() == "said\n"


def test_a_closed_lease_kills_everything(start):
    process = start(FAMILY)
    pids = family(process)
    assert len(pids) == 2 and all(map(alive, pids))
    process.stdin.close()
    assert process.wait(20) == 137
    assert gone(pids, 0.5)  # before the agent ends


def test_silence_is_a_lost_lease_and_a_word_is_none(start):
    process = start(FAMILY, "--silence", "2")
    pids = family(process)
    until = time.monotonic() + 4
    while time.monotonic() < until:
        os.write(process.stdin.fileno(), agent.KEEP)
        assert process.poll() is None
        time.sleep(0.1)
    assert process.wait(20) == 137 and gone(pids, 0.5)
    assert "no word from the launcher for 2 s" in process.stdout.read()


def test_a_signal_leaves_a_moment_for_good_order(start):
    process = start("""
import signal, time
def leave(*_):
    print("saved", flush=True)
    raise SystemExit(3)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(600)
""")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 3 and process.stdout.read() == "saved\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_what_does_not_want_to(start, number):
    process = start(FAMILY, GRACE_SECONDS=0.5)
    pids = family(process)
    process.send_signal(number)
    assert process.wait(20) in (137, 143) and gone(pids, 0.5)


def test_the_kernel_ends_the_command_with_its_agent(start):
    process = start(FAMILY)
    head, rank = family(process)
    process.kill()
    assert gone([head])
    os.kill(rank, signal.SIGKILL)  # a real one asks for the same: mux.rank


@pytest.mark.parametrize(("end", "code", "told"), [("os.kill(os.getpid(), 9)", 137, -9), ("os._exit(3)", 3, 3),
                                                   ("os._exit(98)", 97, 98), ("os._exit(0)", 137, None)])
def test_a_rank_that_has_ended_ends_the_others_that_wait_for_it(start, tmp_path, end, code, told):
    """They are not asked to stop: nobody has asked for that."""
    process = start(f"""
import os, pathlib, signal, time
here = pathlib.Path({str(tmp_path)!r})
signal.signal(signal.SIGTERM, lambda *_: print("asked to stop", flush=True))
if os.environ["RANK"] == "5":
    while len(list(here.iterdir())) < 2:
        time.sleep(0.01)
    {end}
os.write(1, f"pid {{os.getpid()}}\\n".encode())
(here / os.environ["RANK"]).touch()
time.sleep(600)
""", "--devices", "0,1,2", "--first-rank", "4", LAST_WORDS_SECONDS=0.5)
    assert process.wait(20) == code
    said = [line for line in process.stdout.read().splitlines() if line]  # an event has a line of its own
    pids = [int(line.split()[1]) for line in said if line.startswith("pid ")]
    assert len(pids) == 2 and gone(pids, 0.5)
    events = [event for line in said if (event := decode(line)) is not None]
    assert [(event.rank, event.code) for event in events] == ([(5, told)] if told is not None else [])
    assert len(said) == 2 + len(events)


def test_the_code_is_that_of_the_first_that_ended_badly(start, tmp_path):
    """Rank 0 and the one that ended well do not count."""
    process = start(f"""
import os, pathlib, time
first = pathlib.Path({str(tmp_path)!r}, "first")
match os.environ["RANK"]:
    case "0":
        while not first.exists():
            time.sleep(0.01)
        while int(first.read_text() or 0) and pathlib.Path("/proc", first.read_text()).exists():
            time.sleep(0.01)
        os._exit(1)
    case "1":
        os._exit(0)
    case "2":
        first.write_text(str(os.getpid()))
        os._exit(7)
""", "--devices", "0,1,2")
    assert process.wait(20) == 7
    events = [event for line in process.stdout if (event := decode(line)) is not None]
    assert [(event.rank, event.code) for event in events] == [(2, 7), (0, 1)]


def test_a_signal_reaches_every_rank(start):
    process = start("""
import os, signal, time
def leave(*_):
    os.write(1, b"saved\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
os.write(1, b"ready\\n")
time.sleep(600)
""", "--devices", "0,1")
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0 and process.stdout.read() == "saved\n" * 2


def test_the_kernel_ends_every_rank_with_its_agent(start):
    process = start("import os, time; os.write(1, f'{os.getpid()}\\n'.encode()); time.sleep(600)", "--devices", "0,1")
    pids = [int(process.stdout.readline()) for _ in range(2)]
    process.kill()
    assert gone(pids)


def test_a_port_that_somebody_has(start):
    """Nothing is started where rank 0 is to be; the other hosts only meet there."""
    with socket.socket() as holder:
        holder.bind(("", 0))
        port = str(holder.getsockname()[1])
        process = start("print('started')", "--devices", "0", "--port", port)
        assert process.wait(20) == agent.PORT_TAKEN
        assert process.stdout.read() == f"port {port} is taken on {socket.gethostname()}\n"
        process = start("print('started')", "--devices", "0", "--port", port, "--first-rank", "1")
        assert process.wait(20) == 0 and process.stdout.read() == "started\n"


def test_what_a_command_leaves_behind_ends_with_it(start):
    process = start(FAMILY.removesuffix("time.sleep(600)\n") + "exit(5)\n")
    pids = family(process)
    assert process.wait(20) == 5 and gone(pids, 0.5)


def test_the_way_to_the_other_hosts(start, monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "mine")
    show = "import os; print(os.environ.get('GLOO_SOCKET_IFNAME'), os.environ['NCCL_SOCKET_IFNAME'])"
    process = start(show, "--peer", "127.0.0.1")
    assert process.stdout.readline() == "lo mine\n"
    process = start(show, "--peer", "no-such-host.invalid")
    assert process.stdout.readline() == "None mine\n"


def test_own_addresses():
    assert agent.own_address("127.0.0.1") == "127.0.0.1" and agent.interface("127.0.0.1") == "lo"
    assert agent.own_address("no-such-host.invalid") is None and agent.interface("no-such-host.invalid") is None


@pytest.mark.parametrize("words", [[], ["--"], ["--silence", "x", "--", "true"], ["--what", "--", "true"]])
def test_words_it_does_not_know(words, capsys):
    with pytest.raises(SystemExit) as caught:
        agent.arguments(words)
    assert caught.value.code == 2 and "usage: python -m launcher.agent" in capsys.readouterr().err
