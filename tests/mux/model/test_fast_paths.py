"""Each fast path against the plain computation, in fp64: answers, and gradients where there is training."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import logging

from mux.model import MuxConfig, MuxForSequenceClassification, MuxForTokenClassification
from mux.model.backbone import attend
from mux.model.demultiplexer import EveryRow, Pairs

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "vocab_size": 700, "max_position_embeddings": 64, "num_labels": 3}
VARIANTS = [
    {}, {"num_instances": 1}, {"demultiplexer": "prefix"}, {"multiplexer": "contextual"}, {"multiplexer": "binary"},
    {"compat": "princeton"}, {"compat": "princeton", "demultiplexer": "prefix"}, {"learn_keys": True},
]
EXACT = {"atol": 1e-14, "rtol": 1e-12}


def build(kind, family="bert", **fields):
    """In fp64; nothing is dropped, so that training computes what evaluation does."""
    torch.manual_seed(0)
    narrow = {"embedding_size": 16} if family == "electra" else {}
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = kind(MuxConfig(**SIZE | {"num_instances": 3, "family": family} | narrow | none | fields)).double().eval()
    for tensor in model.parameters():
        tensor.data += 0.05 * torch.randn_like(tensor)
    return model


def batch(padded, rows=6, length=11):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(110, 600, (rows, length), generator=generator)
    if padded:
        for row in range(rows):
            ids[row, 4 + (row * 3) % (length - 3):] = 0
    return {"input_ids": ids, "attention_mask": ids.ne(0).long(), "token_type_ids": torch.arange(length).gt(5).long()
            .expand(rows, -1)}


def gradients(model, **inputs):
    model.zero_grad()
    model(**inputs, labels=torch.tensor([0, 1, 2, 1, 0, 2])).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(("family", "fields", "padded"),
                         itertools.product(("bert", "electra"), VARIANTS, (False, True)))
def test_last_layer_where_it_is_read(family, fields, padded):
    """transformers' own last layer computes every position where the states are asked for."""
    model, inputs = build(MuxForSequenceClassification, family, **fields), batch(padded)
    torch.testing.assert_close(model(**inputs).logits, model(**inputs, output_hidden_states=True).logits, **EXACT)
    found, plain = gradients(model, **inputs), gradients(model, **inputs, output_hidden_states=True)
    assert found.keys() == plain.keys() and len(found) > 30
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, **EXACT, msg=lambda text, name=name: f"{name}: {text}")


def test_the_last_layer_is_not_computed_elsewhere():
    model, lengths = build(MuxForSequenceClassification), []
    model.mux.backbone.encoder.layer[-1].intermediate.register_forward_hook(
        lambda module, arguments, output: lengths.append(output.shape[1]))
    ids = batch(False)["input_ids"]
    model(ids)
    model(ids, output_hidden_states=True)
    assert lengths == [1, 11]


class Drops(nn.Module):
    """Drops the same attention weights each time: half of the positions, the others doubled."""

    def forward(self, weights_BXF):
        return weights_BXF * torch.tensor([2.0, 0.0]).repeat(weights_BXF.shape[-1])[: weights_BXF.shape[-1]]


@torch.no_grad()
def test_dropped_attention():
    """Values have a bias, which counts as much as the weights that are left."""
    attention = build(MuxForTokenClassification).mux.backbone.encoder.layer[0].attention.self
    states = torch.randn(2, 9, 32, dtype=torch.float64)
    query, key, value = (part(states).unflatten(-1, (4, 8)).transpose(1, 2)
                         for part in (attention.query, attention.key, attention.value))
    attention.dropout = Drops()
    weights = attention.dropout(F.softmax(query @ key.mT / 8**0.5, dim=-1))
    plain = (weights @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend(attention, states[:, :3], states, None), plain[:, :3], **EXACT)


@pytest.mark.parametrize(("family", "fields", "padded"), itertools.product(
    ("bert", "electra"), [{}, {"multiplexer": "binary", "segment_ids": False}, {"compat": "princeton"}], (False, True)))
@torch.no_grad()
def test_mux_without_the_embedded_instances(family, fields, padded):
    """Training embeds all instances with the encoder's own module, and mixes then."""
    model, inputs = build(MuxForTokenClassification, family, **fields), batch(padded)
    fast = model(**inputs).logits
    torch.testing.assert_close(fast, model.train()(**inputs).logits, **EXACT)


