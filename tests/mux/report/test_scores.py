"""Scores of runs side by side, what of their differences is noise, and what each run cost."""

import json
import math

import pytest
from scipy.stats import ttest_ind_from_stats

from mux.report.results import read_runs
from mux.report.scores import Scores
from mux.report.sections import budget, curves, scores
from mux.report.sections.scores import Score, score_of


def of(**values) -> Scores:
    return Scores.model_validate({"metric": "accuracy", "test_rows": 10_000_000, **values})


def test_seeds_count_where_there_are_several_and_else_tickets():
    seeds = score_of(of(mean=0.9, std=0.1, tickets=[0.8, 1.0], seeds={"0": 0.9, "1": 0.6, "2": 0.6}))
    assert (seeds.mean, seeds.drawn) == (pytest.approx(0.7), 3) and seeds.spread == pytest.approx(0.1732, abs=1e-4)
    tickets = score_of(of(mean=0.9, std=0.1414, tickets=[0.8, 1.0], seeds={"0": 0.9}))
    assert (tickets.mean, tickets.drawn, tickets.spread) == pytest.approx((0.9, 2, 0.1414), abs=1e-4)
    alone = score_of(of(mean=0.9, std=0.0, tickets=[0.9, 0.9], seeds={"0": 0.9}))
    assert (alone.mean, alone.spread, alone.variance) == (pytest.approx(0.9), None, 0)  # not "± 0.0": nothing was drawn
    assert score_of(of()) is None


def test_noise_is_what_welchs_test_calls_so():
    one, other = Score(0.80, 0.010, 3, 0.0), Score(0.75, 0.030, 5, 0.0)
    for difference in (0.02, 0.03, 0.04, 0.05):
        p = ttest_ind_from_stats(0, one.spread, 3, difference, other.spread, 5, equal_var=False).pvalue
        assert (difference <= one.noise(other)) == (p >= 0.05)
    rows = Score(0.8, None, 1, 0.003)
    assert rows.noise(rows) == pytest.approx(1.96 * 0.003 * math.sqrt(2), rel=1e-3)


def table(maker, build, *runs):
    made = build(read_runs(runs))
    found = made.tables[0] if hasattr(made, "tables") else made
    return [dict(zip(found.columns, (cell.text for cell in row), strict=True)) for row in found.rows]


def changed(path, seeds):
    results = json.loads((path / "results.json").read_text())
    for stage in results["stages"]:
        for task in stage.get("tasks", {}).values():
            task["seeds"] = dict(zip("012", seeds, strict=False))
    (path / "results.json").write_text(json.dumps(results))
    return path


def test_where_a_model_was_pre_trained_that_was_not_pre_trained_here(maker):
    path = maker.run("taught", 1, tasks=["sst2"])
    for name in ("plan.json", "results.json"):
        content = json.loads((path / name).read_text())
        content["stages"] = [stage for stage in content["stages"] if stage["kind"] != "pretrain"]
        (path / name).write_text(json.dumps(content))
    for source, says in ((None, "none"), ("run:runs/other", "run:runs/other")):
        plan = json.loads((path / "plan.json").read_text())
        plan["stages"][0]["source"] = source
        (path / "plan.json").write_text(json.dumps(plan))
        ours, _ = table(maker, budget.table, path)
        assert ours["steps: retrieval + pre-training"] == says


def test_before_fine_tuning_every_column_has_its_number(maker):
    path = maker.run("two", 2, tasks=["sst2"])
    results = json.loads((path / "results.json").read_text())
    results["stages"][1] |= {"accuracy": 0.25, "retrieval_accuracy": 0.5}
    (path / "results.json").write_text(json.dumps(results))
    primed, trained = table(maker, curves.section, path)
    assert (primed["stage"], primed["accuracy %"], primed["tokens found again %"]) == ("retrieval", "99.0", "–")
    assert (trained["stage"], trained["accuracy %"], trained["tokens found again %"]) == ("pretrain", "25.0", "50.0")


def test_differences_are_from_the_first_run_without_multiplexing(maker):
    five = changed(maker.run("five", 5, tasks=["sst2"]), [0.70, 0.71, 0.72])
    plain = changed(maker.run("plain", 1, tasks=["sst2", "cola"]), [0.88, 0.89, 0.90])
    close = changed(maker.run("close", 2, tasks=["sst2"]), [0.87, 0.89, 0.91])
    first, second, third = table(maker, scores.section, five, plain, close)
    assert (first["run"], first["SST-2"]) == ("five", "71.0 ±1.0 −18.0")
    assert (second["SST-2"], second["N"], second["times own N = 1"]) == ("89.0 ±1.0", "1", "1.00×")
    assert third["SST-2"] == "89.0 ±2.0 (+0.0)" and third["CoLA"] == first["CoLA"] == "–"
    assert first["times BERT BASE"] == "4.90×" and first["times own N = 1"] == "5.00×"


def test_budgets_are_what_was_read_beside_the_papers(maker):
    path = maker.run("five", 5, tasks=["sst2", "rte"], steps=2_000, share=0.01)
    (path / "environment.json").write_text(json.dumps({"processors": "64 x EPYC", "commit": "0123456789+"}))
    ours, papers = table(maker, budget.table, changed(path, [0.7, 0.7, 0.7]))
    assert (ours["steps: retrieval + pre-training"], ours["texts"]) == ("10,000 + 2,000", "15,360,000")  # x 256 x 5
    assert ours["million tokens"] == "7,864.3" and ours["fine-tuning: steps × groups"] == "20 to 200 × 256"
    assert (ours["seeds"], ours["starts"], ours["wall time"]) == ("3", "1", "40:00")
    assert (ours["devices"], ours["commit"]) == ("8 x cuda, NVIDIA V100", "0123456+")
    assert (papers["run"], papers["texts"]) == ("the paper", "N × 256,000,000")
    assert papers["million tokens"] == "N × 131,072.0"
