"""MUX models that begin with a plain BERT or ELECTRA: the same encoder to the last bit, and nothing lost in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraForPreTraining,
    ElectraModel,
)

from mux.hub.warm_start import warm_start
from mux.model import MuxConfig, MuxForPreTraining, MuxForSequenceClassification, MuxForTokenClassification

SHAPE = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64, "max_position_embeddings": 40}
HEADS = [MuxForPreTraining, MuxForSequenceClassification, MuxForTokenClassification]


def saved(kind: Any, folder: Path, **fields: Any) -> Any:
    """A checkpoint of random weights, and its model."""
    torch.manual_seed(0)
    config = ElectraConfig if kind.__name__.startswith("Electra") else BertConfig
    model = kind(config(**{**SHAPE, **fields})).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


def mux(kind: Any = MuxForSequenceClassification, **fields: Any) -> Any:
    torch.manual_seed(1)
    return kind(MuxConfig(**{**SHAPE, "num_instances": 2, **fields})).eval()


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind, fields", [
    (BertForMaskedLM, {}), (BertForPreTraining, {}), (BertModel, {}), (BertForSequenceClassification, {}),
    (ElectraForPreTraining, {"family": "electra", "embedding_size": 16}),
    (ElectraModel, {"family": "electra", "embedding_size": 32}),
])
def test_the_encoder_is_the_checkpoints(kind: Any, fields: dict, head: Any, tmp_path: Path):
    theirs = saved(kind, tmp_path, **{name: fields[name] for name in fields if name != "family"})
    ours = mux(head, **fields)
    before = state(ours)
    new = warm_start(ours, tmp_path)
    ids = torch.randint(5, 90, (2, 9))
    encoder = theirs.base_model
    with torch.no_grad():
        torch.testing.assert_close(ours.mux.backbone(ids).last_hidden_state, encoder(ids).last_hidden_state,
                                   atol=0, rtol=0)
    # `new` is what did not change, and nothing of the encoder.
    assert not any(name.startswith("mux.backbone.") for name in new)
    assert {name for name, tensor in ours.state_dict().items() if torch.equal(tensor, before[name])} >= set(new)
    assert any(name.startswith("mux.demultiplexer.") for name in new) and "mux.multiplexer.keys" in new


def test_what_a_masked_language_model_gives_its_head(tmp_path: Path):
    theirs = saved(BertForMaskedLM, tmp_path)
    ours = mux(MuxForPreTraining)
    new = warm_start(ours, tmp_path)
    assert torch.equal(ours.head.decoder.bias, theirs.cls.predictions.bias)
    assert ours.head.decoder.weight is ours.get_input_embeddings().weight
    assert all(name.startswith(("mux.multiplexer.", "mux.demultiplexer.")) for name in new)


def test_a_discriminator_gives_its_head(tmp_path: Path):
    theirs = saved(ElectraForPreTraining, tmp_path, embedding_size=32)
    ours = mux(MuxForPreTraining, family="electra")
    new = warm_start(ours, tmp_path)
    assert torch.equal(ours.discriminator.dense_prediction.weight,
                       theirs.discriminator_predictions.dense_prediction.weight)
    assert {"head.decoder.weight", "head.decoder.bias"} <= set(new)  # ELECTRA has no vocabulary head to take over


def test_plain_models_take_everything(tmp_path: Path):
    """N = 1: the whole masked language model; a classifier's pooler, but not its task."""
    theirs = saved(BertForMaskedLM, tmp_path / "language")
    ours = mux(MuxForPreTraining, num_instances=1)
    assert warm_start(ours, tmp_path / "language") == []
    ids = torch.randint(5, 90, (3, 9))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-6, rtol=0)
    classifier = saved(BertForSequenceClassification, tmp_path / "classifier")
    ours = mux(num_instances=1)
    assert warm_start(ours, tmp_path / "classifier") == ["classifier.bias", "classifier.weight"]
    assert torch.equal(ours.pooler.dense.weight, classifier.bert.pooler.dense.weight)


