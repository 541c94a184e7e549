"""Which folders a model starts from, and which are refused by the name of what differs."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from mux.model import MuxConfig, MuxForPreTraining, MuxForSequenceClassification, MuxForTokenClassification
from mux.stages.loading import TASK_HEADS, config_of, load_model

SMALL = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
         "max_position_embeddings": 32}


def config(**fields) -> MuxConfig:
    return MuxConfig(**SMALL | {"num_instances": 2} | fields)


@pytest.fixture
def saved(tmp_path):
    """saved(kind, **fields): a folder with such a model."""
    def saved(kind=MuxForPreTraining, **fields):
        folder = tmp_path / "model"
        kind(config(**fields)).save_pretrained(folder)
        return folder

    return saved


@pytest.mark.parametrize("fields", [
    {"family": "electra", "embedding_size": 16, "multiplexer": "contextual_v1"},
    {"multiplexer": "orthogonal", "demultiplexer": "prefix"}, {"compat": "princeton"}, {"num_instances": 1},
    {"learn_keys": True},
], ids=str)
@pytest.mark.parametrize("kind", [MuxForSequenceClassification, MuxForTokenClassification])
def test_every_weight_but_the_tasks_own_comes_from_the_folder(saved, kind, fields):
    folder = saved(**fields)
    trained = MuxForPreTraining.from_pretrained(folder).state_dict()
    model = load_model(kind, folder, config(**fields, num_labels=3), new=TASK_HEADS)
    for name, tensor in model.state_dict().items():
        assert name.startswith(TASK_HEADS) or torch.equal(tensor, trained[name]), name
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_a_retrieval_loss_may_need_a_vocabulary_head_that_the_folder_lacks(saved):
    folder = saved(MuxForSequenceClassification, num_labels=3)
    model = load_model(MuxForSequenceClassification, folder, config(retrieval_weight=0.1, num_labels=3), new=TASK_HEADS)
    assert model.head is not None
    words = model.mux.backbone.embeddings.word_embeddings.weight
    assert model.head.decoder.weight is words
    with pytest.raises(ValueError, match=r"lacks \d+ weights of this model .*head"):
        load_model(MuxForPreTraining, folder, config())


def test_a_head_for_other_classes_is_drawn_anew(saved):
    folder = saved(MuxForSequenceClassification, num_labels=3)
    model = load_model(MuxForSequenceClassification, folder, config(num_labels=5), new=TASK_HEADS)
    assert model.classifier.weight.shape == (5, 32)
    with pytest.raises(ValueError, match=r"or has them in another shape, classifier\.bias among them"):
        load_model(MuxForSequenceClassification, folder, config(num_labels=5))


@pytest.mark.parametrize(("stored", "asked", "message"), [
    ({"num_instances": 5}, {}, "num_instances = 5, this recipe asks for 2"),
    ({}, {"family": "electra"}, "family = bert, this recipe asks for electra"),
    ({}, {"hidden_size": 64}, "size = 32, this recipe asks for 64"),
    ({}, {"multiplexer": "binary"}, "multiplexer = gaussian, this recipe asks for binary"),
    ({"demultiplexer": "prefix"}, {}, "demultiplexer = prefix, this recipe asks for rsa"),
    ({"demultiplexer_layers": 2}, {}, "demultiplexer_layers = 2, this recipe asks for 3"),
    ({"compat": "princeton"}, {}, "shared_demultiplexer = False, this recipe asks for True|plain_single = False"),
    ({}, {"mask_padding": False}, "mask_padding = True, this recipe asks for False"),
    ({}, {"own_special_ids": False}, "own_special_ids = True, this recipe asks for False"),
    ({"hidden_act": "relu"}, {}, "hidden_act = relu, this recipe asks for gelu"),
    ({"layer_norm_eps": 1e-5}, {}, "layer_norm_eps = 1e-05, this recipe asks for 1e-12"),
    ({"type_vocab_size": 3}, {}, "type_vocab_size = 3, this recipe asks for 2"),
    ({"pad_token_id": 1}, {}, "pad_token_id = 1, this recipe asks for 0"),
])
def test_what_differs_is_named(saved, stored, asked, message):
    with pytest.raises(ValueError, match=message):
        load_model(MuxForPreTraining, saved(**stored), config(**asked))


def test_what_says_nothing_about_the_weights_may_differ(saved):
    """Losses change from stage to stage, and a plain encoder has no multiplexer."""
    load_model(MuxForPreTraining, saved(), config(retrieval_weight=0.5, exact_replacement=False, learn_keys=True,
                                                  deterministic_fillers=False, hidden_dropout_prob=0.0))
    load_model(MuxForPreTraining, saved(num_instances=1), config(num_instances=1, multiplexer="binary"))


def test_a_plain_encoder_warm_starts_the_backbone(tmp_path):
    plain = BertForMaskedLM(BertConfig(**SMALL))
    plain.save_pretrained(tmp_path / "plain")
    model = load_model(MuxForTokenClassification, tmp_path / "plain", config(num_labels=3), new=TASK_HEADS)
    state = plain.bert.encoder.state_dict()
    for name, tensor in model.mux.backbone.encoder.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    with pytest.raises(ValueError, match="hidden_size = 32"):
        load_model(MuxForTokenClassification, tmp_path / "plain", config(hidden_size=64))


def test_it_is_said_what_a_plain_encoder_does_not_bring(tmp_path):
    BertForMaskedLM(BertConfig(**SMALL)).save_pretrained(tmp_path)
    for asked, lacking in ((config(num_labels=3), "classifier, demultiplexer and multiplexer"),
                           (config(num_instances=1), "classifier and pooler")):
        told: list[str] = []
        load_model(MuxForSequenceClassification, tmp_path, asked, new=TASK_HEADS, tell=told.append)
        assert told == [f"{tmp_path} is a plain encoder; untrained at the start: {lacking}"]
    told.clear()
    load_model(MuxForPreTraining, tmp_path, config(num_instances=1), tell=told.append)
    assert told == []  # it has everything


@pytest.mark.parametrize(("stored", "asked", "new"), [
    ({"num_instances": 1}, {}, "demultiplexer and multiplexer"),
    ({"num_instances": 1}, {"demultiplexer": "prefix"}, "demultiplexer and multiplexer"),
    ({"num_instances": 5}, {}, "demultiplexer and multiplexer"),
    ({"num_instances": 5, "demultiplexer": "prefix"}, {"demultiplexer": "prefix"}, "multiplexer"),
    ({"num_instances": 4, "multiplexer": "orthogonal_low_rank"}, {"multiplexer": "orthogonal_low_rank"},
     "demultiplexer and multiplexer"),
    ({"num_instances": 5, "family": "electra"}, {"family": "electra"}, "demultiplexer and multiplexer"),
    ({"num_instances": 5}, {"num_instances": 1}, "head"),
], ids=str)
def test_pre_training_may_go_on_at_another_N(saved, stored, asked, new):
    """A curriculum in N: everything but what belongs to slots is kept."""
    folder, told = saved(**stored), []
    trained = MuxForPreTraining.from_pretrained(folder).state_dict()
    with pytest.raises(ValueError, match="num_instances"):
        load_model(MuxForPreTraining, folder, config(**asked))
    model = load_model(MuxForPreTraining, folder, config(**asked), tell=told.append, another_N=True)
    for name, tensor in model.state_dict().items():
        if name.removeprefix("mux.") in ("multiplexer.keys", "demultiplexer.keys"):
            assert tensor.shape != trained[name].shape if name in trained else True
        elif name in trained:  # of another vocabulary only the rows of prefix markers are new
            words = slice(60 if trained[name].shape != tensor.shape else None)
            assert torch.equal(tensor[words], trained[name][words]), name
        else:
            assert name.startswith(("mux.demultiplexer.", "head.transform.")), name  # there at N > 1, there at N = 1
    words = model.mux.backbone.embeddings.word_embeddings.weight
    assert "family" in stored or model.get_output_embeddings().weight is words
    assert told == [f"{folder} has N = {stored['num_instances']}; untrained at the start: {new}"]


def test_another_N_is_no_reason_for_another_shape_or_for_pickled_weights(saved):
    folder = saved(num_instances=5)
    with pytest.raises(ValueError, match="size = 32, this recipe asks for 64"):
        load_model(MuxForPreTraining, folder, config(hidden_size=64), another_N=True)
    with pytest.raises(ValueError, match="demultiplexer = rsa, this recipe asks for prefix"):
        load_model(MuxForPreTraining, folder, config(demultiplexer="prefix"), another_N=True)
    torch.save(MuxForPreTraining.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        load_model(MuxForPreTraining, folder, config(), another_N=True)


@pytest.mark.parametrize("damage", ["pickled", "cut", "none"])
def test_weights_of_mux_models_are_read_from_safetensors_alone(saved, damage):
    folder = saved()
    path = folder / "model.safetensors"
    if damage == "pickled":
        torch.save(MuxForPreTraining.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    whole = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=rf"{folder}: the weights cannot be loaded: \S"):
        load_model(MuxForPreTraining, folder, config())


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no such folder|no config\.json"):
        load_model(MuxForPreTraining, tmp_path / "none", config())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match="gpt2"):
        load_model(MuxForPreTraining, tmp_path, config())


def test_the_recipe_says_what_the_configuration_is(context):
    made = context(family="electra", embedding=16, multiplexer="contextual", demultiplexer="prefix", learn_keys=True,
                   compat="princeton", departures={"segment_ids": True, "discriminator_weight": 2.0})
    found = config_of(made.recipe.model, made.tokenizer, retrieval_rate=0.25, num_labels=7)
    assert (found.family, found.embedding_size, found.hidden_size, found.num_instances) == ("electra", 16, 32, 2)
    assert (found.multiplexer, found.demultiplexer, found.learn_keys) == ("contextual", "prefix", True)
    assert found.segment_ids and not found.mask_padding and found.discriminator_weight == 2.0
    assert (found.task_weight, found.retrieval_weight) == (0.75, 0.25)
    assert found.vocab_size == 300 and found.max_position_embeddings == 40 and found.num_labels == 7
