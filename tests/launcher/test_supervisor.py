"""What the supervisor does with a run that does not go on as it should."""

import fcntl
import signal
import time

import pytest

from mux.event import StepDone, StopAgreed
from mux.journal import EventWriter
from mux.run import RunDirectory
from tests.conftest import Run

pytestmark = pytest.mark.processes

ALONE = "tests/recipes/pretrain_alone.toml"
STEPS = "--set=stages.pretrain.steps=100"


@pytest.mark.fault("rank stopped, rank and agent killed")
def test_whatever_is_killed_the_run_ends_as_if_nothing_had_been(run, tmp_path, cache) -> None:
    """A rank stopped, one killed, and the agent killed, each in a start of its own; each time the launcher says what it
    was and goes on from the newest checkpoint, until the losses are those of a quiet run."""
    quiet = Run(tmp_path / "quiet", cache)
    assert quiet.launch(STEPS, recipe=ALONE).returncode == 0
    process = run.start(STEPS, "--set=cluster.max_restarts=1", "--set=cluster.heartbeat_seconds=10", recipe=ALONE)
    faults = [("rank", signal.SIGSTOP, "silent"), ("rank", signal.SIGKILL, "killed"), ("agent", signal.SIGKILL, "host")]
    for number, (part, how, kind) in enumerate(faults, start=1):
        saved = len(run.events("CheckpointSaved"))
        run.wait_for_events("JobStarted", process, more_than=number - 1)
        run.wait_for_events("CheckpointSaved", process, more_than=saved)  # progress: it is never the second failure
        run.parts()[part][-1].send_signal(how)
        run.wait_for_events("JobFailed", process, more_than=number - 1)
        failed = run.events("JobFailed")[-1]
        assert (failed["kind"], failed["on"]) == (kind, "localhost"), failed
        assert part != "rank" or failed["by"] == 1, failed
    assert process.wait(timeout=200) == 0, run.output()
    assert [event["failures"] for event in run.events("Restarting")] == [1] * len(faults)
    assert run.losses("pretrain") == quiet.losses("pretrain")
    assert not run.processes()


def test_a_standstill_is_told_from_a_wait(run) -> None:
    """Rank 0 waits for a lock that is never let go; its heartbeat goes on, and so does that of the other rank."""
    directory = RunDirectory(run.path)
    directory.create()
    with open(directory.data_lock, "wb") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        process = run.start("--set=cluster.stall_seconds=10", recipe=ALONE)
        assert process.wait(timeout=200) == 1, run.output()
    failed = run.events("JobFailed")[-1]
    assert (failed["kind"], failed["on"]) == ("stalled", "localhost"), failed
    assert "no rank has come further" in failed["text"] and "note_data" in failed["text"], failed
    assert run.events("RunFailed")[-1]["reason"] == failed["text"] and not run.processes()


def test_a_stop_ends_the_wait_for_the_next_start(run) -> None:
    process = run.start("--set=cluster.max_restarts=3", "--set=stages.pretrain.steps=100000", recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "CheckpointSaved", process)
    process.send_signal(signal.SIGTSTP)  # Ctrl-Z: a launcher that is suspended would look dead to its agents
    run.ranks()[0].kill()
    run.wait_for(lambda event: event["event"] == "Restarting", process)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=60) == 75, run.output()
    assert len(run.events("JobStarted")) == 1
    assert "stopped on request (SIGUSR1)" in run.events("RunStopped")[-1]["reason"]


def test_a_rank_of_an_earlier_start_is_not_heard(run) -> None:
    """One behind a dead link goes on writing for a while after its job was started anew."""
    process = run.start("--set=cluster.max_restarts=1", "--set=stages.pretrain.steps=12", recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "StepDone" and event["step"] >= 7, process)
    late = EventWriter(RunDirectory(run.path).rank_events("localhost", 0), "localhost", 0)
    run.ranks()[1].kill()
    run.wait_for(lambda event: event["event"] == "JobStarted" and event["attempt"] == 2, process)
    while process.poll() is None:
        late.write(StepDone(stage="pretrain", step=12, steps=12, loss=99.0))
        late.write(StopAgreed(stage="pretrain", step=12))
        time.sleep(0.05)
    assert process.wait() == 0, run.output()
    assert not run.events("StopAgreed") and 99.0 not in [event["loss"] for event in run.events("StepDone")]
    again = run.launch("--set=cluster.max_restarts=1", "--set=stages.pretrain.steps=12", recipe=ALONE)
    assert again.returncode == 0 and "finished" in again.stdout and not run.events("StopAgreed")


def test_a_signal_to_a_rank_is_heard_while_it_waits_for_another(run) -> None:
    """Rank 1 is inside a collective, for rank 0, which waits for a lock: the launcher hears of it all the same."""
    directory = RunDirectory(run.path)
    directory.create()
    with open(directory.data_lock, "wb") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        process = run.start(recipe=ALONE)
        run.wait_for(lambda event: event["event"] == "Heartbeat" and "note_data" in (event["where"] or ""), process)
        run.ranks()[1].send_signal(signal.SIGUSR1)
        heard = run.wait_for(lambda event: event["event"] == "RankSignalled", process)
        assert (heard["rank"], heard["signal"]) == (1, "SIGUSR1")
        run.wait_for(lambda event: event["event"] == "Notice" and event["text"].startswith("stopping"), process)
    assert process.wait(timeout=120) == 75, run.output()
    assert "rank 1 was sent SIGUSR1" in run.events("RunStopped")[-1]["reason"]


def test_a_stop_that_cannot_be_heard_is_not_said_to_be_saved(run) -> None:
    process = run.start("--set=cluster.heartbeat_seconds=5", "--set=cluster.max_restarts=3",
                        "--set=stages.pretrain.steps=100000", recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "CheckpointSaved", process)
    run.ranks()[1].suspend()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 1, run.output()
    assert "could not be saved: rank 1 on localhost has sent no heartbeat" in run.events("RunFailed")[-1]["reason"]
    assert len(run.events("JobStarted")) == 1 and not run.processes()
