"""N = 1 is transformers' own BERT, to 1e-6."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

from mux.model import MuxConfig, MuxForPreTraining, MuxForSequenceClassification, MuxModel

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "vocab_size": 100, "max_position_embeddings": 64}


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 100, (5, 12), generator=generator)
    ids[1, 8:] = 0
    ids[3, 5:] = 0
    segments = torch.zeros_like(ids)
    segments[:, 6:] = 1
    return {"input_ids": ids, "attention_mask": ids.ne(0).long(), "token_type_ids": segments}


def same_weights(ours, theirs, renames):
    """Copy their weights into ours; every one of ours must be covered."""
    state = {}
    for name, tensor in theirs.state_dict().items():
        for old, new in renames:
            name = name.replace(old, new, 1) if name.startswith(old) else name
        state[name] = tensor
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not missing, missing
    assert set(unexpected) <= {"head.bias"}, unexpected
    return ours.eval(), theirs.eval()


def noisy(model):
    """Move every weight off its initial value, so that biases and layer norms matter."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def test_encoder(inputs):
    theirs = noisy(BertModel(BertConfig(**SIZE), add_pooling_layer=False))
    ours, theirs = same_weights(MuxModel(MuxConfig(num_instances=1, **SIZE)), theirs, [("", "backbone.")])
    torch.testing.assert_close(ours(**inputs).last_hidden_state, theirs(**inputs).last_hidden_state, atol=1e-6, rtol=0)


def test_sequence_classification(inputs):
    theirs = noisy(BertForSequenceClassification(BertConfig(num_labels=3, **SIZE)))
    ours, theirs = same_weights(
        MuxForSequenceClassification(MuxConfig(num_instances=1, num_labels=3, **SIZE)), theirs,
        [("bert.pooler", "pooler"), ("bert.", "mux.backbone.")])
    labels = torch.tensor([0, 1, 2, 1, 0])
    mine, other = ours(**inputs, labels=labels), theirs(**inputs, labels=labels)
    torch.testing.assert_close(mine.logits, other.logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(mine.loss, other.loss, atol=1e-6, rtol=0)


def test_masked_lm(inputs):
    theirs = noisy(BertForMaskedLM(BertConfig(**SIZE)))
    ours, theirs = same_weights(
        MuxForPreTraining(MuxConfig(num_instances=1, **SIZE)), theirs,
        [("bert.", "mux.backbone."), ("cls.predictions.", "head.")])
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, 2:4] = inputs["input_ids"][:, 2:4]
    torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits, atol=1e-6, rtol=0)
    mine, other = ours(**inputs, labels=labels), theirs(**inputs, labels=labels)
    torch.testing.assert_close(mine.loss, other.loss, atol=1e-6, rtol=0)
    assert mine.logits.shape == (10, 100)  # labelled rows only