def test_prefix_markers_stay_new(tmp_path: Path):
    theirs = saved(BertForMaskedLM, tmp_path)
    ours = mux(MuxForPreTraining, demultiplexer="prefix")
    markers = ours.get_input_embeddings().weight[90:].clone()
    assert len(markers) == 3
    warm_start(ours, tmp_path)
    words = ours.get_input_embeddings().weight
    assert torch.equal(words[:90], theirs.get_input_embeddings().weight) and torch.equal(words[90:], markers)
    assert torch.equal(ours.head.decoder.bias[:90], theirs.cls.predictions.bias)


@pytest.mark.parametrize("binary", [True, False])
def test_the_first_checkpoints(binary: bool, tmp_path: Path):
    """gamma and beta of layer norms, and no prefix on a base model's names."""
    saved(BertForMaskedLM, tmp_path)
    path = tmp_path / "model.safetensors"
    old = {name.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma")
           .replace("LayerNorm.bias", "LayerNorm.beta"): tensor
           for name, tensor in load_file(path).items() if name.startswith("bert.")}
    expected = mux()
    warm_start(expected, tmp_path)
    path.unlink()
    if binary:
        torch.save(old, tmp_path / "pytorch_model.bin")
    else:
        save_file(old, path)
    ours = mux()
    warm_start(ours, tmp_path)
    assert all(torch.equal(tensor, state(expected)[name]) for name, tensor in ours.state_dict().items())


# --- what is refused ----------------------------------------------------------------------------------------------
def refusal(model: Any, folder: Path) -> str:
    """What warm_start says; the model must be as it was."""
    before = state(model)
    with pytest.raises(ValueError) as caught:
        warm_start(model, folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return str(caught.value)


@pytest.mark.parametrize("field, value", [
    ("vocab_size", 91), ("hidden_size", 64), ("num_hidden_layers", 3), ("num_hidden_layers", 1),
    ("num_attention_heads", 2), ("intermediate_size", 128), ("max_position_embeddings", 41), ("type_vocab_size", 3),
    ("hidden_act", "relu"), ("layer_norm_eps", 1e-5), ("pad_token_id", 1),
])
def test_another_shape(field: str, value: Any, tmp_path: Path):
    saved(BertModel, tmp_path, **{field: value})
    assert f"{tmp_path} has {field} = {value}, this model has" in refusal(mux(), tmp_path)


def test_weights_of_another_shape_than_their_config(tmp_path: Path):
    saved(BertModel, tmp_path, vocab_size=95)
    config = json.loads((tmp_path / "config.json").read_text()) | {"vocab_size": 90}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = refusal(mux(), tmp_path)
    assert "bert.embeddings.word_embeddings.weight is [95, 32]; in this model it is [90, 32]" in text
    assert str(tmp_path / "model.safetensors") in text
    assert "[95, 32]" in refusal(mux(num_instances=3, demultiplexer="prefix"), tmp_path)


def test_another_embedding_size(tmp_path: Path):
    saved(ElectraModel, tmp_path, embedding_size=16)
    assert "embedding_size = 16, this model has 32" in refusal(mux(family="electra"), tmp_path)


def test_a_missing_or_an_unknown_weight(tmp_path: Path):
    saved(BertForMaskedLM, tmp_path)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    name = "bert.encoder.layer.1.output.dense.bias"
    save_file({other: tensor for other, tensor in whole.items() if other != name}, path)
    assert refusal(mux(), tmp_path) == f"{path}: {name} is missing"
    for name in ("bert.encoder.layer.2.output.dense.bias", "roberta.embeddings.LayerNorm.bias", "extra"):
        save_file(whole | {name: torch.zeros(32)}, path)
        assert name in refusal(mux(), tmp_path)


def test_another_family(tmp_path: Path):
    saved(BertModel, tmp_path / "bert")
    assert "is a model of family bert, this one of electra" in refusal(mux(family="electra"), tmp_path / "bert")
    DistilBertModel(DistilBertConfig(vocab_size=90, dim=32, n_layers=1, n_heads=2, hidden_dim=64)).save_pretrained(
        tmp_path / "distil")
    assert 'model_type is "distilbert"; it must be bert or electra' in refusal(mux(), tmp_path / "distil")


def test_a_folder_that_is_none(tmp_path: Path):
    assert "no such folder" in refusal(mux(), tmp_path / "nowhere")
    assert "no config.json" in refusal(mux(), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(BertConfig(**SHAPE).to_dict()))
    assert "has no weights" in refusal(mux(), tmp_path)
