"""What of ours stands beside what of the paper, and what does not."""

import json
import random

import pytest

from mux.report.comparison import paper_tables
from mux.report.results import read_runs
from mux.report.sections import overview


def rows(tables, name):
    """Rows of a paper table by their keys: {(keys): {column: cell}}."""
    table = next(table for table in tables if table.name == f"table_{name}")
    keys = [index for index, column in enumerate(table.columns) if not any(row[index].paper for row in table.rows)][:-1]
    return {tuple(row[index].text for index in keys): dict(zip(table.columns, row, strict=True)) for row in table.rows}


def tuned(path, task, **change):
    """Change the recorded scores of a task."""
    results = json.loads((path / "results.json").read_text())
    stage = next(stage for stage in results["stages"] if stage["kind"] == "finetune")
    stage["tasks"][task] |= change
    (path / "results.json").write_text(json.dumps(results))


LAST = "our run, or what fills the row"


def test_a_finished_run_of_the_paper_s_model_fills_its_cells(maker):
    path = maker.run("bert_base_n2", 2)
    tuned(path, "mnli", mean=0.80123, std=0.00251, max=0.80919, min=0.79001)
    tables = paper_tables(read_runs([path]))
    cell = rows(tables, "9")["BASE", "2"]["MNLI"]
    assert (cell.text, cell.paper, cell.difference, cell.better) == (
        "80.12 ±0.3", "80.59 ±0.1", "\N{MINUS SIGN}0.47", False)
    assert rows(tables, "10")["BASE", "2"]["MNLI"].text == "80.92"
    assert rows(tables, "13")["2", "MUX-BERT"]["MNLI"].text == "80.12 ±0.3"
    assert rows(tables, "9")["BASE", "2"][LAST].text == "bert_base_n2"
    assert "bert_base_n2, 5 tickets" in cell.note


def test_an_average_is_of_columns_of_two_decimals_and_its_extremes_are_by_task(maker):
    path = maker.run("bert_base_n2", 2)
    names = ("mnli", "qqp", "qnli", "mrpc", "stsb", "rte", "sst2")
    for index, task in enumerate(names):
        tuned(path, task, mean=0.8 + index / 100, std=0.01, max=0.9, min=0.7 + index / 100)
    tables = paper_tables(read_runs([path]))
    row = rows(tables, "1")["MUX-BERT", "2"]
    assert row["GLUE mean"].text == "83.0 ±1.0" and row["GLUE max"].text == "90.0"
    tickets = rows(tables, "6")["MUX-BERT", "2"]
    assert [tickets[column].text for column in ("Best ticket", "Worst ticket", "Δ")] == ["90.0", "73.0", "17.0"]


def test_in_table_9_columns_are_rounded_before_their_mean(maker):
    path = maker.run("bert_base_n2", 2)
    names = ("mnli", "qqp", "qnli", "mrpc", "stsb", "rte", "sst2")
    for task in names:  # printed as 80.01 and 80.00
        tuned(path, task, mean=0.800051 if task in names[:4] else 0.800001)
    row = rows(paper_tables(read_runs([path])), "9")["BASE", "2"]
    shown = row["GLUE \N{MINUS SIGN}WNLI, COLA"].text
    assert shown.startswith("80.01")  # (4 x 80.01 + 3 x 80.00) / 7; the mean of the unrounded is 80.003


def test_a_gain_is_the_difference_of_what_is_shown(maker):
    path = maker.run("bert_base_n2", 2)
    tuned(path, "mnli", mean=0.80449)
    results = json.loads((path / "results.json").read_text())
    stage = next(stage for stage in results["stages"] if stage["kind"] == "ensemble")
    stage["copies"]["2"]["tasks"]["mnli"]["mean"] = 0.80951
    (path / "results.json").write_text(json.dumps(results))
    row = rows(paper_tables(read_runs([path])), "4")["MUX-BERT", "2"]
    assert [row[column].text for column in ("MNLI No Ens", "MNLI Ens", "MNLI Δ")] == ["80.4", "81.0", "+0.6"]


