"""Silence and standstill, by a clock that stands still while nobody looks."""

from dataclasses import dataclass

from launcher.liveness import Liveness
from mux.event import Event, Heartbeat, Progress, RankStarted

RANKS = [("a", 0), ("b", 1)]


@dataclass
class Watch:
    """A Liveness and the clock it is on."""

    now: float = 100.0

    def __post_init__(self) -> None:
        self.liveness = Liveness(RANKS, heartbeat_seconds=10, stall_seconds=60, clock=lambda: self.now)

    def wait(self, seconds: int, *said: Event) -> None:
        """A look a second, at each of which the ranks say the same."""
        for _ in range(seconds):
            self.now += 1
            self.liveness.look()
            for event in said:
                self.liveness.heard(event)


def beat(rank: int, step: int = 3, where: str | None = None) -> Heartbeat:
    return Heartbeat(host=RANKS[rank][0], rank=rank, stage="pretrain", step=step, memory_bytes=1, where=where)


def started() -> Watch:
    watch = Watch()
    watch.wait(1, *(RankStarted(host=host, rank=rank, pid=1, device="cpu", job=0) for host, rank in RANKS))
    return watch


def test_a_rank_without_a_heartbeat_is_silent() -> None:
    watch = started()
    watch.wait(10, beat(0))
    assert not watch.liveness.silent()
    watch.wait(1, beat(0))
    assert watch.liveness.silent() == {("b", 1): 11}
    watch.wait(1, beat(0), beat(1))
    assert not watch.liveness.silent()


def test_before_it_has_started_a_rank_may_be_silent_for_longer() -> None:
    watch = Watch()
    watch.wait(119, beat(0))
    assert not watch.liveness.all_started and not watch.liveness.silent()
    watch.wait(2, beat(0))
    assert watch.liveness.silent() == {("b", 1): 121}


def test_what_the_launcher_did_not_look_at_does_not_count() -> None:
    watch = started()
    watch.now += 10_000  # it was suspended
    watch.wait(9)
    assert not watch.liveness.silent() and watch.liveness.stalled() is None
    watch.wait(2)
    assert set(watch.liveness.silent()) == set(RANKS)


def test_heartbeats_alone_are_no_progress() -> None:
    watch = started()
    watch.wait(1, beat(0), beat(1))
    watch.wait(60, beat(0), beat(1, where="loop.py:7 agree"))
    assert watch.liveness.stalled() is None
    watch.wait(1, beat(0), beat(1))
    assert watch.liveness.stalled() == 61 and not watch.liveness.silent()
    assert watch.liveness.places == {("b", 1): "loop.py:7 agree"}
    watch.wait(1, beat(0), beat(1, step=4))
    assert watch.liveness.stalled() is None


def test_long_work_that_reports_is_no_standstill() -> None:
    watch = started()
    for done in range(20):
        watch.wait(10, beat(0), beat(1))
        watch.wait(1, Progress(host="a", rank=0, stage=None, what="tokenising", done=done, total=20))
    assert watch.liveness.stalled() is None
