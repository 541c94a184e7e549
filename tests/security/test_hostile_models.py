"""Model folders made by someone who means harm: each is refused by name or harmless, and nothing in it is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from mux.hub.export import export, find_model
from mux.hub.princeton import import_folder
from mux.model import MuxForSequenceClassification, pipeline
from mux.model.opening import open_config
from mux.predict import Predictor
from mux.predict.heads import Text
from mux.stages.loading import load_model
from tests.mux.conftest import model, tokenizer

Change = Callable[[Path], None]


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "model"
    labels = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    model(MuxForSequenceClassification, num_instances=2, **labels).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def hostile(sound: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """A copy of a sound folder, changed. Whatever is executed of it leaves a trace, and there must be none."""
    def make(change: Change) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(sound, folder)
        (folder / "own.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
        change(folder)
        return folder

    yield make
    assert not (tmp_path / "trace").exists()


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self.trace),)


def config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return change


def content(name: str, data: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(data)  # type: ignore[return-value]


def instead(make: Callable[[Path], Any], *names: str) -> Change:
    """Something else in the place of files."""
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()
            make(folder / name)
    return change


def pickled(save: Callable[[Any, Path], None]) -> Change:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        save({"classifier.weight": Payload(folder.parent / "trace")}, folder / "pytorch_model.bin")
    return change


def slow_expression(folder: Path) -> None:
    path = folder / "tokenizer.json"
    splitting = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pre_tokenizer": splitting}))


def elsewhere(folder: Path) -> None:
    """An index that names weights outside of the folder; they are tensors all the same."""
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    with safe_open(folder.parent / "other.safetensors", "pt") as file:
        names = list(file.keys())
    index = {"metadata": {}, "weight_map": {name: "../other.safetensors" for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


HEADER = "the weights cannot be loaded: Error while deserializing header: "
NO_WEIGHTS = "the weights cannot be loaded: Error no file named model.safetensors"
NO_CONFIG = "transformers makes no configuration of it: "

REFUSED: dict[str, tuple[Change, str]] = {
    "a pickle": (pickled(lambda value, path: path.write_bytes(pickle.dumps(value))), "the weights are refused"),
    "a pickle in torch's archive": (pickled(torch.save), "the weights are refused: their pickle holds more than tens"),
    "a header of 2^60 bytes": (content("model.safetensors", struct.pack("<Q", 2**60)), f"{HEADER}header too large"),
    "a header of negative length": (content("model.safetensors", b"\xff" * 8 + b"{}"), f"{HEADER}header too large"),
    "a header of brackets": (content("model.safetensors", struct.pack("<Q", 200_000) + b"[" * 200_000), HEADER),
    "no bytes": (content("model.safetensors", b""), f"{HEADER}header too small"),
    "weights without end": (instead(lambda path: path.symlink_to("/dev/zero"), "model.safetensors"), NO_WEIGHTS),
    "weights from a pipe": (instead(os.mkfifo, "model.safetensors"), NO_WEIGHTS),
    "10^9 layers": (config(num_hidden_layers=10**9), f"{NO_CONFIG}num_hidden_layers = 1,000,000,000 is more than"),
    "10^9 demultiplexer layers": (config(demultiplexer_layers=10**9), f"{NO_CONFIG}demultiplexer_layers = 1,000,000"),
    "10^7 classes": (config(num_labels=10**7), f"{NO_CONFIG}num_labels = 10,000,000 is more than 100,000"),
    "a width of 10^9": (config(hidden_size=10**9, embedding_size=10**9), "config.json describes 12,000,000,"),
    "a vocabulary of 10^12": (config(vocab_size=10**12), "config.json describes 32,000,000,"),
    "10^12 positions": (config(max_position_embeddings=10**12), "config.json describes 32,000,000,"),
    "N = 10^9": (config(num_instances=10**9), f"{NO_CONFIG}num_instances = 1,000,000,000 is more than 10,000"),
    "N = 0": (config(num_instances=0), f"{NO_CONFIG}num_instances is at least 1, not 0"),
    "N of another model": (config(num_instances=3), "has 2 weights in another shape than config.json"),
    "N in words": (config(num_instances="2"), NO_CONFIG),
    "another vocabulary": (config(vocab_size=99), "has 1 weights in another shape than config.json"),
    "an activation that is code": (config(hidden_act="__import__('os').system"), "the weights cannot be loaded"),
    "another kind of model": (config(model_type="../../x"), NO_CONFIG),
    "a configuration of brackets": (content("config.json", b"[" * 100_000), NO_CONFIG),
    "a configuration that is no table": (content("config.json", b"[]"), NO_CONFIG),
    "a configuration of other bytes": (content("config.json", b"\xff\xfe\0"), NO_CONFIG),
    "a configuration from a pipe": (instead(os.mkfifo, "config.json"), NO_CONFIG),
    "a tokenizer of 50 MB": (content("tokenizer.json", b'{"a": "' + b"x" * 50_000_000 + b'"}'), "has no tokenizer"),
    "a tokenizer of brackets": (content("tokenizer.json", b"[" * 1_000_000), "has no tokenizer that can be loaded"),
    "half a tokenizer": (content("tokenizer.json", b"{"), "has no tokenizer that can be loaded"),
    "a tokenizer of its own": (content("tokenizer_config.json", json.dumps(
        {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}).encode()), "has no tokenizer"),
    "a configuration of its own": (config(model_type="own", auto_map={"AutoConfig": "own.Own"}), NO_CONFIG),
}


@pytest.mark.parametrize(("change", "told"), REFUSED.values(), ids=REFUSED)
def test_refused(hostile: Callable[[Change], Path], change: Change, told: str) -> None:
    """As `mux predict` reads it; so do the others, as below."""
    folder = hostile(change)
    with pytest.raises(ValueError) as refused:
        Predictor(folder)
    assert str(folder) in str(refused.value) and told in str(refused.value)
    assert all(letter.isprintable() or letter == "\n" for letter in str(refused.value))


HARMLESS: dict[str, Change] = {
    "code beside a known kind": config(auto_map={"AutoConfig": "own.Own",
                                                 "AutoModelForSequenceClassification": "own.Own"}),
    "a slow expression": slow_expression,
    "weights outside": elsewhere,
    "a template": content("chat_template.jinja", b"{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    "an adapter": content("adapter_config.json", b'{"base_model_name_or_path": "../evil", "peft_type": "LORA"}'),
    "generation": content("generation_config.json", b"{"),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_harmless(hostile: Callable[[Change], Path], sound: Path, change: Change) -> None:
    texts = [Text("w1 w2"), Text("w3 a")]
    assert len(Predictor(hostile(change)).predict(texts)) == 2
    assert len(Predictor(sound).predict(texts)) == 2


OPENERS: dict[str, Callable[[Path, Path], Any]] = {
    "a pipeline": lambda folder, out: pipeline("text-classification", folder)("w1"),
    "an export": lambda folder, out: export(find_model(str(folder)), out),
    "an import": lambda folder, out: import_folder(folder, out),
    "a stage": lambda folder, out: load_model(MuxForSequenceClassification, folder,
                                              open_config(folder.parent / "sound")),  # type: ignore[arg-type]
}
EACH = ("a pickle in torch's archive", "a header of 2^60 bytes", "10^9 layers", "N of another model", "N in words",
        "another vocabulary", "a configuration of brackets", "a configuration of its own")


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("change", EACH)
def test_whoever_reads_it(hostile: Callable[[Change], Path], sound: Path, tmp_path: Path, opener: str,
                          change: str) -> None:
    """Nothing is run, nothing written, and but for transformers' own pipeline the answer is a sentence."""
    folder = hostile(REFUSED[change][0])
    (tmp_path / "sound").symlink_to(sound)
    own = opener != "a pipeline"  # which is transformers', and fails in its words
    with pytest.raises(ValueError if own else Exception) as refused:
        OPENERS[opener](folder, tmp_path / "out")
    assert not (tmp_path / "out").exists() and (not own or str(folder) in str(refused.value))