def test_the_paper_s_measures_are_taken_not_the_tasks_own(maker):
    path = maker.run("bert_base_n1", 1)
    tuned(path, "ner", metric="entity_f1", mean=0.9)
    tuned(path, "pos", metric="accuracy", mean=0.5,
          others={"entity_f1": {"mean": 0.96, "std": 0, "max": 0.97, "min": 0.95}})
    assert rows(paper_tables(read_runs([path])), "1")["BERT", "1"]["Token mean"].text == "93.0 ±0.0"


def test_ensembling_takes_all_slots_and_the_gain_is_the_difference(maker):
    path = maker.run("bert_base_n5", 5)
    tuned(path, "qqp", mean=0.88)
    results = json.loads((path / "results.json").read_text())
    stage = next(stage for stage in results["stages"] if stage["kind"] == "ensemble")
    stage["copies"]["5"]["tasks"]["qqp"]["mean"] = 0.893
    stage["copies"]["2"]["tasks"]["qqp"]["mean"] = 0.5
    stage["copies"] = dict(sorted(stage["copies"].items(), reverse=True))  # two copies come last, and are not taken
    (path / "results.json").write_text(json.dumps(results))
    row = rows(paper_tables(read_runs([path])), "4")["MUX-BERT", "5"]
    assert [row[column].text for column in ("QQP No Ens", "QQP Ens", "QQP Δ")] == ["88.0", "89.3", "+1.3"]
    assert row["QQP Δ"].difference == "+0.4"


@pytest.mark.parametrize(("change", "why"), [
    ({"steps": 999_999}, "trained for 999,999 of 1,000,000 steps"),
    ({"status": "running"}, "the run is running"),
    ({"status": "failed"}, "the run is failed"),
])
def test_another_budget_stands_apart_and_says_why(maker, change, why):
    runs = read_runs([maker.run("bert_base_n2", 2, tasks=["mnli"], **change)])
    row = rows(paper_tables(runs), "9")["BASE", "2"]
    assert row["MNLI"].value is None and row["MNLI"].paper == "80.59 ±0.1"
    assert row[LAST].text == f"bert_base_n2: {why}; mux-launch recipes/bert_base_n2.toml"
    others = next(table for table in overview.section(runs).tables if table.name == "other_runs")
    assert others.rows[0][-1].text == why


@pytest.mark.parametrize(("key", "value", "why"), [("batch", 128, "128 of 256 groups"),
                                                   ("sequence_length", 128, "rows of 128 of 512 tokens")])
def test_smaller_batches_and_shorter_rows_stand_apart(maker, key, value, why):
    path = maker.run("bert_base_n2", 2, tasks=["mnli"])
    plan = json.loads((path / "plan.json").read_text())
    for stage in plan["stages"]:
        stage[key] = value
    (path / "plan.json").write_text(json.dumps(plan))
    row = rows(paper_tables(read_runs([path])), "9")["BASE", "2"]
    assert row["MNLI"].value is None and why in row[LAST].text


def test_a_task_with_too_few_steps_is_left_out_alone(maker):
    path = maker.run("bert_base_n2", 2, tasks=["mnli", "sst2"])
    tuned(path, "mnli", steps=40)
    row = rows(paper_tables(read_runs([path])), "9")["BASE", "2"]
    assert row["MNLI"].value is None and row["SST2"].value is not None
    assert "mnli fine-tuned for 40 of 20,000 steps" in row[LAST].text and "CoLA" in row[LAST].text


def test_other_sizes_and_shapes_are_in_no_table(maker):
    runs = read_runs([maker.run("tiny", 2, size="TINY", tasks=["sst2"]),
                      maker.run("own", 2, size="4x256", tasks=["sst2"]), maker.run("seven", 7, tasks=["sst2"])])
    tables = paper_tables(runs)
    assert not any(cell.value is not None and cell.paper for table in tables for row in table.rows for cell in row)
    others = next(table for table in overview.section(runs).tables if table.name == "other_runs")
    assert [row[-1].text for row in others.rows] == ["the paper has no such model"] * 3


