"""Any encoder of transformers as a baseline: small random ones of several architectures, and what cannot be one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    MobileBertConfig,
    RobertaConfig,
    ViTConfig,
)

from mux.data.encoding import encode
from mux.data.tasks import Examples, Task
from mux.event import Notice
from mux.model import MuxForSequenceClassification, MuxForTokenClassification
from mux.recipe import TaskDefinition
from mux.stages.encoders import HubEncoder, MuxEncoder, name_of

BERT = BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                  max_position_embeddings=40)
ARCHITECTURES = {
    "bert": BERT,
    "distilbert": DistilBertConfig(vocab_size=300, dim=32, hidden_dim=64, n_layers=2, n_heads=4,
                                   max_position_embeddings=40),
    "mobilebert": MobileBertConfig(vocab_size=300, hidden_size=32, embedding_size=16, num_hidden_layers=2,
                                   num_attention_heads=4, intermediate_size=64, intra_bottleneck_size=16,
                                   max_position_embeddings=40, num_feedforward_networks=2),
    "electra": ElectraConfig(vocab_size=300, hidden_size=32, embedding_size=16, num_hidden_layers=2,
                             num_attention_heads=4, intermediate_size=64, max_position_embeddings=40),
    "roberta": RobertaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                             intermediate_size=64, max_position_embeddings=42, pad_token_id=0),
}
TEXTS = Examples(("the river in the town", "a town"), ("in the north", "of the people"), np.array([0, 2]))
WORDS = Examples((("the", "river"), ("a", "town", "in")), None, np.array([0, 1, 2, 0, 1]), of_words=True)


def task(**fields) -> Task:
    labels = () if fields.get("regression") else ("a", "b", "c")
    definition = TaskDefinition(train="builtin:topic_train", test="builtin:topic_test", **fields)
    return Task("task", definition, labels, TEXTS, TEXTS)


@pytest.fixture
def hub(context, tmp_path):
    """hub(config): a folder with a pre-trained model of that configuration, as the recipe's [model]."""
    def hub(config, kind=AutoModelForMaskedLM, name="hub"):
        kind.from_config(config).save_pretrained(tmp_path / name)
        return hub.again(name)

    hub.again = lambda name="hub": context(family="hub", source=f"path:{tmp_path / name}")
    return hub


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_transformers_encoders_take_rows_of_texts_and_of_words(hub, name):
    made = hub(ARCHITECTURES[name])
    encoder, stage = made.encoder, made.recipe.stages[0]
    assert isinstance(encoder, HubEncoder) and encoder.takes_segments == (name != "distilbert")
    trained = AutoModelForMaskedLM.from_pretrained(encoder.folder).base_model.state_dict()
    for rows, asked, shape in ((TEXTS, task(), (2, 3)), (WORDS, task(tokens="tokens"), (2, 6, 3)),
                               (TEXTS, task(regression=True, metric="pearson"), (2, 1))):
        model = encoder.starting(stage, asked, made.recipe.model.source).eval()
        for key, tensor in model.base_model.state_dict().items():
            assert "pooler" in key or torch.equal(tensor, trained[key]), key
        rows = encode(rows, made.tokenizer, 24, segments=encoder.takes_segments)
        batch = {key: torch.from_numpy(array) for key, array in rows.batch([0, 1]).items()}
        out = model(**batch, labels=torch.from_numpy(rows.labels_of([0, 1], batch["input_ids"].shape[1])).to(
            torch.float32 if shape == (2, 1) else torch.int64))
        assert out.logits.shape[:1] == shape[:1] and out.logits.shape[-1] == shape[-1] and torch.isfinite(out.loss)
        assert model.config.num_labels == shape[-1]
    encoder.check(24)
    for head, shape in (("sequence", (2, 5)), ("token", (*batch["input_ids"].shape, 5))):
        timed = encoder.timed(head, 5)
        assert timed(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.shape == shape
        assert not torch.equal(timed.get_input_embeddings().weight, next(iter(trained.values())))  # new weights


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_head_of_another_task_is_left_behind(hub, name):
    """Also one of the same shape; and a seed draws the same head above any checkpoint."""
    heads, config = [], type(ARCHITECTURES[name]).from_dict(ARCHITECTURES[name].to_dict())
    config.num_labels = 3
    for kind in (AutoModelForMaskedLM, AutoModelForSequenceClassification):
        made = hub(config, kind, kind.__name__)
        torch.manual_seed(5)
        model = made.encoder.starting(made.recipe.stages[0], task(), made.recipe.model.source)
        within = f"{model.base_model_prefix}."
        heads.append({key: tensor for key, tensor in model.state_dict().items() if not key.startswith(within)})
    theirs = AutoModelForSequenceClassification.from_pretrained(made.encoder.folder).state_dict()
    assert heads[0] and heads[0].keys() == heads[1].keys() <= theirs.keys()
    for key, tensor in heads[0].items():
        assert torch.equal(tensor, heads[1][key]), key
        assert not tensor.any() or not torch.equal(tensor, theirs[key]), key  # biases are 0


def test_a_published_half_precision_encoder_is_trained_in_full(hub):
    made = hub(BertConfig(**BERT.to_dict() | {"dtype": "float16"}))
    model = made.encoder.starting(made.recipe.stages[0], task(), None)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_what_fine_tuning_left_is_loaded_whole(hub, tmp_path):
    made = hub(BERT)
    stage = made.recipe.stages[0]
    model = made.encoder.starting(stage, task(), None)
    model.save_pretrained(tmp_path / "tuned")
    again = made.encoder.tuned(stage, task(), tmp_path / "tuned")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match=r"lacks \d+ weights of this model, \S+ among them"):
        made.encoder.tuned(stage, task(), made.encoder.folder)


