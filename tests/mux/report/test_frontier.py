from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from mux.report.frontier import frontier
from mux.report.points import Point

NUMBER = st.integers(0, 6).map(float) | st.floats(0, 10) | st.just(math.nan)
POINTS = st.lists(st.builds(Point, accuracy=NUMBER, instances_per_second=st.none() | NUMBER,
                            task=st.sampled_from(["a", "b"]), device=st.sampled_from(["cpu", "cuda"])), max_size=20)


def dominates(one: Point, other: Point) -> bool:
    """The definition."""
    first, second = [(point.accuracy, point.instances_per_second or 0.0) for point in (one, other)]
    return (one.comparable == other.comparable and all(a >= b for a, b in zip(first, second, strict=True))
            and first != second)


@given(POINTS)
def test_it_is_what_the_definition_says(points: list[Point]) -> None:
    known = [point for point in points if math.isfinite(point.accuracy)
             and point.instances_per_second is not None and math.isfinite(point.instances_per_second)]
    expected = [point for point in known if not any(dominates(other, point) for other in known)]
    found = frontier(points)
    assert sorted(map(id, found)) == sorted(map(id, expected))
    for one, other in itertools.pairwise(found):
        if one.comparable == other.comparable:
            assert (one.instances_per_second or 0.0) <= (other.instances_per_second or 0.0)
            assert one.accuracy >= other.accuracy


def test_a_few_points() -> None:
    def point(accuracy: float, speed: float, device: str = "cpu") -> Point:
        return Point(accuracy=accuracy, instances_per_second=speed, device=device)

    slow, fast, worse, twin = point(0.9, 1.0), point(0.8, 4.0), point(0.79, 4.0), point(0.9, 1.0)
    assert frontier([fast, worse, slow, twin]) == [slow, twin, fast]
    assert frontier([fast, worse, point(0.1, 0.1, "cuda")])[-1].device == "cuda"  # nobody to compare it with
    assert frontier([]) == []


def test_in_the_plane_of_ratios_the_ratio_counts_and_the_device_does_not() -> None:
    def point(accuracy: float, speed: float, ratio: float, device: str, dtype: str = "fp32") -> Point:
        return Point(accuracy=accuracy, instances_per_second=speed, ratio_to_bert_base=ratio, device=device,
                     dtype=dtype)

    best, beaten = point(0.9, 10.0, 4.0, "cpu"), point(0.8, 900.0, 2.0, "cuda")
    half, untimed = point(0.7, 950.0, 1.0, "cuda", "fp16"), Point(accuracy=0.99, instances_per_second=1e6)
    assert frontier([best, beaten, half, untimed], "ratio_to_bert_base") == [best, half]
    assert frontier([best, beaten]) == [best, beaten]  # instances/s of two devices are no matter of better
