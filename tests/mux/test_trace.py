"""Curves stay bounded, and one that goes on after a checkpoint is the one that was never interrupted."""

import json
import math

from mux.trace import POINTS, Curve


def grown(curve: Curve, steps: range) -> Curve:
    for step in steps:
        curve = curve.add(step, 5 / step, None if step % 3 else step / 1000)
    return curve


def test_a_curve_goes_on_from_json():
    whole, part = grown(Curve(), range(1, 700)), grown(Curve(), range(1, 333))
    again = Curve.from_json(json.loads(json.dumps(part.to_json())))
    assert again == part
    assert grown(again, range(333, 700)) == whole


def test_columns_are_of_one_length_and_bounded():
    columns = grown(Curve(), range(1, 5000)).columns()
    assert len({len(column) for column in columns.values()}) == 1
    assert POINTS / 2 <= len(columns["step"]) <= POINTS
    assert columns["step"] == sorted(set(columns["step"])) and columns["loss"] == sorted(columns["loss"], reverse=True)


def test_accuracy_is_missing_where_there_is_none():
    columns = Curve().add(1, 2.0, None).add(2, 1.0, 0.5).columns()
    assert columns == {"step": [1, 2], "loss": [2.0, 1.0], "accuracy": [None, 0.5]}
    assert Curve().columns() == {"step": [], "loss": [], "accuracy": []}


def test_a_loss_that_is_no_number_is_passed_over():
    curve = Curve().add(1, math.nan, 0.5).add(2, math.inf, 0.5).add(3, 1.0, 0.5)
    assert curve.columns()["step"] == [3]
    json.dumps(curve.columns(), allow_nan=False)


def test_accuracies_of_some_steps_stay_beside_their_losses():
    """Both are thinned out alike as long as both are there at every step."""
    curve = Curve()
    for step in range(1, 1000):
        curve = curve.add(step, 1 / step, step / 1000)
    assert None not in curve.columns()["accuracy"]