def test_other_weights_than_when_the_run_began_are_refused(hub):
    folder = hub(BERT).encoder.folder
    assert hub.again().encoder.folder == folder
    AutoModelForMaskedLM.from_config(BERT).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"the model path:.* has changed since the run began"):
        hub.again().encoder.folder  # noqa: B018


def test_rows_longer_than_the_encoder_has_positions_are_refused(hub):
    made = hub(BertConfig(**BERT.to_dict() | {"max_position_embeddings": 20}))
    for use in (lambda: made.encoder.starting(made.recipe.stages[0], task(), None), lambda: made.encoder.check(24)):
        with pytest.raises(ValueError, match="has 20 positions: sequence_length = 24 is more"):
            use()


def test_roberta_counts_positions_from_behind_the_paddings(hub):
    """26 positions and pad_token_id = 1: 24 tokens."""
    for positions, fits in ((26, True), (25, False)):
        config = ARCHITECTURES["roberta"].to_dict() | {"pad_token_id": 1, "max_position_embeddings": positions}
        made = hub(RobertaConfig(**config), name=str(positions))
        if fits:
            made.encoder.check(24)
            model = made.encoder.timed("sequence", 2)
            assert torch.isfinite(model(torch.full((1, 24), 7)).logits).all()
            with pytest.raises((IndexError, RuntimeError), match="out of"):
                model(torch.full((1, 25), 7))
        else:
            with pytest.raises(ValueError, match="has 23 positions: sequence_length = 24 is more"):
                made.encoder.check(24)


def test_published_roberta_knows_one_kind_of_text(hub):
    made = hub(RobertaConfig(**ARCHITECTURES["roberta"].to_dict() | {"type_vocab_size": 1}))
    assert not made.encoder.takes_segments


def test_a_vocabulary_that_the_encoder_does_not_embed_is_refused(hub):
    made = hub(BertConfig(**BERT.to_dict() | {"vocab_size": 200}))
    with pytest.raises(ValueError, match="embeds 200 tokens, the tokenizer sentencepiece has 300"):
        made.encoder.starting(made.recipe.stages[0], task(), None)


