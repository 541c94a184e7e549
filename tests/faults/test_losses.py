"""Losses that are not what they should be, in live runs."""

import pytest

from tests.conftest import Run
from tests.faults.conftest import ALONE

pytestmark = [pytest.mark.processes, pytest.mark.fault("NaN or spike")]

DIVERGING = ("--set=stages.pretrain.learning_rate=1e30", "--set=stages.pretrain.warmup_steps=0",
             "--set=engine.gradient_clipping=0.0", "--set=stages.pretrain.save_every=1")


def test_nan_stops(run: Run) -> None:
    done = run.launch(*DIVERGING, "--set=cluster.max_restarts=3", recipe=ALONE)
    assert done.returncode == 1, done.stdout
    assert [event["kind"] for event in run.events("JobFailed")] == ["loss"]
    assert "not finite" in done.stdout and len(run.events("JobStarted")) == 1, done.stdout


@pytest.mark.thorough
def test_nan_rolls_back_until_it_is_enough(run: Run) -> None:
    done = run.launch(*DIVERGING, '--set=health.policy="rollback"', "--set=health.rollbacks=2",
                      "--set=cluster.max_restarts=3", recipe=ALONE)
    assert done.returncode == 1 and len(run.events("JobStarted")) == 1, done.stdout
    assert [event["rollbacks"] for event in run.events("RolledBack")] == [1, 2]
    assert [event["kind"] for event in run.events("JobFailed")] == ["loss"]


def test_a_spike_rolls_back(run: Run) -> None:
    """A factor that ordinary noise reaches now and then: the run passes over what led there, and ends."""
    done = run.launch('--set=health.policy="rollback"', "--set=health.spike=1.006", "--set=health.rollbacks=1000",
                      "--set=stages.pretrain.learning_rate=1e-6", recipe=ALONE)
    assert done.returncode == 0, done.stdout
    assert run.events("RolledBack"), "the factor is too large for this recipe's noise"
    assert run.events("StepDone")[-1]["step"] == 60
