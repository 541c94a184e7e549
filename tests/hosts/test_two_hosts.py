"""The real command on two real hosts: it finishes with the numbers of one host, and whatever ends it, no process of it
is left anywhere."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT, Run

pytestmark = [pytest.mark.multihost, pytest.mark.processes]

STAGE = ("--stages", "retrieval")
LONG = (*STAGE, "--set", "stages.retrieval.steps=100_000", "--set", "stages.retrieval.save_every=100_000")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # a sum over other threads is another one in its last bit
HOSTILE = "$(touch {0}/a) `touch {0}/b` '; touch {0}/c; ' \" && touch {0}/d #\n touch {0}/e %h"


@pytest.fixture
def variables(whole) -> dict[str, str]:
    return whole.environment | ONE_THREAD


@pytest.fixture
def spread(run) -> Run:
    """A run over both hosts."""
    return run


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache) -> Run:
    """The same on this host, with as many processes."""
    made = Run(tmp_path_factory.mktemp("alone") / "run", cache)
    made.environment |= ONE_THREAD
    done = made.launch(*STAGE)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def on_hosts(hosts, *options: str) -> tuple[str, ...]:
    return (*options, "--hostfile", str(hosts.hostfile))


def under_way(run: Run, process) -> None:
    run.wait_for(lambda event: event["event"] == "StepDone" and event["step"] >= 20, process)


def agents(hosts, name: str) -> list[psutil.Process]:
    return [process for process in hosts.processes(name) if "launcher.agent" in process.cmdline()]


def test_two_hosts_compute_what_one_does(whole, spread, alone):
    done = spread.launch(*on_hosts(whole, *STAGE))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "asking 2 hosts ..." in done.stdout and "all-reduce over 2 hosts" in done.stdout
    assert "no host has a GPU: 2 ranks run on their CPUs" in done.stdout
    assert spread.events("RunFinished")
    assert {event["host"] for event in spread.events("RankStarted")} == set(whole.names)
    assert len(alone.losses("retrieval")) == 6 and spread.losses("retrieval") == alone.losses("retrieval")
    assert whole.emptied(seconds=5)
    further = spread.launch(*on_hosts(whole, *STAGE, "--set", "cluster.max_restarts=3"))
    assert further.returncode == 0 and "goes on with cluster.max_restarts = 3 (was 0)" in further.stdout


def test_nothing_that_is_said_is_a_command(whole, cache, tmp_path, monkeypatch):
    """Not the run directory, not a value, not a variable; and no secret is on any host."""
    traps = tmp_path / "traps"
    traps.mkdir()
    hostile = HOSTILE.format(traps)
    folder = tmp_path / hostile.replace("/", "_").replace("\n", " ")[-80:]  # a recipe refuses a path of two lines
    (folder / "%h $(touch x)").mkdir(parents=True)
    run = Run(folder / "run", cache)
    run.environment |= whole.environment
    run.environment |= {"NCCL_DEBUG": hostile, "HF_TOKEN": "hf_do_not_tell", "MY_PASSWORD": "do not"}
    process = run.start(*on_hosts(whole, *LONG, "--set", f"tasks.root={json.dumps(f'path:{folder}/%h $(touch x)')}"))
    under_way(run, process)
    assert all(len(whole.processes(name)) >= 2 for name in whole.names)
    for name in whole.names:
        for living in whole.processes(name):
            told = " ".join(living.cmdline()) + repr(living.environ())
            assert "do_not_tell" not in told and "do not" not in told and "MY_PASSWORD" not in told
        assert any(living.environ().get("NCCL_DEBUG") == hostile for living in whole.processes(name))
    process.terminate()
    assert process.wait(120) == 75, run.output()
    assert list(traps.iterdir()) == [] and whole.emptied(seconds=5)


# mux-launch where the first start of a job meets at the given port.
DRAWN = """
import sys
from launcher import entry, process
draw, drawn = process.draw_port, iter([int(sys.argv.pop(1))])
process.draw_port = lambda plan, job: next(drawn, None) or draw(plan, job)
entry.launch()
"""
HOLDER = "import socket, time; held = socket.create_server(('', 0)); print(held.getsockname()[1], flush=True); " \
         "time.sleep(600)"


@pytest.mark.fault("port taken on a remote host")
def test_a_port_that_is_taken_on_the_first_host(whole, spread, alone):
    """Somebody even answers there. The ranks meet at another one, and that is no failure."""
    first, second = whole.names
    with subprocess.Popen(["ip", "netns", "exec", whole.namespace(first), sys.executable, "-c", HOLDER],
                          stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        port = holder.stdout.readline().strip()
        words = [sys.executable, "-c", DRAWN, port, *spread.command(*on_hosts(whole, *STAGE))[1:]]
        done = subprocess.run(words, cwd=ROOT, env=spread.environment, capture_output=True, text=True, timeout=300)
        holder.kill()
    assert done.returncode == 0, done.stdout + done.stderr
    log = (spread.path / "logs" / f"{first}.0.node.log").read_text()
    assert f"port {port} is taken on {whole.namespace(first)}" in log
    assert len(spread.events("JobStarted")) == 1 and not spread.events("JobFailed", "RankFailed", "RankEnded")
    assert {event["host"] for event in spread.events("RankStarted")} == {first, second}
    assert spread.losses("retrieval") == alone.losses("retrieval") and whole.emptied(seconds=5)


@pytest.mark.fault("SIGKILL on two hosts")
@pytest.mark.parametrize("victim", ["launcher", "agent", pytest.param("rank", marks=pytest.mark.thorough)])
def test_no_process_outlives_a_killed_one(whole, spread, victim):
    process = spread.start(*on_hosts(whole, *LONG))
    under_way(spread, process)
    second = whole.names[1]
    if victim == "launcher":
        process.kill()
    else:
        (agent,) = agents(whole, second)
        os.kill(agent.pid if victim == "agent" else agent.children()[0].pid, signal.SIGKILL)
    assert process.wait(120) == (-signal.SIGKILL if victim == "launcher" else 1), spread.output()
    assert whole.emptied()
    if victim != "launcher":
        assert spread.events("RunFailed")


@pytest.mark.fault("link of a host down")
def test_a_host_that_is_cut_off(whole, spread):
    """The launcher ends and names it; its ranks end by themselves, since they hear nothing any more."""
    process = spread.start(*on_hosts(whole, *LONG))
    under_way(spread, process)
    first, second = whole.names
    whole.cut(second)
    assert process.wait(120) == 1, spread.output()
    assert second in spread.events("RunFailed")[-1]["reason"]
    assert whole.emptied(first) and whole.emptied(second, seconds=60)


@pytest.mark.fault("host down")
def test_a_host_that_is_down_is_left_out_where_the_recipe_allows_it(whole, spread):
    first, second = whole.names
    whole.cut(second)
    refused = spread.launch(*on_hosts(whole, *STAGE))
    assert refused.returncode == 2 and f"{second}: " in refused.stderr and not spread.path.exists()
    done = spread.launch(*on_hosts(whole, *STAGE, "--set", "cluster.min_hosts=1"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"the run goes on without host {second}" in done.stdout
    assert {event["host"] for event in spread.events("RankStarted")} == {first}
    assert Path(spread.path / "retrieval" / "model" / "config.json").exists()
