"""The paper's numbers as data: every one as printed, every model as its recipe trains it."""

import re
from html.parser import HTMLParser

import pytest

from mux.recipe import load
from mux.recipe.averages import AVERAGES
from mux.report.paper import paper
from tests.conftest import ROOT

TEXT = ROOT.parent / "shared" / "paper" / "mux-plms.md"
PRINTED = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14")  # in this order in the text


class Tables(HTMLParser):
    """The rows of every table as lists of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.inside = False

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def printed() -> dict[str, list[list[str]]]:
    reader = Tables()
    reader.feed(TEXT.read_text(encoding="utf-8"))
    assert len(reader.tables) == len(PRINTED)
    return dict(zip(PRINTED, reader.tables, strict=True))


def written(value: float | list[float] | None, column, decimals: int) -> str:
    """As the paper writes it, without its markup."""
    if value is None:
        return "-"
    decimals = column.decimals or decimals
    mean, std = value if isinstance(value, list) else (value, None)
    sign = "+" if column.statistic == "gain" else ""
    return f"{mean:{sign}.{decimals}f}" + ("" if std is None else f"±{std:.1f}")


def as_written(cell: str) -> str:
    for old, new in ((r"\times", ""), (r"\pm", "±"), (" (", "±"), (")", ""), ("‡", "")):
        cell = cell.replace(old, new)
    return cell.strip()


@pytest.mark.parametrize("name", list(paper().tables))
def test_every_number_is_the_printed_one(printed, name):
    table = paper().tables[name]
    ours = [[written(value, column, table.decimals) for value, column in zip(row.values, table.columns, strict=True)]
            for row in table.rows]
    width = len(table.columns)
    rows = [[as_written(cell) for cell in row] for row in printed[name]]
    if name == "6":  # both families in one row of the paper
        theirs = [row[1 + 3 * family : 4 + 3 * family] for family in (0, 1) for row in rows[2:]]
    else:
        numbers = [row for row in rows if len(row) >= width and re.fullmatch(r"[-+]?[\d.]+(±[\d.]+)?", row[-1])]
        theirs = [row[-width:] for row in numbers]
    assert ours == theirs


def test_keys_are_the_printed_ones(printed):
    for name in ("9", "10", "14"):
        keys = [row.keys for row in paper().tables[name].rows]
        sizes = [as_written(row[0]) for row in printed[name] if as_written(row[0]) in ("SMALL", "BASE", "LARGE")]
        assert list(dict.fromkeys(size for size, _ in keys)) == sizes
    assert [row.keys[1] for row in paper().tables["12"].rows] == [0.0, 0.1, 0.2, 0.5] * 3
    assert [row.keys[0] for row in paper().tables["1"].rows] == [
        {"MUX-ELEC": "MUX-ELECTRA"}.get(as_written(row[0]), as_written(row[0])) for row in printed["1"][2:]]


def test_columns_are_tasks_and_averages_that_exist():
    tasks = {task for members in AVERAGES.values() for task in members}
    for table in paper().tables.values():
        for column in table.columns:
            assert (column.task is None) == (column.statistic == "ratio")
            assert column.task is None or column.task in tasks | set(AVERAGES)


def test_numbers_of_the_text_are_there():
    text = TEXT.read_text(encoding="utf-8")
    for name in ("bert_small_n1", "bert_small_n2"):
        assert f"throughput of {paper().instances_per_second[name]} (in/s)" in text
    assert paper().source.title in text.splitlines()[0]
    assert all(f"**{author}**" in text or author.split()[-1] in text for author in paper().source.authors.split(", "))


@pytest.mark.parametrize("name", [name for name, model in paper().models.items() if model.recipe])
def test_a_model_is_what_its_recipe_trains(name):
    model = paper().models[name]
    recipe = load(ROOT / model.recipe).recipe
    own = recipe.model
    assert model.same_network(own.family, own.source, own.size, own.N, own.multiplexer, own.demultiplexer)
    pretraining = [stage for stage in recipe.stages if stage.kind == "pretrain"]
    retrieval = [stage for stage in recipe.stages if stage.kind == "retrieval"]
    if own.family != "hub":
        assert bool(pretraining) == model.pretrained
        asked = paper().protocol["pretraining" if model.pretrained else "retrieval_alone"]
        assert (pretraining or retrieval)[-1].steps == asked["steps"]
    assert not pretraining or pretraining[-1].retrieval_rate == model.retrieval_rate


def test_models_without_a_recipe_are_those_of_the_documentation():
    text = (ROOT / "docs" / "baselines.md").read_text()
    without = [model.name for model in paper().models.values() if model.recipe is None]
    assert without and all(f"| {name.lower()} | none |" in text.lower() for name in without)
