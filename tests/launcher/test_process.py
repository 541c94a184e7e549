"""The commands that start a host's ranks, and the processes that they become; whole runs are in test_runs.py."""

import cProfile
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from launcher import agent, hostfile, plan, process
from mux.plan import Host, Plan
from mux.recipe import load
from mux.run import RunDirectory

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def planned(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cluster = hostfile.read(ROOT / "hostfiles" / "8x_a100.txt")
    return plan.make(load(ROOT / "recipes" / "bert_large_n2.toml"), cluster, Path("runs/x y;z"))


def words_of(argv: list[str]) -> list[str]:
    """The agent's words behind an ssh."""
    words = shlex.split(argv[-1])
    return words[words.index("launcher.agent") + 1 :]


def places(words: list[str]) -> list[dict[str, str]]:
    """What the ranks that an agent starts find in their environment."""
    return agent.places(agent.arguments(words)[0])


def test_one_command_a_host(planned):
    hosts = [words_of(argv) for argv in process.host_commands(planned, planned.jobs[0], 12345)]
    assert len(hosts) == 8
    ranks = [rank for words in hosts for rank in places(words)]
    assert [rank["RANK"] for rank in ranks] == [str(rank) for rank in range(64)]
    assert [rank["LOCAL_RANK"] for rank in ranks] == [str(rank % 8) for rank in range(64)]
    shared = {"MASTER_ADDR": "a100-01", "MASTER_PORT": "12345", "WORLD_SIZE": "64", "LOCAL_SIZE": "8",
              "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
    assert all(rank | shared == rank for rank in ranks)
    assert hosts[3][hosts[3].index("--") + 1 :] == [sys.executable, "-u", "-m", "mux.worker", planned.directory, "0"]


def test_hosts_of_different_sizes(planned):
    hosts = tuple(host.model_copy(update={"slots": slots})
                  for host, slots in zip(planned.cluster.hosts, (2, 1, 3), strict=False))
    job = planned.jobs[0].model_copy(update={"hosts": hosts})
    ranks = [rank for argv in process.host_commands(planned, job, 1) for rank in places(words_of(argv))]
    assert [(rank["RANK"], rank["LOCAL_RANK"], rank["LOCAL_SIZE"], rank["WORLD_SIZE"]) for rank in ranks] == [
        ("0", "0", "2", "6"), ("1", "1", "2", "6"), ("2", "0", "1", "6"),
        ("3", "0", "3", "6"), ("4", "1", "3", "6"), ("5", "2", "3", "6")]


def calls(planned: Plan, count: int, device: str) -> int:
    """Function calls for the commands of so many hosts, what generators are asked for included."""
    hosts = tuple(Host(name=f"gpu-{number}", slots=2) for number in range(count))
    job = planned.jobs[0].model_copy(update={"hosts": hosts})
    cluster = planned.cluster.model_copy(update={"hosts": hosts, "device": device})
    profile = cProfile.Profile()
    profile.runcall(process.host_commands, planned.model_copy(update={"cluster": cluster, "jobs": (job,)}), job, 1)
    return sum(row.callcount for row in profile.getstats())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ten_times_the_hosts_take_ten_times_the_work(planned, device):
    assert calls(planned, 1000, device) < 11 * calls(planned, 100, device)


def test_no_word_is_left_to_a_remote_shell(planned, monkeypatch):
    monkeypatch.setenv("NCCL_DEBUG", "$(touch /tmp/owned); `id` 'x'")
    monkeypatch.setenv("HF_TOKEN", "secret")
    for argv in process.host_commands(planned, planned.jobs[0], 1):
        assert argv[:2] == ["ssh", "-T"] and argv[-3] == "--" and "secret" not in argv[-1]
        assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no", "PermitLocalCommand=no"} < set(argv)
        words = shlex.split(argv[-1])
        assert words[:3] == ["cd", str(Path.cwd()), "&&"] and words[3:5] == ["exec", "env"]
        assert "NCCL_DEBUG=$(touch /tmp/owned); `id` 'x'" in words and planned.directory in words
        assert words[words.index("launcher.agent") :][:3] == ["launcher.agent", "--silence", "40"]


def test_the_same_agent_on_every_host_however_it_is_reached(planned):
    hosts = (planned.cluster.hosts[0].model_copy(update={"local": True}), *planned.cluster.hosts[1:3])
    job = planned.jobs[0].model_copy(update={"hosts": hosts})
    for reach, remote in (("ssh", "ssh"), ("srun", "srun")):
        plan_ = planned.model_copy(update={"cluster": planned.cluster.model_copy(update={"reach": reach})})
        commands = process.host_commands(plan_, job, 1)
        assert [argv[0] for argv in commands] == [sys.executable, remote, remote]
        assert "--silence" not in commands[0] and all("--silence" in " ".join(argv) for argv in commands[1:])


def test_ranks_meet_at_a_name_that_all_of_them_know():
    here, there = Host(name="localhost", slots=1, local=True), Host(name="127.0.0.2", slots=1)
    named, far = Host(name="box7", slots=1, local=True), Host(name="gpu-02.no-such.invalid", slots=1)
    assert process.meeting((here,)) == process.meeting((far,)) == ["127.0.0.1"]
    assert process.meeting((named, far)) == ["box7", far.name]
    assert process.meeting((there, here)) == ["127.0.0.2", process.agent.own_address("127.0.0.2")]
    assert process.meeting((here, far)) == [socket.getfqdn(), far.name]  # only ssh knows it
    assert [process.peer(["a", "b", "c"], index) for index in range(3)] == ["b", "a", "a"]
    assert process.peer(["127.0.0.1"], 0) is None


def test_the_gpus_that_are_left_to_us_are_the_ones_we_take(planned, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc,7")
    job = planned.jobs[0].model_copy(update={
        "hosts": (planned.jobs[0].hosts[0].model_copy(update={"local": True, "slots": 2}), planned.jobs[0].hosts[1])})
    here, there = process.host_commands(planned, job, 1)
    assert "--devices=4,GPU-abc" in here and "--devices=0,1,2,3,4,5,6,7" in words_of(there)


def test_jobs_at_the_same_time_never_meet_at_one_port(planned):
    """However often they draw."""
    jobs = [planned.jobs[0].model_copy(update={"first_rank": rank}) for rank in range(64)]
    drawn = [{process.draw_port(planned, job) for _ in range(40)} for job in jobs]
    assert len(set().union(*drawn)) == sum(map(len, drawn)) > 64 * 20
    assert all(1024 < port < 32768 for ports in drawn for port in ports)


def test_a_port_that_is_taken_is_no_failure(monkeypatch, planned, tmp_path):
    """The job starts at another one. Its ranks are of no concern: they find no plan, and end."""
    with socket.socket() as holder:
        holder.bind(("", 0))
        drawn = iter([holder.getsockname()[1], process.draw_port(planned, planned.jobs[0])])
        monkeypatch.setattr(process, "draw_port", lambda *job: next(drawn))
        run = RunDirectory(tmp_path)
        run.create()
        host = Host(name="here", slots=2, local=True)
        job = planned.jobs[0].model_copy(update={"hosts": (host,)})
        started = process.JobProcesses(planned.model_copy(update={"directory": str(tmp_path)}), job, run)
        try:
            while (code := started.poll()) is None:
                time.sleep(0.02)
        finally:
            started.kill()
        assert code == 1 and next(drawn, None) is None
        log = run.node_log("here", job).read_text()
        assert f"port {holder.getsockname()[1]} is taken" in log and "plan.json" in log


def living(process_: subprocess.Popen) -> list[psutil.Process]:
    return [one for one in [psutil.Process(process_.pid), *psutil.Process(process_.pid).children(recursive=True)]
            if one.status() != psutil.STATUS_ZOMBIE]


def test_a_tree_that_does_not_listen_is_killed():
    """An agent that was stopped, with what it has started."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    host = Host(name="localhost", slots=1, local=True)
    started = process.start(process.agent_command(host, None, sleeper), subprocess.DEVNULL, dict(os.environ))
    while len(living(started)) < 2:
        assert started.poll() is None
    whole = living(started)
    started.send_signal(signal.SIGSTOP)
    process.kill_tree(started)
    assert started.returncode == -signal.SIGKILL
    psutil.wait_procs(whole, timeout=20)
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in whole)


def test_a_word_is_never_waited_for():
    """To one that reads nothing, and to one that has ended."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    started = process.start(sleeper, subprocess.DEVNULL, dict(os.environ))
    for _ in range(30):
        process.tell(started, b"." * 4096)
    started.kill()
    started.wait()
    process.tell(started, b".")
    process.kill_tree(started)
    process.tell(started, b".")
