"""How often a job may start again."""

from launcher.phase import Restarts
from mux.event import CheckpointSaved, Event, RolledBack, StageDone
from mux.plan import Host, JobPlan

JOB = JobPlan(id=0, phase=0, stages=("pretrain",), hosts=(Host(name="a", slots=1),))


def saved(step: int) -> CheckpointSaved:
    return CheckpointSaved(stage="pretrain", step=step, path="x", bytes=1, seconds=1.0)


def after(restarts: Restarts, *said: Event) -> int | None:
    """A start in which so much is said, and which then fails: failures without progress until now; None: too many."""
    restarts.started(JOB)
    again = restarts.after(JOB, any([restarts.further(event) for event in said]))
    return again.failures if again else None


def test_progress_is_what_was_never_reached_before():
    restarts = Restarts(most=2)
    assert [after(restarts, saved(10)), after(restarts, saved(20)), after(restarts)] == [1, 1, 2]
    assert after(restarts, StageDone(stage="pretrain", result={}, seconds=1.0)) == 1
    assert [after(restarts, saved(20)), after(restarts, saved(21))] == [2, 1]


def test_the_bound_holds_where_every_start_rolls_back():
    """Each saves again what was saved before the rollback: that is no progress, and the loop ends."""
    restarts = Restarts(most=3)
    back = RolledBack(stage="pretrain", step=12, to_step=5, reason="a spike", rollbacks=1)
    assert after(restarts, saved(5), saved(10), back) == 1
    assert [after(restarts, back, saved(step)) for step in (6, 8, 10)] == [2, 3, None]