def test_variants_fill_their_own_rows(maker):
    runs = read_runs([
        maker.run("prefix", 5, demultiplexer="prefix", tasks=["mnli"]),
        maker.run("contextual", 5, multiplexer="contextual", tasks=["mnli"]),
        maker.run("tmux", 5, demultiplexer="prefix", tasks=["mnli"], pretrained=False, steps=500_000),
        maker.run("retrieval", 5, size="LARGE", retrieval_rate=0.2, tasks=["mnli"]),
        maker.run("electra", 5, family="electra", tasks=["mnli"])])
    tables = paper_tables(runs)
    filled = {name: [keys for keys, row in rows(tables, name).items() if row["MNLI"].value is not None]
              for name in ("9", "11", "12", "13", "14")}
    assert filled == {"9": [], "11": [("5",)], "12": [("5", "0.2")], "13": [("5", "DataMUX"), ("5", "Attention")],
                      "14": [("BASE", "5")]}


def test_two_runs_of_one_model_the_first_that_may_stands_there(maker):
    runs = read_runs([maker.run("short", 2, steps=10, tasks=["mnli"]), maker.run("first", 2, tasks=["mnli"]),
                      maker.run("second", 2, tasks=["mnli"])])
    assert rows(paper_tables(runs), "9")["BASE", "2"][LAST].text.startswith("first")
    others = next(table for table in overview.section(runs).tables if table.name == "other_runs")
    assert [row[-1].text for row in others.rows] == ["trained for 10 of 1,000,000 steps", "first has its place"]


def test_throughput_comes_from_any_run_that_measured_as_the_paper_did(maker):
    path = maker.run("tiny", 2, size="TINY", tasks=["sst2"])
    results = json.loads((path / "results.json").read_text())
    stage = next(stage for stage in results["stages"] if stage["kind"] == "throughput")
    model = {"family": "bert", "source": None, "size": "BASE", "N": 5, "multiplexer": "gaussian",
             "demultiplexer": "rsa"}
    draw = random.Random(0)
    stage["rows"] += maker.timed(draw, model, 4.44, "H200") + [
        row | {"sequence_length": 64} for row in maker.timed(draw, model | {"N": 10}, 8.0, "H200")] + [
        row | {"batch": 32} for row in maker.timed(draw, model | {"N": 2}, 1.5, "H200")]
    (path / "results.json").write_text(json.dumps(results))
    table = rows(paper_tables(read_runs([path])), "1")
    assert (table["MUX-BERT", "5"]["↗"].text, table["MUX-BERT", "5"]["↗"].difference) == ("4.4×", "\N{MINUS SIGN}0.5")
    assert table["MUX-BERT", "10"]["↗"].value is None and table["MUX-BERT", "2"]["↗"].value is None
    assert "H200" in table["MUX-BERT", "5"]["↗"].note


def test_empty_rows_name_the_recipe_and_unfillable_ones_the_reason(maker):
    tables = paper_tables(read_runs([maker.run("tiny", 2, size="TINY", tasks=["sst2"])]))
    assert rows(tables, "1")["T-MUX", "5"][LAST].text == "mux-launch recipes/tmux_base_n5.toml"
    assert rows(tables, "2")["CoFi", "hybrid"][LAST].text == "no recipe: docs/baselines.md says why"
    assert len(tables) == 12


def changed(path, file, **stages):
    """Change stages, by id, in a file of the run."""
    content = json.loads((path / file).read_text())
    for stage in content["stages"]:
        stage |= stages.get(stage["id"], {})
    (path / file).write_text(json.dumps(content))


@pytest.mark.parametrize(("sources", "why"), [
    ({"muxology": {"source": "princeton:muxbert_base"}}, "trained for 900 of 1,000,000 steps"),
    ({"finetune": {"source": "hub:google-bert/bert-base-uncased"}}, "its weights are from hub:google-bert/bert-base"),
    ({"finetune": {"source": "retrieval"}}, "the paper has no such model"),
    ({"retrieval": {"source": "path:elsewhere"}}, "its weights are from path:elsewhere"),
    ({"pretrain": {"source": None}}, "trained by pretrain, the paper's by retrieval and pretrain"),
    ({"retrieval": {"source": "pretrain"}}, "its weights are from pretrain"),
])
def test_only_what_was_fine_tuned_counts(maker, sources, why):
    path = maker.run("bert_base_n2", 2, tasks=["mnli"], steps=900 if "muxology" in sources else 1_000_000)
    changed(path, "plan.json", **sources)
    runs = read_runs([path])
    assert rows(paper_tables(runs), "9")["BASE", "2"]["MNLI"].value is None
    others = next(table for table in overview.section(runs).tables if table.name == "other_runs")
    assert others.rows[0][-1].text.startswith(why)


