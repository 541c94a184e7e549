from __future__ import annotations

import copy
import io
import os
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from launcher.summary import models, render, show
from mux.plan import Cluster, Host, Plan

GOLDEN = Path(__file__).parent / "golden"


def plan(N: int = 2, name: str = "quickstart", tasks: dict[str, Any] | None = None, **model: Any) -> Plan:
    cluster = Cluster(hosts=(Host(name="localhost", slots=2, local=True),), device="cpu", source="this host")
    return Plan(
        name=name,
        directory="/runs/quickstart",
        recipe={"model": {"family": "bert", "size": "TINY", "N": N} | model, "tasks": {"define": tasks or {}}},
        recipe_digest="",
        model={},
        provenance={},
        cluster=cluster,
        stages=(),
        jobs=(),
        parameters=1,
        memory=[],
        disk_bytes=1,
    )


TOPIC = {
    "metric": "accuracy",
    "mean": 0.431,
    "std": 0.008,
    "max": 0.44,
    "min": 0.42,
    "tickets": [0.43] * 5,
    "majority": 0.212,
}


def row(model: str, N: int, speed: float, to_n1: float | None, to_base: float | None) -> dict[str, Any]:
    conditions = {"batch": 128, "sequence_length": 128, "trials": 3, "batches": 20}
    machine = {"device": "cpu", "dtype": "float32", "threads": 2}
    ratios = {"ratio_to_n1": to_n1, "ratio_to_bert_base": to_base}
    return {
        "model": model,
        "N": N,
        "head": "sequence",
        "instances_per_second": speed,
        **ratios,
        **conditions,
        **machine,
    }


def quickstart() -> dict[str, Any]:
    def training(kind: str, steps: int, loss: float, accuracy: float) -> dict[str, Any]:
        model = f"{kind}/model"
        return {
            "id": kind,
            "kind": kind,
            "status": "done",
            "steps": steps,
            "loss": loss,
            "accuracy": accuracy,
            "model": model,
        }

    stages = [
        training("retrieval", 400, 0.298, 0.982),
        training("pretrain", 800, 4.93, 0.214),
        {
            "id": "finetune",
            "kind": "finetune",
            "status": "done",
            "tasks": {"topic": {**TOPIC, "model": "finetune/model"}},
        },
        {
            "id": "ensemble",
            "kind": "ensemble",
            "status": "done",
            "copies": {
                "1": {"tasks": {"topic": {**TOPIC, "instances_per_second": 2310.2}}},
                "2": {"tasks": {"topic": {**TOPIC, "mean": 0.447, "instances_per_second": 1163.0}}},
            },
        },
        {
            "id": "throughput",
            "kind": "throughput",
            "status": "done",
            "rows": [
                row("bert TINY, N = 2", 2, 2310.0, 1.92, 54.2),
                row("bert TINY, N = 1", 1, 1203.1, 1.0, 28.2),
                row("bert BASE, N = 1", 1, 42.61, None, 1.0),
            ],
        },
    ]
    return {"schema": 1, "name": "quickstart", "status": "finished", "stages": stages}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def with_models(results: dict[str, Any], directory: Path) -> dict[str, Any]:
    """`results`, after the folders of the models that they name are made."""
    for entry in results.get("stages", ()):
        for model in models(entry) if isinstance(entry, dict) else ():
            (directory / model).mkdir(parents=True, exist_ok=True)
    return results


