"""Ranks that stand still: stopped by a signal, or waiting for ever."""

import signal
import time

import pytest

from tests.conftest import Run
from tests.faults.conftest import ALONE, LONG, gone_within

pytestmark = pytest.mark.processes

SOON = "--set=cluster.heartbeat_seconds=5"


@pytest.mark.thorough  # tests/launcher/test_supervisor.py has one with more faults
@pytest.mark.fault("SIGSTOP of a rank")
def test_a_stopped_rank_is_named_and_the_job_started_again(run: Run, undisturbed) -> None:
    process = run.start(SOON, "--set=cluster.max_restarts=1", recipe=ALONE)
    run.wait_for_a_step(process)
    run.ranks()[1].send_signal(signal.SIGSTOP)
    failed = run.wait_for(lambda event: event["event"] == "JobFailed", process)
    assert (failed["kind"], failed["by"]) == ("silent", 1) and failed["on"], failed
    assert process.wait(timeout=120) == 0, run.output()
    assert run.losses("pretrain") == undisturbed()


@pytest.mark.thorough
@pytest.mark.fault("SIGSTOP of a rank")
def test_without_restarts_the_run_ends(run: Run) -> None:
    process = run.start(SOON, LONG, recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "StepDone", process)
    run.ranks()[0].send_signal(signal.SIGSTOP)
    assert process.wait(timeout=60) == 1, run.output()
    assert run.events("RunFailed") and run.events("JobFailed")[-1]["by"] == 0
    gone_within(run, 10)


@pytest.mark.thorough
@pytest.mark.fault("SIGSTOP of an agent")
@pytest.mark.parametrize("rank_too", [False, True])
def test_a_stopped_agent(run: Run, undisturbed, rank_too: bool) -> None:
    """Its ranks go on without it, and are ended in its place; so they are if one of them is killed, which it cannot
    tell."""
    process = run.start(SOON, "--set=cluster.max_restarts=1", recipe=ALONE)
    run.wait_for_a_step(process)
    run.parts()["agent"][0].suspend()
    if rank_too:
        run.ranks()[1].kill()
    assert process.wait(timeout=200) == 0, run.output()
    assert [(event["kind"], event["by"]) for event in run.events("JobFailed")] == [("silent", 1)] * rank_too
    assert run.losses("pretrain") == undisturbed()
    gone_within(run, 10)


@pytest.mark.thorough
@pytest.mark.fault("SIGSTOP of a rank")
def test_a_stop_that_a_rank_cannot_hear(run: Run) -> None:
    """Ctrl-C of a run with a stopped rank: it cannot save, and says so instead of waiting."""
    process = run.start(SOON, LONG, recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "CheckpointSaved", process)
    run.ranks()[1].send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 1, run.output()
    gone_within(run, 10)
