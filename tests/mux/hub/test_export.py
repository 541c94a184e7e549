"""`mux export`: the right model of a run, in a folder that the Auto classes load, whole or not at all."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForPreTraining, AutoModelForSequenceClassification, AutoTokenizer

from mux.hub.export import export, find_model
from mux.model import MuxForPreTraining, MuxForSequenceClassification, MuxModel
from mux.plan import Cluster, Host, Plan, StagePlan
from mux.run import RunDirectory, write_json

ROOT = Path(__file__).parents[3]
SCORES = {"metric": "accuracy", "mean": 0.75, "std": 0.0, "max": 0.75, "min": 0.75, "tickets": [0.75], "majority": 0.5}
KINDS = {"retrieval": "retrieval", "pretrain": "pretrain", "tune": "finetune"}


@pytest.fixture
def run(tmp_path, model_folder):
    """A run directory as the launcher and the stages leave it: pre-trained, and fine-tuned on two tasks."""
    path = tmp_path / "trial"
    models = {"retrieval/model": MuxForPreTraining, "pretrain/model": MuxForPreTraining,
              "tune/topic/model": MuxForSequenceClassification, "tune/mood/model": MuxForSequenceClassification}
    for place, kind in models.items():
        (path / place).parent.mkdir(parents=True)
        model_folder(kind, num_instances=2, num_labels=3).rename(path / place)
    host = Host(name="here", slots=1, local=True)
    recipe = {"corpus": {"sources": ["path:texts/*.txt"]},
              "tasks": {"define": {"mood": {"train": "path:moods.jsonl", "test": "path:test.jsonl"}}}}
    sources = {"retrieval": "hub:some/bert", "pretrain": "retrieval", "tune": "pretrain"}
    stages = tuple(StagePlan(id=name, kind=kind, source=sources[name], devices=1) for name, kind in KINDS.items())
    RunDirectory(path).write_plan(Plan(
        name="trial", directory=str(path), recipe=recipe, recipe_digest="", provenance={}, model={}, stages=stages,
        jobs=(), cluster=Cluster(hosts=(host,), device="cpu", source="this host"), parameters=1, memory=[],
        disk_bytes=1))
    tasks = {name: SCORES | {"model": f"tune/{name}/model"} for name in ("topic", "mood")}
    write_json(path / "results.json", {"schema": 1, "name": "trial", "status": "finished", "stages": [
        {"id": "retrieval", "kind": "retrieval", "status": "done", "model": "retrieval/model"},
        {"id": "pretrain", "kind": "pretrain", "status": "done", "model": "pretrain/model"},
        {"id": "tune", "kind": "finetune", "status": "done", "tasks": tasks}]})
    return path


def test_the_folder_is_the_model(run, tmp_path):
    names = export(find_model(str(run), task="mood"), tmp_path / "out" / "mood")
    folder = tmp_path / "out" / "mood"
    assert names == sorted(path.name for path in folder.iterdir())
    assert set(names) >= {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    ids = torch.randint(5, 40, (5, 9))
    with torch.no_grad():
        expected, found = (AutoModelForSequenceClassification.from_pretrained(place).eval()(ids).logits
                           for place in (run / "tune/mood/model", folder))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 64
    card = (folder / "README.md").read_text()
    assert "# trial-mood" in card
    assert "Made by stage `tune` of the run `trial`, which began with `hub:some/bert`." in card
    assert "| tune | mood | 1 | accuracy | 0.7500 |" in card and "| tune | topic" not in card
    assert [line for line in card.splitlines() if line.startswith("- `") and "mux" not in line] == [
        "- `path:texts/*.txt`", "- `path:moods.jsonl`"]
    assert not list((tmp_path / "out").glob("*.part")) and not list((tmp_path / "out").glob(".*"))


def test_a_run_without_its_models_says_so(run):
    shutil.rmtree(run / "tune/mood/model")
    assert find_model(str(run), task="topic").folder == run / "tune/topic/model"
    for folder in [path for path in run.rglob("model") if path.is_dir()]:
        shutil.rmtree(folder)
    with pytest.raises(ValueError, match="holds none of its models: they were deleted, or this is a record"):
        find_model(str(run))


def test_a_choice_among_models(run):
    with pytest.raises(ValueError, match=r"several models; choose from --stage retrieval, --stage pretrain, "
                                         r"--stage tune --task topic, --stage tune --task mood"):
        find_model(str(run))
    assert find_model(str(run), task="topic").folder == run / "tune/topic/model"
    assert find_model(str(run), stage="retrieval").folder == run / "retrieval/model"
    for options in ({"task": "none"}, {"stage": "none"}, {"stage": "pretrain", "task": "topic"}):
        with pytest.raises(ValueError, match="no such model; choose from --stage retrieval"):
            find_model(str(run), **options)
    results = json.loads((run / "results.json").read_text())
    results["stages"][2]["status"] = "pending"
    write_json(run / "results.json", results)
    assert find_model(str(run)).folder == run / "pretrain/model"
    assert find_model(str(run)).sources == ("path:texts/*.txt",)
    for stage in results["stages"]:
        stage["status"] = "pending"
    write_json(run / "results.json", results)
    with pytest.raises(ValueError, match="none has been trained yet"):
        find_model(str(run))


def test_a_model_folder_is_exported_with_its_companions(model_folder, tmp_path):
    folder = model_folder(MuxForPreTraining, num_instances=2)
    (folder / "companions.json").write_text('["w1"]')
    with pytest.raises(ValueError, match="is a model folder: --stage and --task"):
        find_model(str(folder), task="topic")
    export(find_model(str(folder)), tmp_path / "out")
    assert (tmp_path / "out" / "companions.json").read_text() == '["w1"]'
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path / "out")) is MuxForPreTraining
    assert "head.decoder.weight" not in load_file(tmp_path / "out" / "model.safetensors")  # tied, stored once


def test_half_precision_halves_the_weights_and_loads_as_it_is(model_folder, tmp_path):
    folder = model_folder(MuxForSequenceClassification, num_instances=2)
    export(find_model(str(folder)), tmp_path / "half", precision="bf16")
    whole, half = ((at / "model.safetensors").stat().st_size for at in (folder, tmp_path / "half"))
    assert 0.45 < half / whole < 0.6
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    with pytest.raises(ValueError, match="no precision 'fp8'"):
        export(find_model(str(folder)), tmp_path / "other", precision="fp8")
    with pytest.raises(ValueError, match=r"a file has no fp32-medium.*mux predict --precision fp32-medium"):
        export(find_model(str(folder)), tmp_path / "other", precision="fp32-medium")
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_exported_leaves_nothing(model_folder, tmp_path):
    folder = model_folder(MuxForSequenceClassification, num_instances=2)
    origin, out = find_model(str(folder)), tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        export(origin, out)
    assert [path.name for path in out.iterdir()] == ["mine"]
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in weights.items() if name != "classifier.bias"},
              folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of its model, classifier\.bias among them"):
        export(origin, tmp_path / "other")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match="has no tokenizer"):
        export(origin, tmp_path / "other")
    with pytest.raises(ValueError, match="only models with a head are exported"):
        export(find_model(str(model_folder(MuxModel, num_instances=2))), tmp_path / "other")
    with pytest.raises(ValueError, match="neither a model folder"):
        find_model(str(tmp_path))
    assert not (tmp_path / "other").exists() and not list(tmp_path.glob(".*"))


CODE = """
import sys
from pathlib import Path
from mux.hub.export import export, find_model
from mux.hub.princeton import import_folder, read_tokenizer
from mux.model import MuxConfig
folder, out = map(Path, sys.argv[2:])
use = {"export": lambda: export(find_model(str(folder)), out), "import": lambda: import_folder(folder, out),
       "tokenizer": lambda: read_tokenizer(folder, MuxConfig())}
try:
    use[sys.argv[1]]()
except ValueError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize(("use", "told"), [
    ("export", "transformers makes no configuration of it"), ("import", 'model_type is "evil"'),
    ("tokenizer", "the tokenizer cannot be loaded"),
])
def test_code_in_a_folder_is_not_run_even_if_stdin_agrees(use, told, tmp_path):
    """Without trust_remote_code=False transformers asks on stdin whether to run it."""
    folder, trace = tmp_path / "evil", tmp_path / "trace"
    folder.mkdir()
    code = f"open({str(trace)!r}, 'w')\nclass Evil: pass\nclass EvilConfig: pass\n"
    (folder / "evil.py").write_text(code)
    places = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": places}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Evil", "auto_map": places}))
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
    done = subprocess.run([sys.executable, "-c", CODE, use, str(folder), str(tmp_path / "out")], input="y\n" * 9,
                          cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused:") and told in done.stdout and "[y/N]" not in done.stdout
    assert not trace.exists() and not (tmp_path / "out").exists()
