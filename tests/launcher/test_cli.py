"""The commands for models: what they print, what they leave, how they end."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from mux.model import MuxForPreTraining, MuxForSequenceClassification
from tests.mux.conftest import model, tokenizer

MUX = str(Path(sys.executable).parent / "mux")
LABELS = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}


def mux(*words, **options):
    return subprocess.run([MUX, *map(str, words)], capture_output=True, text=True, timeout=120, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "moods"
    model(MuxForSequenceClassification, num_instances=2, **LABELS).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def test_help_is_quick_and_shows_an_example():
    code = ("import sys; from launcher import cli; cli.mux(sys.argv[1:], standalone_mode=False); "
            "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)")
    for words in (["--help"], ["predict", "--help"], ["export", "--help"], ["import", "princeton", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert words == ["--help"] or "Example: mux" in done.stdout
    assert all(name in mux("--help").stdout for name in ("import", "export", "predict", "watch", "stop", "runs"))


def test_predict_from_a_file_to_a_file(folder, tmp_path):
    (tmp_path / "in.csv").write_text("id,review\n1,w1 w2\n2,w3\n3,w4a w5\n")
    done = mux("predict", folder, tmp_path / "in.csv", "--text", "review", "--output", tmp_path / "out.jsonl",
               "--copies", 2, "--scores")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{tmp_path / 'out.jsonl'}: 3 rows\n")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["1", "2", "3"] and set(rows[0]["scores"]) == {"bad", "good"}


def test_predict_from_stdin_to_stdout(folder):
    done = mux("predict", folder, "-", "--companions", "fixed", input="w1 w2\n\nw3\n")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and done.stderr == ""
    assert [row["text"] for row in rows] == ["w1 w2", "w3"] and rows[0]["prediction"] in ("bad", "good")
    done = mux("predict", folder, "-", "--input-format", "tsv", input="id\ttext\n7\tw3\n")
    assert done.stdout.splitlines()[0] == "id\ttext\tprediction\tscore" and done.stdout.splitlines()[1][:5] == "7\tw3\t"


@pytest.mark.parametrize(("options", "says"), [
    (["--copies", "3"], "3 copies: a model of N = 2 takes 1 to 2"),
    (["--companions", "none"], "companions are length, given, fixed: not 'none'"),
    (["--text", "body"], "in.jsonl:1: has no column 'body'"),
    (["--output", "out.xml"], "out.xml: must be a .jsonl, .csv or .tsv file"),
    (["--output", "none/out.csv"], "none: is no folder to write to"),
    (["--stage", "tune"], "is a model folder: --stage and --task choose a model of a run"),
    (["--max-length", "65"], "this model reads 3 to 64"),
])
def test_predict_refuses_before_it_begins(folder, tmp_path, options, says):
    (tmp_path / "in.jsonl").write_text('{"text": "w1"}\n')
    done = mux("predict", folder, "in.jsonl", *options, cwd=tmp_path)
    assert done.returncode == 2 and says in done.stderr and done.stdout == ""
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(("file", "auto_map", "says"), [
    ("config.json", {"AutoConfig": "own.Config"}, "contains custom code"),
    ("tokenizer_config.json", {"AutoTokenizer": ["own.Tokenizer", None]}, "has no tokenizer that can be loaded"),
])
def test_predict_runs_no_code_of_a_folder_whatever_stdin_says(folder, tmp_path, file, auto_map, says):
    """transformers would ask, and take a text for the answer."""
    shutil.copytree(folder, tmp_path / "model")
    changed = json.loads((folder / file).read_text())
    changed |= {"auto_map": auto_map} | {key: "Own" for key in ("model_type", "tokenizer_class") if key in changed}
    (tmp_path / "model" / file).write_text(json.dumps(changed))
    (tmp_path / "model" / "own.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    done = mux("predict", tmp_path / "model", "-", input="y\n" * 9)
    assert not (tmp_path / "trace").exists()
    assert done.returncode == 2 and says in done.stderr and done.stdout == "" and "Traceback" not in done.stderr


def test_predict_names_a_bad_line_and_writes_nothing(folder, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "w1"}\n{"text": "w2"\n')
    done = mux("predict", folder, "in.jsonl", "--output", "out.jsonl", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("in.jsonl:2: is not JSON")
    assert not list(tmp_path.glob("out*"))
    done = mux("predict", folder, "none.jsonl", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr == "none.jsonl: cannot be read: No such file or directory\n"


def test_predict_stopped_by_ctrl_c_leaves_its_part(folder, tmp_path):
    """Through a pipe that never ends: whole windows are written as they come."""
    process = subprocess.Popen([MUX, "predict", str(folder), "-", "--output", str(tmp_path / "out.jsonl")],
                               stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL))  # not as in "pytest &"
    process.stdin.write("w1\n" * 3000)  # a window is 2560 texts
    process.stdin.flush()
    part = tmp_path / "out.jsonl.part"
    while not (part.exists() and part.stat().st_size):
        assert process.poll() is None
        os.sched_yield()
    presses = 0
    while process.poll() is None and presses < 6:  # Python prints and loses one that falls into a destructor
        presses += 1
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and str(part) in errors, errors
    assert presses > 1 or "Traceback" not in errors, errors
    rows = [json.loads(line) for line in part.read_text().splitlines()]
    assert 0 < len(rows) <= 2560 and all(row["prediction"] for row in rows) and not (tmp_path / "out.jsonl").exists()


def test_predict_ends_quietly_when_its_reader_does(folder, tmp_path):
    (tmp_path / "in.txt").write_text("w1 w2 w3 w4 w5 w6 w7 w8\n" * 9000)
    done = subprocess.run(f"{MUX} predict {folder} in.txt | head -1", shell=True, cwd=tmp_path, capture_output=True,
                          text=True, timeout=120)
    assert json.loads(done.stdout)["prediction"] in ("bad", "good") and done.stderr == ""


def test_export_and_its_refusals(folder, tmp_path):
    done = mux("export", folder, tmp_path / "out")
    assert done.returncode == 0 and "README.md, config.json, model.safetensors" in done.stdout and done.stderr == ""
    done = mux("export", folder, tmp_path / "out")
    assert done.returncode == 2 and "exists already" in done.stderr
    done = mux("export", tmp_path, tmp_path / "other")
    assert done.returncode == 2 and "neither a model folder (config.json) nor a run directory" in done.stderr


def test_import_of_what_is_no_checkpoint(tmp_path):
    done = mux("import", "princeton", tmp_path, tmp_path / "out")
    assert done.returncode == 2 and "config.json" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_pre_trained_model_predicts_nothing(tmp_path):
    torch.manual_seed(0)
    model(MuxForPreTraining, num_instances=2).save_pretrained(tmp_path / "model")
    done = mux("predict", tmp_path / "model", "-", input="w1\n")
    assert done.returncode == 2 and "holds MuxForPreTraining" in done.stderr
