"""Which compositions help: only differences beyond the noise of the tickets count."""

import json

import pytest

from mux.report.results import read_runs
from mux.report.sections import composition


def found(maker, compositions, tickets=4):
    """The section on a run whose compositions have these means and standard deviations, by task."""
    path = maker.run("bert_base_n2", 2, tasks=["sst2", "mrpc"])
    results = json.loads((path / "results.json").read_text())
    stage = next(stage for stage in results["stages"] if stage["kind"] == "evaluate")
    stage["compositions"] = {
        name: {"tasks": {task: {"metric": "accuracy", "mean": mean, "std": std, "tickets": [mean] * tickets}
                         for task, (mean, std) in of.items()}} for name, of in compositions.items()}
    (path / "results.json").write_text(json.dumps(results))
    return composition.section(read_runs([path]))


RANDOM = {"sst2": (0.80, 0.004), "mrpc": (0.70, 0.004)}


def summary(section):
    table = next(table for table in section.tables if table.name == "composition_summary")
    return {row[1].text: dict(zip(table.columns, [cell.text for cell in row], strict=True)) for row in table.rows}


def test_differences_within_noise_are_no_gains(maker):
    # One standard error of a difference: 100 sqrt(2 x 0.004^2 / 4) = 0.283 points; of the mean of two tasks 0.2.
    section = found(maker, {"random": RANDOM, "length": {"sst2": (0.8050, 0.004), "mrpc": (0.7060, 0.004)},
                            "similar": {"sst2": (0.79, 0.004), "mrpc": (0.705, 0.004)},
                            "dissimilar": {"sst2": (0.794, 0.004), "mrpc": (0.69, 0.004)}})
    rows = summary(section)
    assert [(row["tasks that gain"], row["tasks that lose"]) for row in rows.values()] == [
        ("0", "0"), ("1", "0"), ("0", "1"), ("0", "2")]
    assert rows["length"]["over random, points"] == "0.55 ±0.20"
    assert section.lead.endswith(
        "length +0.55 ± 0.20 points, helps; similar \N{MINUS SIGN}0.25 ± 0.20 points, within noise; "
        "dissimilar \N{MINUS SIGN}0.80 ± 0.20 points, hurts.")


@pytest.mark.parametrize("tickets", [0, 1])
def test_one_ticket_proves_nothing(maker, tickets):
    section = found(maker, {"random": RANDOM, "length": {"sst2": (0.9, 0.0), "mrpc": (0.9, 0.0)}}, tickets)
    assert summary(section)["length"]["tasks that gain"] == "0"
    assert "length +15.00 (one ticket) points, within noise" in section.lead


def test_without_random_groups_nothing_is_said(maker):
    assert composition.section(read_runs([maker.run("n1", 1, tasks=["sst2"])])).empty
    section = found(maker, {"length": RANDOM})
    assert section.lead.endswith("hold nothing.") and not section.empty
