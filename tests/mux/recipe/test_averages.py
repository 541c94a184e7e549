"""The averages of the paper, recomputed from the columns of its tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mux.recipe.averages import AVERAGES, averages, paper_rounding

PAPER = Path(__file__).parents[4] / "shared" / "paper" / "mux-plms.md"
COLUMNS = ("mnli", "qqp", "qnli", "mrpc", "wnli", "stsb", "rte", "sst2", "cola")
METRIC = AVERAGES["glue"]


def printed(table: int) -> list[list[float]]:
    """The rows of one of Tables 9-14: nine tasks, GLUE, GLUE without WNLI and CoLA."""
    found = re.search(rf"<table(?:(?!<table).)*?</table>\s*Table {table}:", PAPER.read_text(encoding="utf-8"), re.S)
    assert found is not None
    rows = []
    for row in re.findall(r"<tr>(.*?)</tr>", found[0], re.S):
        cells = [re.sub(r"<sub>.*?</sub>|<math>.*|<[^>]+>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row)]
        rows.append([float(cell) for cell in cells if re.fullmatch(r"\d+\.\d\d", cell)])
    return [row for row in rows if row]


def scores(values: dict[str, float]) -> dict[str, dict]:
    return {task: {"metric": METRIC[task], "mean": value / 100} for task, value in values.items()}


@pytest.mark.parametrize(("table", "rows"), [(9, 12), (10, 12), (11, 4), (12, 12), (13, 9), (14, 9)])
def test_the_printed_averages_are_of_the_printed_columns(table: int, rows: int) -> None:
    """All 116 of 116: mean of the columns with two decimals, to two decimals. No tie tells half up from half even."""
    found = printed(table)
    assert [len(row) for row in found] == [11] * rows
    differ = [(row, rounded) for row in found
              if (rounded := paper_rounding(scores(dict(zip(COLUMNS, row[:9], strict=True)))))
              != {"glue": row[9], "glue_without_wnli_cola": row[10]}]
    assert differ == []


def test_averages_of_one_decimal() -> None:
    """Tables 1 and 3 print the averages of Tables 9, 11 and 14 with one decimal; one of them is another number."""
    nines = {"BERT": (9, 4, 85.4), "MUX-BERT 2": (9, 5, 82.5), "MUX-BERT 5": (9, 6, 80.3), "MUX-BERT 10": (9, 7, 77.8),
             "ELECTRA": (11, 0, 82.1), "MUX-ELECTRA 2": (11, 1, 82.5), "MUX-ELECTRA 5": (11, 2, 79.8),
             "MUX-ELECTRA 10": (11, 3, 78.2), "T-MUX 2": (14, 3, 60.4), "T-MUX 5": (14, 4, 59.7),
             "T-MUX 10": (14, 5, 58.1), "SMALL": (9, 0, 80.6), "SMALL 2": (9, 1, 79.0), "SMALL T-MUX": (14, 0, 59.5),
             "LARGE": (9, 8, 85.8), "LARGE 2": (9, 9, 84.1), "LARGE T-MUX": (14, 6, 61.7)}
    found = {model: printed(table)[row][10] for model, (table, row, _) in nines.items()}
    assert {model for model, (_, _, one) in nines.items() if abs(found[model] - one) > 0.05 + 1e-9} == set()
    assert found["T-MUX 5"] == 59.75  # printed as 59.7: from a number below it, or half down


def test_only_whole_averages_are_there() -> None:
    seven = dict.fromkeys(AVERAGES["glue_without_wnli_cola"], 80.0)
    assert averages(scores(seven)) == {"glue_without_wnli_cola": pytest.approx(0.8)}
    assert averages(scores(seven | {"wnli": 60.0, "cola": -10.0})) == {
        "glue": pytest.approx(6.1 / 9), "glue_without_wnli_cola": pytest.approx(0.8)}
    del seven["rte"]
    assert averages(scores(seven)) == {} == averages({})


def test_the_measure_that_counts_may_stand_among_the_others() -> None:
    tasks = {"ner": {"metric": "entity_f1", "mean": 0.9, "max": 0.91, "others": {"accuracy": {"mean": 0.99}}},
             "pos": {"metric": "accuracy", "mean": 0.97, "others": {"entity_f1": {"mean": 0.8, "max": 0.81}}}}
    assert averages(tasks) == {"token": pytest.approx(0.85)}
    assert averages(tasks, "max") == {"token": pytest.approx(0.86)}
    assert paper_rounding(tasks) == {"token": 85.0}
    tasks["pos"]["others"] = {"f1": {"mean": 0.8}}
    assert averages(tasks) == {}


def test_the_measures_of_glue() -> None:
    """Of each task the one that counts (the paper's section 4.1 and Tables 9-14), whatever stands beside it."""
    measures = {"cola": "matthews", "stsb": "spearman"}
    tasks = {name: {"metric": "pearson", "mean": 0.0, "others": {
        metric: {"mean": 0.5 if metric == measures.get(name, "accuracy") else 0.9}
        for metric in ("accuracy", "f1", "matthews", "spearman")}} for name in COLUMNS}
    assert averages(tasks) == {"glue": 0.5, "glue_without_wnli_cola": 0.5}


def test_columns_are_rounded_before_their_mean() -> None:
    tasks = {name: {"metric": "entity_f1", "mean": value} for name, value in (("ner", 0.900049), ("pos", 0.900249))}
    assert averages(tasks)["token"] == pytest.approx(0.900149)
    assert paper_rounding(tasks)["token"] == 90.01  # of 90.00 and 90.02; the mean of the unrounded is 90.0149
