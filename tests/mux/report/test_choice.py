from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mux.report.choice import QUANTITIES, Choice, Condition, choose, commands
from mux.report.frontier import frontier
from mux.report.points import Point


def point(accuracy: float, speed: float, latency: float | None = None, **more: object) -> Point:
    values: dict[str, object] = {"task": "sst2", "tasks": ("sst2",), "total_error": 0.02}
    return Point(accuracy=accuracy, instances_per_second=speed, latency_ms=latency,
                 **(values | more))  # type: ignore[arg-type]


def only(choices: list[Choice]) -> Choice:
    (choice,) = choices
    return choice


A, B, C, BEATEN = point(0.93, 100.0, 20.0), point(0.91, 200.0, 22.0), point(0.85, 900.0, 30.0), point(0.84, 150.0, 9.0)


def test_accuracy_first_gives_the_fastest_that_is_accurate_enough() -> None:
    assert only(choose([A, B, C, BEATEN], [Condition("accuracy", 0.9)])).models == (B, A)
    assert only(choose([A, B, C, BEATEN], [Condition("accuracy", 0.91)])).models == (B, A)  # at least


def test_throughput_first_gives_the_most_accurate_that_is_fast_enough() -> None:
    assert only(choose([A, C, B, BEATEN], [Condition("throughput", 120.0)])).models == (B, C)
    both = [Condition("throughput", 120.0), Condition("accuracy", 0.9)]
    assert only(choose([A, B, C, BEATEN], both)).models == (B,)


def test_a_bound_on_latency_may_need_a_model_that_is_beaten_in_both() -> None:
    assert BEATEN not in frontier([A, B, C, BEATEN])
    assert only(choose([A, B, C, BEATEN], [Condition("latency", 10.0)])).models == (BEATEN,)
    assert only(choose([A, B, C, BEATEN], [Condition("latency", 25.0)])).models == (A, B)
    assert only(choose([point(0.9, 1.0)], [Condition("latency", 1e9)])).models == ()  # not measured


def test_when_nothing_does_the_nearest_of_each_condition_is_named() -> None:
    conditions = [Condition("accuracy", 0.95), Condition("throughput", 500.0), Condition("latency", 5.0)]
    choice = only(choose([A, B, C, BEATEN], conditions))
    assert choice.models == () and dict(choice.nearest) == dict(zip(conditions, (A, C, BEATEN), strict=True))
    assert only(choose([point(0.9, 1.0)], [Condition("latency", 5.0)])).nearest == ()


def test_tasks_and_devices_are_questions_of_their_own() -> None:
    other, gpu = point(0.5, 1.0, task="rte"), point(0.99, 9999.0, device="NVIDIA H200")
    choices = choose([A, other, gpu], [Condition("accuracy", 0.6)])
    assert [(choice.task, choice.device, choice.models) for choice in choices] == [
        ("sst2", "", (A,)), ("rte", "", ()), ("sst2", "NVIDIA H200", (gpu,))]


def test_confidence_is_the_share_of_the_normal_distribution_on_the_good_side() -> None:
    fast = point(0.9, 1000.0, 20.0, throughput_low=932.551, throughput_high=1067.449, latency_low=19.0,
                 latency_high=21.0)
    assert Condition("accuracy", 0.88).confidence(fast) == pytest.approx(NormalDist().cdf(1.0))
    assert Condition("accuracy", 0.94).confidence(fast) == pytest.approx(NormalDist().cdf(-2.0))
    assert Condition("throughput", 900.0).confidence(fast) == pytest.approx(NormalDist().cdf(1.0), abs=1e-4)
    assert Condition("throughput", 1067.449).confidence(fast) == pytest.approx(0.25, abs=1e-4)  # a quartile
    assert Condition("latency", 21.0).confidence(fast) == pytest.approx(0.75)
    assert Condition("throughput", 1.0).confidence(A) is None and Condition("latency", 1.0).confidence(A) is None
    sure = point(0.9, 1.0, total_error=0.0)
    assert [Condition("accuracy", bound).confidence(sure) for bound in (0.9, 0.91)] == [1.0, 0.0]


NUMBER = st.floats(0, 10)
POINTS = st.lists(st.builds(point, NUMBER, NUMBER, st.none() | NUMBER), min_size=1, max_size=15)


@given(POINTS, NUMBER, NUMBER, st.booleans(), st.booleans())
def test_accuracy_and_throughput_choose_from_the_frontier_of_all(
    points: list[Point], accuracy: float, speed: float, bound_accuracy: bool, bound_speed: bool
) -> None:
    conditions = [Condition("accuracy", accuracy)] * bound_accuracy + [Condition("throughput", speed)] * bound_speed
    expected = [one for one in frontier(points) if all(condition.holds(one) for condition in conditions)]
    models = only(choose(points, conditions)).models
    assert sorted(map(id, models)) == sorted(map(id, expected))
    best = "throughput" if bound_accuracy else "accuracy"
    values = [QUANTITIES[best].value(one) or 0.0 for one in models]
    assert values == sorted(values, reverse=True)


@given(POINTS, NUMBER)
def test_confidence_is_a_probability_that_falls_as_the_bound_rises(points: list[Point], bound: float) -> None:
    for one in points:
        low, high = (Condition("accuracy", at).confidence(one) for at in (bound, bound + 0.5))
        assert low is not None and high is not None and 0 <= high <= low <= 1 and not math.isnan(low)


def test_commands_are_what_a_shell_reads() -> None:
    one = point(0.9, 1.0, run="runs/a b", name="x", stage="finetune", copies=2)
    assert commands(one) == [
        "mux predict 'runs/a b' texts.jsonl --stage finetune --task sst2 --copies 2 --output predicted.jsonl",
        "mux export 'runs/a b' models/x-sst2 --stage finetune --task sst2"]
    average = point(0.9, 1.0, run="r", name="x", stage="f", task="token", tasks=("ner", "pos"))
    assert [line.split()[1] for line in commands(average)] == ["predict", "export"] * 2
    assert "--copies" not in commands(average)[0]