def test_a_damaged_encoder_is_refused(hub):
    made = hub(BERT)
    from safetensors.torch import load_file, save_file
    path = made.encoder.folder / "model.safetensors"
    weights = load_file(path)
    del weights["bert.encoder.layer.0.output.dense.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of its encoder, bert\.encoder\.layer\.0\.output\.dense"):
        made.encoder.starting(made.recipe.stages[0], task(), None)


def test_an_architecture_that_transformers_does_not_know_is_named(context, tmp_path):
    folder = tmp_path / "other"
    made = context(family="hub", source=f"path:{folder}")
    with pytest.raises(ValueError, match="no such folder"):
        made.encoder.takes_segments  # noqa: B018
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "cofi"}))
    with pytest.raises(ValueError, match=r"transformers makes no configuration of it: .*cofi"):
        made.encoder.takes_segments  # noqa: B018


def test_an_encoder_that_reads_no_text_is_refused(hub):
    made = hub(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8), AutoModel)
    with pytest.raises(ValueError, match=r"transformers makes no ModelForSequenceClassification of it: .*ViTConfig"):
        made.encoder.takes_segments  # noqa: B018


def test_mux_encoders_start_from_nothing_with_the_tasks_classes(context):
    made = context()
    stage = made.recipe.stages[0]
    assert isinstance(made.encoder, MuxEncoder) and made.encoder.takes_segments and not made.encoder.pads
    model = made.encoder.starting(stage, task(), None)
    assert isinstance(model, MuxForSequenceClassification) and model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert isinstance(made.encoder.starting(stage, task(tokens="tokens"), None), MuxForTokenClassification)
    number = made.encoder.starting(stage, task(regression=True, metric="pearson"), None)
    assert number.config.num_labels == 1 and number.config.problem_type == "regression"


@pytest.mark.parametrize("fields", [{}, {"N": 1}, {"family": "electra", "N": 3}, {"multiplexer": "orthogonal"},
                                    {"multiplexer": "binary", "demultiplexer": "prefix"}], ids=str)
def test_mux_encoders_are_timed_with_new_weights(context, fields):
    encoder = context(**fields).encoder
    encoder.check(38)  # of 40 positions: a prefix takes two
    for head, kind in (("sequence", MuxForSequenceClassification), ("token", MuxForTokenClassification)):
        model = encoder.timed(head, 7)
        assert isinstance(model, kind) and model.config.num_labels == 7
        assert model.config.num_instances == fields.get("N", 2) and model.device.type == "cpu"


@pytest.mark.parametrize(("fields", "message"), [
    ({"demultiplexer": "prefix"}, "rows of 40 tokens are too long: max_positions = 40 has room for 38"),
    ({"embedding": 16}, "BERT embeds as wide as it encodes"),
])
def test_mux_models_that_cannot_be_timed_are_refused_before_they_are_made(context, fields, message):
    with pytest.raises(ValueError, match=message):
        context(**fields).encoder.check(40)


def test_what_models_are_called():
    assert name_of("bert", "BASE", 1) == "bert BASE, N = 1"
    assert name_of("bert", "BASE", 2, "gaussian", "rsa") == "bert BASE, N = 2"
    assert name_of("electra", "4x256", 5, "contextual", "prefix") == "electra 4x256, N = 5, contextual, prefix"


def test_a_plain_encoder_under_a_mux_model_is_remarked_on_once(context, tmp_path):
    """And not again for each seed and each point of a search."""
    AutoModelForMaskedLM.from_config(BERT).save_pretrained(tmp_path / "plain")
    made, told = context(), []
    made.voice = told.append
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.encoder.starting(made.recipe.stages[0], task(), f"path:{tmp_path / 'plain'}")
    assert [(type(event), event.stage, event.text) for event in told] == [(
        Notice, "finetune", f"{tmp_path / 'plain'} is a plain encoder; untrained at the start: classifier, "
        "demultiplexer and multiplexer")]


def test_published_numerics_attend_padding_so_rows_are_padded_alike(context):
    assert context(compat="princeton").encoder.pads
    assert not context(compat="princeton", departures={"mask_padding": True}).encoder.pads
