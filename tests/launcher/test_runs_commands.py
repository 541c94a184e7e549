"""`mux runs verify`, `mux runs diff` and `mux export --checkpoint` on real runs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining, AutoModelForSequenceClassification

import mux.model  # noqa: F401 - registers the models
from launcher.difference import of_environments, of_results
from launcher.runs_commands import add_row, plain_table, show
from mux import manifest as manifests

pytestmark = pytest.mark.processes

MUX = str(Path(sys.executable).parent / "mux")
ALONE = "tests/recipes/pretrain_alone.toml"


def command(run, *words, columns=100):
    environment = {name: value for name, value in run.environment.items() if name != "COLUMNS"}
    if columns is not None:
        environment["COLUMNS"] = str(columns)
    return subprocess.run([MUX, *map(str, words)], capture_output=True, text=True, timeout=120, env=environment)


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "copied")
    return tmp_path / "copied"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def test_every_checkpoint_of_a_sound_run_is_valid(finished):
    done = command(finished, "runs", "verify", finished.path)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["training", "step", "ranks", "ZeRO", "size", "state"]
    assert [row[:4] + row[-1:] for row in rows[1:-1]] == [
        [stage, step, "2", "1", "valid"]
        for stage, step in (("retrieval", "3"), ("retrieval", "6"), ("pretrain", "6"), ("pretrain", "8"))]
    assert done.stdout.endswith("4 checkpoints, all valid\n")


def other_stage(folder):
    for path in (folder.parents[2] / "retrieval/checkpoints/step_00000006").iterdir():
        shutil.copy(path, folder.parent / "step_00000006" / path.name)


def latest_as(make: Callable[[Path], None], folder: Path) -> None:
    (folder.parent / "latest").unlink()
    make(folder.parent / "latest")


DAMAGES = {
    "a flipped bit": (lambda folder: flip(folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt"),
                      "step_00000008/zero_pp_rank_1_mp_rank_00_optim_states.pt is not what was saved", 1),
    "a missing shard": (lambda folder: (folder / "mp_rank_00_model_states.pt").unlink(),
                        "step_00000008/mp_rank_00_model_states.pt is missing", 1),
    "a manifest that was cut off": (lambda folder: (folder / "manifest.json").write_text("{"),
                                    "step_00000008/manifest.json cannot be read", 1),
    "of another stage": (other_stage, "step_00000006/manifest.json is of retrieval, not of pretrain", 1),
    "latest names nothing": (lambda folder: (folder.parent / "latest").write_text("../../x\n"),
                             "latest names '../../x', which is no checkpoint; the newest is step_00000008", 1),
    "latest is a folder": (lambda folder: latest_as(os.mkdir, folder), "latest cannot be read: Is a directory; ", 1),
    "latest is a pipe": (lambda folder: latest_as(os.mkfifo, folder), "latest is no plain file; ", 1),
    "latest is gone": (lambda folder: (folder.parent / "latest").unlink(),
                       "latest is not there; the newest checkpoint is step_00000008", 0),
    "latest lags": (lambda folder: (folder.parent / "latest").write_text("step_00000006\n"),
                    "latest names step_00000006; the newest is step_00000008, a start goes on from it", 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_named(finished, copied, damage):
    break_it, told, code = DAMAGES[damage]
    break_it(copied / "pretrain/checkpoints/step_00000008")
    done = command(finished, "runs", "verify", copied)
    assert done.returncode == code and not done.stderr, done.stdout + done.stderr
    assert told in done.stdout and ("1 not valid" in done.stdout) == ("latest" not in damage and code == 1)


def test_narrow_terminals_and_no_run(finished, tmp_path):
    assert command(finished, "runs", "verify", finished.path, columns=40).returncode == 0
    done = command(finished, "runs", "verify", tmp_path)
    assert done.returncode == 2 and "is not a run directory" in done.stderr and "Traceback" not in done.stderr
    for word in ("verify", "diff"):
        told = command(finished, "runs", word, "--help").stdout
        assert f"Example: mux runs {word} runs/" in told


def test_two_runs_are_compared(finished, copied):
    plan = json.loads((copied / "plan.json").read_text())
    plan["recipe"]["model"]["N"] = 5
    (copied / "plan.json").write_text(json.dumps(plan))
    environment = json.loads((copied / "environment.json").read_text())
    environment["packages"]["torch"] = "1.0"
    (copied / "environment.json").write_text(json.dumps(environment))
    results = json.loads((copied / "results.json").read_text())
    results["stages"][1] |= {"loss": 1.25}
    (copied / "results.json").write_text(json.dumps(results))
    done = command(finished, "runs", "diff", finished.path, copied)
    assert done.returncode == 0 and not done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["model.N", "2", "5"] in rows and ["packages.torch", f'"{torch.__version__}"', '"1.0"'] in rows
    row = next(row for row in rows if row[:1] == ["pretrain.loss"])
    assert float(row[1]) == pytest.approx(finished.stage("pretrain")["loss"], rel=1e-4) and row[2] == "1.25"
    assert [row[0] for row in rows if row and row[0].startswith(("pretrain.", "retrieval."))] == ["pretrain.loss"]
    same = command(finished, "runs", "diff", finished.path, finished.path)
    *sections, equal = same.stdout.splitlines()
    assert sections == [f"{name}: no difference" for name in ("recipe", "versions and data", "results")]
    assert int(equal.split()[1]) > 20 and equal.endswith("equal to the last bit")


def test_numbers_that_look_equal_are_told_apart():
    one, other = ({"stages": [{"id": "pretrain", "loss": loss, "steps": 800}]} for loss in (7.34931, 7.34932))
    assert of_results(one, other) == ([("pretrain.loss", "7.34931", "7.34932")], 1)
    assert of_results(one, {"stages": []}) == ([("pretrain.loss", "7.3493", "–"), ("pretrain.steps", "800", "–")], 0)


def test_of_hashes_what_the_eye_compares():
    one, other = ({"commit": digit * 40 + dirty, "data": {"task ner": digit * 64}, "host": "n"}
                  for digit, dirty in (("a", ""), ("b", "+")))
    assert of_environments(one, other) == [
        ("commit", '"aaaaaaaaaaaa"', '"bbbbbbbbbbbb+"'), ("data.\"task ner\"", '"aaaaaaaaaaaa"', '"bbbbbbbbbbbb"')]
    (row,) = of_environments({"commit": "a" * 40}, {"commit": "a" * 40 + "+"})  # the same commit, but a changed tree
    assert row == ("commit", '"aaaaaaaaaaaa"', '"aaaaaaaaaaaa+"')


def test_values_are_shown_beside_names_that_are_wider_than_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    table = plain_table("results", "one", "other", right=("one", "other"))
    add_row(table, f"finetune_words.tasks.{'conll2003' * 6}.others.accuracy.mean", "0.12345", "0.67890")
    show(table)
    shown = capsys.readouterr().out
    assert "0.12345" in shown and "0.67890" in shown and max(map(len, shown.splitlines())) <= 80


def test_in_a_pipe_a_row_is_a_line(finished, copied):
    environment = json.loads((copied / "environment.json").read_text())
    environment["processors"] = "a processor of many words " * 10
    (copied / "environment.json").write_text(json.dumps(environment))
    done = command(finished, "runs", "diff", finished.path, copied, columns=None)
    row, = (line for line in done.stdout.splitlines() if line.startswith("processors"))
    assert row.rstrip().endswith('of many words "') and row.count("of many words") == 10


def equal(one: Path, other: Path) -> bool:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_becomes_the_model_that_the_run_left(finished, run, tmp_path):
    done = command(finished, "export", finished.path, tmp_path / "made", "--checkpoint", "latest")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'made'}: step 8 of pretrain of the run `tiny`: README.md, config.json")
    model = finished.path / "pretrain/model"
    assert equal(tmp_path / "made", model)
    assert (tmp_path / "made/config.json").read_text() == (model / "config.json").read_text()
    ours, theirs = (AutoModelForPreTraining.from_pretrained(folder).eval() for folder in (tmp_path / "made", model))
    assert ours.get_output_embeddings().weight.data_ptr() == ours.get_input_embeddings().weight.data_ptr()
    ids = torch.randint(5, 300, (4, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)

    command(finished, "export", finished.path, tmp_path / "early", "--checkpoint", "3", "--stage", "retrieval")
    assert not equal(tmp_path / "early", finished.path / "retrieval/model")
    went_on = run.launch(f'--set=stages.pretrain.from="path:{tmp_path / "early"}"', "--set=stages.pretrain.steps=3",
                         recipe=ALONE)
    assert went_on.returncode == 0, went_on.stdout + went_on.stderr


REFUSED = {
    "a step that is none": (("--checkpoint", "7"), "has no checkpoint of step 7: it has 6 and 8"),
    "a path": (("--checkpoint", "../8"), "has no checkpoint of step ../8"),
    "a stage that is none": (("--checkpoint", "latest", "--stage", "finetune"),
                             "has checkpoints of no such training; choose from --stage retrieval, --stage pretrain"),
    "an ONNX file": (("--checkpoint", "latest", "--onnx"), "--onnx is for model folders"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_exported_is_refused(finished, tmp_path, what):
    words, told = REFUSED[what]
    done = command(finished, "export", finished.path, tmp_path / "made", *words)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "made").exists()


def test_a_damaged_checkpoint_is_never_unpickled(finished, copied, tmp_path):
    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    folder = copied / "pretrain/checkpoints/step_00000008"
    torch.save({"module": Payload()}, folder / "mp_rank_00_model_states.pt")
    done = command(finished, "export", copied, tmp_path / "made", "--checkpoint", "8")
    assert done.returncode == 2 and "mp_rank_00_model_states.pt has " in done.stderr
    assert not (tmp_path / "made").exists() and not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("zero_stage", "precision"), [(0, "bf16"), (2, "bf16"), (3, "fp32")])
def test_of_every_zero_stage(run, tmp_path, zero_stage, precision):
    done = run.launch(f"--set=engine.zero_stage={zero_stage}", f'--set=engine.precision="{precision}"',
                      "--set=stages.pretrain.steps=6", recipe=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    made = command(run, "export", run.path, tmp_path / "made", "--checkpoint", "latest")
    assert made.returncode == 0, made.stderr
    assert equal(tmp_path / "made", run.path / "pretrain/model")


def test_of_a_fine_tuning_that_is_going_on(run, tmp_path):
    process = run.start("--set=stages.finetune.steps=100000")
    run.wait_for(lambda event: event["event"] == "CheckpointSaved" and event["stage"] == "finetune", process)
    process.kill()
    process.wait()
    done = command(run, "runs", "verify", run.path)
    assert done.returncode == 0 and "finetune/topic/seed0_lr0.001_batch4" in done.stdout, done.stdout
    made = command(run, "export", run.path, tmp_path / "made", "--checkpoint", "latest", "--task", "topic")
    assert made.returncode == 0, made.stderr
    folder = next(run.path.glob("finetune/topic/trainings/*/checkpoints"))
    assert f"step {manifests.steps(folder)[-1]} of finetune/topic/seed0_lr0.001_batch4" in made.stdout
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "made").config.num_labels == 11