def drawn(results: dict[str, Any], width: int, directory: Path, plan: Plan = plan()) -> str:  # noqa: B008
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(with_models(results, directory), plan, directory))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [120, 60])
def test_the_quickstart(width: int) -> None:
    text = drawn(quickstart(), width, Path("runs/quickstart"))
    path = GOLDEN / f"summary_{width}.txt"
    if os.environ.get("MUX_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert max(cell_len(line) for line in text.splitlines()) <= width


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_the_python_is_python_at_every_width(width: int) -> None:
    text = drawn(quickstart(), width, Path("m"))
    code = text[text.index("import mux.model") :]
    names: dict[str, Any] = {}

    def pipeline(task: str, model: str, batch_size: int) -> Any:
        names.update(task=task, model=model, batch_size=batch_size)
        return len

    program = code.replace("import mux.model\nfrom transformers import pipeline\n", "")
    exec(
        compile(program, "summary", "exec"),
        {"pipeline": pipeline, "print": lambda value: names.update(out=value)},
    )
    assert names == {"task": "text-classification", "model": "m/finetune/model", "batch_size": 64, "out": 2}


def test_a_model_for_words_has_the_pipeline_for_words() -> None:
    results = quickstart()
    assert 'pipeline("text-classification", model=' in drawn(results, 120, Path("r"))
    finetune = next(stage for stage in results["stages"] if stage["kind"] == "finetune")
    finetune["tasks"]["topic"]["words"] = True
    assert 'pipeline("token-classification", model=' in drawn(results, 120, Path("r"))


def test_families() -> None:
    assert "masked-token accuracy" in drawn(quickstart(), 120, Path("r"))
    electra = drawn(quickstart(), 120, Path("r"), plan(family="electra"))
    assert "electra TINY, N = 2" in electra and "replaced-token accuracy" in electra and "masked" not in electra
    hub = plan(N=1, family="hub", size="BASE", source="hub:a/b")
    assert "hub:a/b, N = 1 on 2 cpu devices" in drawn(quickstart(), 120, Path("r"), hub)


def test_the_model_is_named_as_it_is_from_here(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert 'model="runs/x/finetune/model"' in drawn(quickstart(), 200, tmp_path / "runs" / "x")
    assert f'model="{elsewhere}/x/finetune/model"' in drawn(quickstart(), 250, elsewhere / "x")
    assert 'model="a \\"b\\"/finetune/model"' in drawn(quickstart(), 200, tmp_path / 'a "b"')


def test_a_record_says_that_it_holds_no_models(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(render(quickstart(), plan(), tmp_path))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Its models are not here" in text and "from_pretrained" not in text and "pipeline" not in text


def test_a_run_that_was_stopped_names_what_is_missing() -> None:
    results = quickstart()
    results["status"] = "stopped"
    results["stages"][2:] = [{"id": id, "kind": id, "status": "pending"} for id in ("finetune", "ensemble")]
    text = drawn(results, 80, Path("r"))
    assert "■ stopped" in text and "not done: finetune, ensemble" in text
    assert "MuxForPreTraining.from_pretrained" in text and "r/pretrain/model" in text
    assert "throughput" not in text and "copies" not in text


def test_a_run_without_results_says_little_and_does_not_fail() -> None:
    for results in ({}, {"status": "failed", "stages": []}, {"stages": [{"id": "x"}]}):
        text = drawn(results, 60, Path("r"))
        assert "quickstart" in text and "Python" not in text


@pytest.mark.parametrize("value", [None, "x", 3, [], {}, {"topic": None}, {"topic": {}}])
@pytest.mark.parametrize("key", ["tasks", "copies"])
def test_tables_that_are_not_as_agreed(key: str, value: Any) -> None:
    assert "quickstart" in drawn({"stages": [{"id": "x", "kind": "finetune", key: value}]}, 80, Path("r"))


def test_numbers_that_are_missing_are_dashes() -> None:
    results = copy.deepcopy(quickstart())
    results["stages"][0].update(accuracy=None, loss=None)
    results["stages"][3]["copies"]["2"]["tasks"]["topic"]["mean"] = None
    text = drawn(results, 100, Path("r"))
    assert "retrieval accuracy               –" in text and "– ± .008" in text


def test_what_a_search_chose_on_and_what_else_was_scored() -> None:
    results = quickstart()
    search = [{"learning_rate": rate, "batch": 16, "mean": 0.4} for rate in (2e-5, 5e-5)]
    results["stages"][2]["tasks"] = {"mnli": TOPIC | {
        "also": {"mismatched": TOPIC | {"mean": 0.399}}, "seeds": {"0": 0.431, "1": 0.44}, "search": search,
        "chosen": {"learning_rate": 2e-5, "batch": 16, "on": "held-out train rows (10 %)"}}}
    results["stages"][2]["averages"] = {"glue": 0.55}
    text = drawn(results, 140, Path("r"))
    assert "over 5 tickets, first of 2 seeds" in text
    assert "mnli: best of 2 points by held-out train rows (10 %)" in text
    assert "mnli mismatched accuracy  .399 ± .008" in text and re.search(r"average glue +\.550", text)
    results["stages"][2]["tasks"]["mnli"]["chosen"]["on"] = None
    assert "best of" not in drawn(results, 140, Path("r"))


def test_compositions_and_layers_have_panels_of_their_own() -> None:
    results = quickstart()
    assert "padding" not in drawn(results, 100, Path("r"))
    results["stages"] += [
        {"id": "evaluate", "kind": "evaluate", "status": "done", "compositions": {
            name: {"tasks": {"topic": TOPIC | {"padding": padding, "instances_per_second": 100.0}}}
            for name, padding in (("random", 0.31), ("length", 0.04))}},
        {"id": "muxology", "kind": "muxology", "status": "done", "models": [
            {"name": "bert TINY, N = 2", "N": 2, "layers": [
                {"layer": layer, "mean_abs": 0.5 * layer, "attention_entropy": 3.0 - layer} for layer in (1, 2)]}]}]
    text = drawn(results, 100, Path("r"))
    assert re.search(r"random +topic accuracy +\.431 ± \.008 +\.440 +31 % +100", text)
    assert re.search(r"length +topic accuracy .* 4 %", text)
    assert re.search(r"bert TINY, N = 2 +2 +\.500 → 1\.00 +2\.00 → 1\.00", text)


def test_of_many_throughput_rows_the_plainest_are_shown() -> None:
    results = quickstart()
    rows = [row(f"model {number} {mode} {head}", 2, 2310.0, 1.92, 54.2) | {"mode": mode, "head": head, "batches_of": of}
            for number in range(12) for mode in ("compiled", "eager") for head in ("token", "sequence")
            for of in ("one_group", "instances")]
    results["stages"][4]["rows"] = rows
    text = drawn(results, 100, Path("r"))
    assert text.count("eager sequence") == 10 and "compiled" not in text and "token" not in text.split("throughput")[1]
    assert "… 86 more rows" in text and "mux report r" in text
    results["stages"][4]["rows"] = [one for one in rows if one["head"] == "token"]
    assert "compiled token" in drawn(results, 100, Path("r"))


def test_the_report_is_offered_once_there_is_something_to_report() -> None:
    path = Path("with a blank")
    assert "mux report 'with a blank'" in drawn(quickstart(), 100, path)
    assert "mux report" not in drawn({"stages": quickstart()["stages"][:2]}, 100, path)


def test_speed_is_only_claimed_for_the_models_own_N() -> None:
    assert "N = 2 is 1.92 x as fast" in drawn(quickstart(), 100, Path("r"))
    assert "as fast" not in drawn(quickstart(), 100, Path("r"), plan(N=1))
    assert "as fast" not in drawn(quickstart(), 100, Path("r"), plan(N=5))


def test_names_are_neither_markup_nor_escapes() -> None:
    results = quickstart()
    results["stages"][2]["tasks"] = {"[red]t[/red]\x1b[2J": TOPIC}
    text = drawn(results, 100, Path("r"), plan(name="[b]x[/b]"))
    assert "[red]t[/red] accuracy" in text and "[b]x[/b]" in text and "\x1b" not in text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_show_on_any_stream(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    show(with_models(quickstart(), Path("r")), plan(), Path("r"), stream)
    text = raw.getvalue().decode(encoding)
    assert ("╭─ quickstart" in text) == (encoding == "utf-8") and ("±" in text) == (encoding != "ascii")
    *_, third = text.splitlines()  # there is room for the three lines as they are
    assert third.startswith("print(pipeline(") and third.endswith('(["...", "..."]))')


def test_show_on_a_closed_pipe_is_silent() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as stream:
        show(quickstart(), plan(), Path("r"), stream)
