import pytest

from mux.train.schedule import Schedule


def test_linear_up_and_down():
    schedule = Schedule(peak=1.0, warmup=4, total=12)
    assert [schedule(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert schedule(8) == 0.5
    assert schedule(11) == pytest.approx(0.125)
    assert schedule(12) == 0.0


def test_without_warmup_it_starts_at_the_peak():
    assert Schedule(peak=2.0, warmup=0, total=4)(0) == 2.0


def test_all_warmup():
    assert Schedule(peak=2.0, warmup=4, total=4)(3) == 2.0