def test_embedded_instances_are_never_there():
    model = build(MuxForTokenClassification)
    longest = []
    model.mux.backbone.embeddings.word_embeddings.register_forward_hook(
        lambda module, arguments, output: longest.append(len(output)))
    model(**batch(False))
    assert longest == [2, 2, 2]  # the two groups, slot by slot


@torch.no_grad()
def test_every_row_is_all_its_pairs():
    hidden, keys, rows = torch.randn(2, 5, 8).double(), torch.randn(3, 8).double(), torch.arange(4).repeat_interleave(5)
    pairs = Pairs(hidden.flatten(0, 1), rows // 3 * 5 + torch.arange(5).repeat(4), rows % 3)
    every = EveryRow(hidden, 3, 4)
    torch.testing.assert_close(every.joined(hidden, keys).flatten(0, 1), pairs.joined(pairs.hidden, keys), **EXACT)
    of_groups = torch.cat([keys, 2 * keys])  # of a prefix: each group has its own
    pairs = Pairs(pairs.hidden, pairs.states_M, rows)
    torch.testing.assert_close(every.joined(hidden, of_groups).flatten(0, 1), pairs.joined(pairs.hidden, of_groups),
                               **EXACT)


@pytest.mark.parametrize("fields", VARIANTS)
@pytest.mark.parametrize("kind", [MuxForSequenceClassification, MuxForTokenClassification])
@torch.no_grad()
def test_a_mask_of_ones_is_none(kind, fields):
    """What is made for it otherwise, under a padding that nothing reads: an eleventh position."""
    model = build(kind, **fields | ({"mask_padding": True} if "compat" in fields else {}))
    inputs = batch(False)
    longer = {name: F.pad(tensor, (0, 1)) for name, tensor in inputs.items()}
    found = model(**longer).logits
    torch.testing.assert_close(found if found.dim() == 2 else found[:, :-1], model(**inputs).logits, **EXACT)


@pytest.mark.parametrize("fields", VARIANTS)
@pytest.mark.parametrize("kind", [MuxForSequenceClassification, MuxForTokenClassification])
def test_one_graph(kind, fields):
    """No part of a forward pass is left to Python, a tail to be filled included, and no length needs a graph of its own
    where lengths differ."""
    if fields.get("compat"):
        fields = fields | {"deterministic_fillers": True}
    logging.set_verbosity_error()
    model, graphs = build(kind, **fields), []

    def counted(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=counted)
    with torch.no_grad():
        for rows, length in ((6, 11), (6, 11), (6, 12), (6, 13), (6, 14)):
            inputs = batch(True, rows, length)
            torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, **EXACT)
        assert len(graphs) <= 2
        torch._dynamo.reset()
        compiled(**batch(True, 5, 11))


class Adapted(nn.Module):
    """A linear layer with a low-rank one beside it, as adapters are put in; its `weight` is the plain one's."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.plain, self.low, self.high = plain, nn.Linear(plain.in_features, 2), nn.Linear(2, plain.out_features)

    @property
    def weight(self) -> torch.Tensor:
        return self.plain.weight

    @property
    def bias(self) -> torch.Tensor:
        return self.plain.bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.plain(states) + self.high(self.low(states))


@pytest.mark.parametrize("put_in", [Adapted, lambda plain: quantized(plain)], ids=["adapter", "int8"])
def test_what_others_put_in_place_of_keys_and_values_is_called(put_in):
    model = build(MuxForSequenceClassification).float()
    with torch.no_grad():
        before = model(**batch(False)).logits
    attention = model.mux.backbone.encoder.layer[-1].attention.self
    attention.key, attention.value = put_in(attention.key), put_in(attention.value)
    with torch.no_grad():
        after, plain = model(**batch(False)).logits, model(**batch(False), output_hidden_states=True).logits
    assert (after - plain).abs().max() < 1e-5 < (after - before).abs().max()


def quantized(plain: nn.Linear) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(plain.float()), {nn.Linear})[0]


def test_a_group_of_padding_alone_is_the_same_by_either_path():
    model, inputs = build(MuxForSequenceClassification), batch(True)
    inputs["attention_mask"][:3] = 0
    with torch.no_grad():
        fast, plain = model(**inputs).logits, model(**inputs, output_hidden_states=True).logits
    assert (fast - plain).abs().max() < 1e-5
