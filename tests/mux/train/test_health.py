"""What a training judges by itself, and what follows, with a real small network."""

import pytest

from mux.train.health import FEWEST, RECENT, Health, Limits
from tests.mux.train.toy_job import job, losses, of, run

LIMITS = Limits(spike=3.0, overflows=4)


def logged(*values: float) -> Health:
    health = Health()
    for value in values:
        health = health.logged(value)
    return health


def test_a_spike_is_so_many_times_the_median_of_late():
    health = logged(*[2.0] * 9, 100.0)  # the median does not mind one
    assert health.spike(5.9, LIMITS) is None
    assert "the loss is 6.1, 3.05 times its median" in health.spike(6.1, LIMITS)
    assert health.spike(6.1, Limits()) is None  # nothing is one unless the recipe says so
    assert logged(*[2.0] * (FEWEST - 1)).spike(100.0, LIMITS) is None
    assert logged(*[2.0] * FEWEST).spike(100.0, LIMITS)


def test_what_is_long_ago_or_no_number_does_not_count():
    assert logged(*[50.0] * 30, *[2.0] * RECENT).spike(7.0, LIMITS)
    assert len(logged(*[1.0] * 100).recent) == RECENT
    assert logged(2.0, float("inf"), float("nan")).recent == (2.0,)


def test_overflows_count_while_they_are_in_a_row():
    health = Health()
    for overflowed in (True, True, True, False, True, True, True):
        health = health.stepped(overflowed)
        assert health.too_many_overflows(LIMITS) is None
    assert "4 steps in a row" in health.stepped(True).too_many_overflows(LIMITS)


def test_a_checkpoint_keeps_it():
    health = logged(1.5, 2.5).stepped(True)
    assert Health.from_json(health.to_json()) == health


ROLLBACK = {"policy": "rollback"}
JOBS = {  # of one rank
    "weights": {"edges": [9], "zero_stage": 0},  # at the others DeepSpeed skips such a step
    **{f"zero {stage}": {"poisoned": [7, 9], "limits": ROLLBACK, "zero_stage": stage, "log_every": 2}
       for stage in (0, 1, 3)},
    "spikes": {"louder": [7, 9, 12], "limits": ROLLBACK | {"rollbacks": 2, "spike": 5.0}},
    "overflows": {"precision": "fp16", "overflow": True, "steps": 60, "save_every": 50, "limits": {"overflows": 6}},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """case -> (what was said, the folder)."""
    folder = tmp_path_factory.mktemp("health")
    jobs = {case: job(folder / case, **options) for case, options in JOBS.items()}
    for case in ("zero 1", "zero 3"):  # killed after the rollbacks, and gone on
        jobs[f"{case}, killed"] = job(folder / f"{case}, killed", **JOBS[case], die_at=9)
        jobs[f"{case}, again"] = job(folder / f"{case}, killed", **JOBS[case])
    return {case: (said, folder / case) for case, said in zip(jobs, run(1, *jobs.values()), strict=True)}


@pytest.mark.processes
def test_all_ranks_end_at_a_loss_that_is_no_number_and_leave_the_good_checkpoint(tmp_path):
    stopped, rolled = run(2, job(tmp_path / "stop", poisoned=[7]),
                          job(tmp_path / "roll", poisoned=[1], limits=ROLLBACK))
    assert stopped[-1]["end"] == ("LossError: toy: the loss is not finite (nan) at step 8; the last good checkpoint is "
                                  "of step 5")
    assert [path.name for path in (tmp_path / "stop").glob("step_*")] == ["step_00000005"]
    assert max(losses(stopped)) == 7
    [back] = of("RolledBack", rolled)  # before the first checkpoint: to the beginning
    assert (back["step"], back["to_step"]) == (2, 0) and rolled[-1]["end"] == "finished"
    assert "not finite" in back["reason"] and set(losses(rolled)) == set(range(1, 13))


@pytest.mark.processes
def test_nothing_is_saved_once_weights_are_no_numbers(trained):
    """Although the loss is one still: it is of the weights before."""
    said, folder = trained["weights"]
    assert "there are weights that are not finite at step 10; the last good" in said[-1]["end"]
    assert max(losses(said)) == 9
    assert [path.name for path in folder.glob("step_*")] == ["step_00000005"]


@pytest.mark.processes
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_rollback_passes_over_the_batches_that_led_to_it(trained, stage):
    said, _ = trained[f"zero {stage}"]
    assert said[-1]["end"] == "finished"
    back = of("RolledBack", said)
    assert [(event["step"], event["to_step"], event["rollbacks"]) for event in back] == [(8, 5, 1), (8, 5, 2)]
    assert set(losses(said)) == {2, 4, 6, 8, 10, 12}


@pytest.mark.processes
@pytest.mark.parametrize("stage", [1, 3])
def test_who_is_killed_after_a_rollback_comes_to_the_same_losses(trained, stage):
    said, again = trained[f"zero {stage}"][0], trained[f"zero {stage}, again"][0]
    assert len(of("RolledBack", again)) == 2 and again[-1] == said[-1]
    assert losses(again).items() <= losses(said).items() and min(losses(again)) == 6


@pytest.mark.processes
def test_spikes_are_rolled_back_as_often_as_allowed(trained):
    said, _ = trained["spikes"]
    reasons = [event["reason"] for event in of("RolledBack", said)]
    assert len(reasons) == 2 and all("times its median of late" in reason for reason in reasons)
    assert said[-1]["end"].endswith("after 2 rollbacks; the last good checkpoint is of step 5")


@pytest.mark.processes
def test_overflows_at_the_smallest_scale_end_the_training(trained):
    """DeepSpeed itself would fail at the first."""
    said, _ = trained["overflows"]
    assert "6 steps in a row were skipped" in said[-1]["end"]
    assert of("StepDone", said)[-1]["loss_scale"] == 1.0
