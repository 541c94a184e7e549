"""The commands that start a host's ranks; the real processes are in test_runs.py."""

import base64
import json
import shlex
import socket
from pathlib import Path

import pytest

from launcher import hostfile, plan, process
from mux.recipe import load
from mux.run import Host

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def planned(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cluster = hostfile.read(ROOT / "hostfiles" / "8x_a100.txt")
    return plan.make(load(ROOT / "recipes" / "bert_large_n2.toml"), cluster, Path("runs/x y;z"))


def world(argv):
    (encoded,) = [word.split("=", 1)[1] for word in argv if word.startswith("--world_info=")]
    return json.loads(base64.urlsafe_b64decode(encoded))


def test_one_command_a_host(planned):
    argv = process.node_command(planned, planned.jobs[0], 3, "a100-01", 12345)
    assert world(argv) == {f"a100-0{i}": list(range(8)) for i in range(1, 9)}
    assert "--node_rank=3" in argv and "--master_port=12345" in argv
    assert argv[-4:] == ["--module", "mux.worker", planned.directory, "0"]


def test_no_word_is_left_to_a_remote_shell(planned, monkeypatch):
    monkeypatch.setenv("NCCL_DEBUG", "$(touch /tmp/owned); `id` 'x'")
    monkeypatch.setenv("HF_TOKEN", "secret")
    for argv in process.host_commands(planned, planned.jobs[0], 1):
        assert argv[0] == "ssh" and argv[-3] == "--" and "secret" not in argv[-1]
        words = shlex.split(argv[-1])
        assert words[:3] == ["cd", str(Path.cwd()), "&&"] and words[3:5] == ["exec", "env"]
        assert "NCCL_DEBUG=$(touch /tmp/owned); `id` 'x'" in words and planned.directory in words


def test_the_gpus_that_are_left_to_us_are_the_ones_we_take(planned, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc,7")
    job = planned.jobs[0].model_copy(update={
        "hosts": (planned.jobs[0].hosts[0].model_copy(update={"local": True, "slots": 2}), planned.jobs[0].hosts[1])})
    argv = process.node_command(planned, job, 0, "a100-01", 1)
    assert world(argv) == {"a100-01": ["4", "GPU-abc"], "a100-02": list(range(8))}


def test_jobs_at_the_same_time_never_meet_at_one_port(planned):
    """However often they draw, and on whatever host: here on this one, with ports that are taken already."""
    hosts = {"remote": planned.cluster.hosts[0], "local": Host(name="here", slots=1, local=True)}
    for host in hosts.values():
        jobs = [planned.jobs[0].model_copy(update={"hosts": (host,), "first_rank": rank}) for rank in range(64)]
        drawn = [{process.free_port(planned, job) for _ in range(40)} for job in jobs]
        assert len(set().union(*drawn)) == sum(map(len, drawn)) > 64 * 20
        assert all(1024 < port < 32768 for ports in drawn for port in ports)


def test_a_port_that_is_taken_is_not_drawn(monkeypatch, planned):
    monkeypatch.setattr(process, "PORTS", 128)  # two for each of 64 devices
    job = planned.jobs[0].model_copy(update={"hosts": (Host(name="here", slots=1, local=True),), "first_rank": 7})
    taken = process.free_port(planned, job)
    with socket.socket() as holder:
        holder.bind(("", taken))
        assert {process.free_port(planned, job) for _ in range(20)} == {2 * process.FIRST_PORT + 78 - taken}


@pytest.mark.parametrize(("code", "said"), [(1, "exit code 1"), (-9, "SIGKILL"), (137, "SIGKILL"), (247, "SIGKILL")])
def test_how_a_process_ended_in_words(code, said):
    from launcher.attempt import signal_name

    assert signal_name(code) == said
