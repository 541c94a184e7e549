"""`mux choose` and `mux report`: what they print, how they end, and that they are quick."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from launcher import cli
from launcher.model_commands import export_model, predict
from tests.mux.report.crafted import results, scores, timed

MUX = str(Path(sys.executable).parent / "mux")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR")}


def mux(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MUX, *map(str, words)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True,
                          timeout=120)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """N = 1, 2, 5, 10 of one model, the larger the faster and the less accurate, with two copies where they fit."""
    folder = tmp_path_factory.mktemp("work")
    for N, mean, rate, milliseconds in ((1, .93, 100., 20.), (2, .915, 190., 21.), (5, .89, 460., 24.),
                                        (10, .84, 900., 30.)):
        tasks = {"sst2": scores(mean, rows=872), "rte": scores(.6 - .01 * N, rows=277)}
        copies = {str(number): {"sst2": scores(mean + .004 * (number - 1), rows=872)}
                  for number in (1, 2) if number <= N}
        rows = [timed(N, rate, ratio=rate / 100, quartiles=(rate * .0095, rate * .0104)),
                timed(N, 1., batches_of="one_group", milliseconds=milliseconds, ratio=1., quartiles=(.97, 1.02))]
        (folder / "runs" / f"bert_n{N}").mkdir(parents=True)
        (folder / "runs" / f"bert_n{N}" / "results.json").write_text(json.dumps(results(N, tasks, rows, copies)))
    return folder


ALL = [f"runs/bert_n{N}" for N in (1, 2, 5, 10)]


def test_choose_prints_the_models_and_how_to_deploy_them(runs: Path) -> None:
    done = mux("choose", *ALL, "--task", "sst2", "--accuracy", "0.88", "--throughput", "150", cwd=runs)
    assert done.returncode == 0 and done.stderr == ""
    heading, header, *rows = done.stdout.splitlines()
    assert heading == ("sst2: accuracy ≥ 0.88, throughput ≥ 150/s  "
                       "(on cpu, 2 threads, rows of 128 tokens, by the throughput stage)")
    assert " ".join(header.split()) == ("model run copies accuracy 95 % instances/s x BERT BASE latency ms "
                                        "P(accuracy ≥ 0.88) P(throughput ≥ 150/s)")
    models = [row.split() for row in rows[:3]]
    assert [(row[0], row[6], row[7], row[8], row[12]) for row in models] == [
        ("1", "runs/bert_n5", "1", ".890", "460"), ("2", "runs/bert_n5", "2", ".894", "230"),
        ("3", "runs/bert_n2", "1", ".915", "190")]
    assert [row[15:] for row in models] == [["75", "%", ">", "99", "%"], ["83", "%", ">", "99", "%"],
                                            [">", "99", "%", ">", "99", "%"]]
    assert ("  mux predict runs/bert_n5 texts.jsonl --stage finetune --task sst2 --copies 2 --output predicted.jsonl"
            in rows)


def test_the_commands_are_understood_by_mux(runs: Path) -> None:
    """Parsed by the real commands, not run: the runs have no models."""
    done = mux("choose", *ALL, "--accuracy", "0.5", "--json", cwd=runs)
    models = [model for task in json.loads(done.stdout)["tasks"] for model in task["models"]]
    lines = {line for model in models for line in model["commands"]}
    assert len(lines) > 8
    app = typer.Typer()
    app.command("predict")(predict)
    app.command("export")(export_model)
    command = typer.main.get_command(app)
    for line in lines:
        program, name, *words = shlex.split(line)
        context = command.commands[name].make_context(name, words)  # type: ignore[attr-defined]
        given: dict[str, Any] = context.params
        assert (program, given["stage"]) == ("mux", "finetune") and given["task"] in ("sst2", "rte")
        assert given.get("model", given.get("run")) in ALL


def test_every_task_is_answered_and_one_is_enough(runs: Path) -> None:
    done = mux("choose", *ALL, "--accuracy", "0.88", cwd=runs)
    assert done.returncode == 0
    assert "rte: accuracy ≥ 0.88" in done.stdout and "no model satisfies this" in done.stdout
    assert "  accuracy at best .590, .290 off: bert BASE, N = 1, runs/bert_n1" in done.stdout.splitlines()


def test_none_found_is_1_and_names_the_nearest(runs: Path) -> None:
    done = mux("choose", *ALL, "--task", "sst2", "--accuracy", "0.91", "--latency-ms", "15", cwd=runs)
    assert done.returncode == 1 and done.stderr == ""
    assert done.stdout.splitlines()[1:4] == [
        "no model satisfies all of this",
        "  accuracy at best .930, which would do: bert BASE, N = 1, runs/bert_n1",
        "  latency at best 20.0 ms, 5.00 off: bert BASE, N = 1, runs/bert_n1"]
    done = mux("choose", *ALL, "--task", "sst2", "--accuracy", "0.99", "--json", cwd=runs)
    (task,) = json.loads(done.stdout)["tasks"]
    assert done.returncode == 1 and task["models"] == [] and task["nearest"]["accuracy"]["run"] == "runs/bert_n1"


def test_json_has_every_number_and_the_confidence(runs: Path) -> None:
    done = mux("choose", "runs/bert_n2", "--task", "sst2", "--latency-ms", "30", "--json", cwd=runs)
    told = json.loads(done.stdout)
    assert told["conditions"] == {"latency": 30.0} and len(told["tasks"]) == 1
    (model,) = told["tasks"][0]["models"]
    assert (model["N"], model["copies"], model["latency_ms"], model["instances_per_second"]) == (2, 1, 21.0, 190.0)
    assert 0.99 < model["confidence"]["latency"] <= 1 and len(model["commands"]) == 2


@pytest.mark.parametrize(("words", "says"), [
    (["runs/none", "--accuracy", "0.8"], "runs/none/results.json: no such file"),
    ([*ALL], "give at least one of --accuracy, --throughput, --latency-ms"),
    ([*ALL, "--accuracy", "0.8", "--task", "sst"], '--task: no run has results of sst\n    did you mean "sst2"?'),
    ([*ALL, "--accuracy", "0.8", "--task", "xyz"], "there are: sst2, rte"),
    ([*ALL, "--accuracy", "85", "--throughput", "nan", "--latency-ms", "0"],
     "--accuracy: 85 is no accuracy\n    a share of 1 is meant: 0.85 for 85 %\n--throughput: nan is not above 0\n"
     "--latency-ms: 0 is not above 0"),
    (["broken", "--accuracy", "0.8"], "broken/results.json: not JSON"),
    (["empty", "--accuracy", "0.8"], "no model of these runs has been evaluated"),
])
def test_choose_refuses_in_one_block(runs: Path, words: list[str], says: str) -> None:
    for name, text in (("broken", "{"), ("empty", json.dumps(results(2, {}) | {"stages": []}))):
        (runs / name).mkdir(exist_ok=True)
        (runs / name / "results.json").write_text(text)
    done = mux("choose", *words, cwd=runs)
    assert done.returncode == 2 and done.stdout == "" and says in done.stderr and "Traceback" not in done.stderr


def test_names_in_results_cannot_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    evil = results(2, {"[red]t[/red]\x1b[2J": scores(0.9)}) | {"name": "\u202ex\n[b]"}
    (tmp_path / "run" / "results.json").write_text(json.dumps(evil))
    done = mux("choose", "run", "--accuracy", "0.5", cwd=tmp_path)
    assert done.returncode == 0 and "[red]t[/red]" in done.stdout
    assert all(line.isprintable() for line in done.stdout.splitlines())


def test_choose_needs_nothing_heavy(runs: Path) -> None:
    code = ("import sys; from launcher import cli; cli.mux(sys.argv[1:], standalone_mode=False); "
            "assert not {'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules)")
    for words in (["choose", "--help"], ["report", "--help"], ["choose", *ALL, "--accuracy", "0.8"]):
        done = subprocess.run([sys.executable, "-c", code, *words], cwd=runs, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "--help" not in words or f"Example: mux {words[0]} runs/" in done.stdout


def test_report_writes_a_page_and_says_where(runs: Path) -> None:
    done = mux("report", *ALL, "--out", "page", cwd=runs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "page/index.html\n", "")
    assert "bert_n10" in (runs / "page" / "index.html").read_text()
    done = mux("report", "runs/bert_n2", cwd=runs)
    assert done.stdout == "runs/bert_n2/report/index.html\n" and (runs / done.stdout.strip()).exists()


def test_report_refuses_what_is_no_run(tmp_path: Path) -> None:
    done = mux("report", "none", cwd=tmp_path)
    assert done.returncode == 2 and "none/results.json: no such file" in done.stderr and not list(tmp_path.iterdir())


def test_both_are_listed() -> None:
    shown = CliRunner().invoke(cli.mux, ["--help"]).output
    assert "choose" in shown and "report" in shown