def test_models_of_the_authors_and_encoders_of_the_hub_stand_there(maker):
    path = maker.run("published", 2, tasks=["mnli"], steps=900)
    changed(path, "plan.json", finetune={"source": "princeton:muxbert_base"})
    assert rows(paper_tables(read_runs([path])), "9")["BASE", "2"]["MNLI"].value is not None
    (path / "plan.json").unlink()
    row = rows(paper_tables(read_runs([path])), "9")["BASE", "2"]
    assert row["MNLI"].value is None

    hub = maker.run("distilbert", 1, tasks=["sst2"])
    source = "hub:distilbert/distilbert-base-uncased"
    content = json.loads((hub / "results.json").read_text())
    content["model"] |= {"family": "hub", "source": source, "size": None}
    content["stages"] = [stage for stage in content["stages"] if stage["kind"] == "finetune"]
    (hub / "results.json").write_text(json.dumps(content))
    for start, stands in ((source, True), ("hub:google-bert/bert-base-uncased", False)):
        changed(hub, "plan.json", finetune={"source": start})
        cells = [row["SST2"].value for keys, row in rows(paper_tables(read_runs([hub])), "2").items()
                 if "DistilBERT" in keys]
        assert [cell is not None for cell in cells] == [stands]


@pytest.mark.parametrize(("file", "change", "why"), [
    ("results.json", {"tickets": [0.8]}, "mnli on 1 of 5 tickets"),
    ("plan.json", {"sequence_length": 16}, "mnli in rows of 16 of 128 tokens"),
])
def test_another_protocol_stands_apart_and_shadows_nothing(maker, file, change, why):
    first, second = maker.run("first", 2, tasks=["mnli"]), maker.run("second", 2, tasks=["mnli"])
    if file == "plan.json":
        changed(first, file, finetune=change)
    else:
        tuned(first, "mnli", **change)
    row = rows(paper_tables(read_runs([first])), "9")["BASE", "2"]
    assert row["MNLI"].value is None and why in row[LAST].text
    runs = read_runs([first, second])
    row = rows(paper_tables(runs), "9")["BASE", "2"]
    assert row["MNLI"].value is not None and row[LAST].text.startswith("second; lacks")
    others = next(table for table in overview.section(runs).tables if table.name == "other_runs")
    assert [row[-1].text for row in others.rows] == [why]


def test_an_ensemble_on_few_tickets_or_of_another_stage_is_none(maker):
    for change in ({"source": "another"}, {"copies": {"2": {"tasks": {"mnli": {
            "metric": "accuracy", "mean": 0.9, "tickets": [0.9]}}}}}):
        path = maker.run(f"run_{next(iter(change))}", 2, tasks=["mnli"])
        changed(path, "results.json", ensemble=change)
        row = rows(paper_tables(read_runs([path])), "4")["MUX-BERT", "2"]
        assert row["MNLI No Ens"].value is not None and row["MNLI Ens"].value is None
        assert "ensemble of 2 copies" in row[LAST].text


@pytest.mark.parametrize("change", [{"trials": 1}, {"batches": 2}, {"trials": None}])
def test_short_timings_stand_apart_and_shadow_nothing(maker, change):
    path = maker.run("bert_base_n2", 2, tasks=["sst2"], ratio=1.5)
    content = json.loads((path / "results.json").read_text())
    stage = next(stage for stage in content["stages"] if stage["kind"] == "throughput")
    proper, stage["rows"] = stage["rows"], [row | change | {"ratio_to_bert_base": 9.0} for row in stage["rows"]]
    (path / "results.json").write_text(json.dumps(content))
    assert rows(paper_tables(read_runs([path])), "1")["MUX-BERT", "2"]["↗"].value is None
    stage["rows"] += proper
    (path / "results.json").write_text(json.dumps(content))
    assert rows(paper_tables(read_runs([path])), "1")["MUX-BERT", "2"]["↗"].text == "1.5×"
