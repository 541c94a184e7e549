"""What transformers and torch do with any model works with these: folders, compile, half precision, checkpointing."""

import itertools

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from mux.model import (
    MuxConfig,
    MuxForMaskedLM,
    MuxForPreTraining,
    MuxForSequenceClassification,
    MuxForTokenClassification,
)

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "vocab_size": 700, "max_position_embeddings": 64, "num_labels": 3}
HEADS = {MuxForPreTraining: AutoModelForPreTraining, MuxForSequenceClassification: AutoModelForSequenceClassification,
         MuxForTokenClassification: AutoModelForTokenClassification}
VARIANTS = [
    {}, {"num_instances": 1}, {"demultiplexer": "prefix"}, {"multiplexer": "contextual"},
    {"multiplexer": "contextual_v1"}, {"multiplexer": "orthogonal"}, {"multiplexer": "binary", "learn_keys": True},
    {"compat": "princeton", "deterministic_fillers": True},
    {"compat": "princeton", "demultiplexer": "prefix", "deterministic_fillers": True},
    {"retrieval_weight": 0.1, "num_instances": 3},
]


def build(kind, family="bert", **fields):
    torch.manual_seed(0)
    narrow = {"embedding_size": 16} if family == "electra" else {}
    model = kind(MuxConfig(**SIZE | {"num_instances": 2, "family": family} | narrow | fields)).eval()
    for tensor in model.parameters():
        tensor.data += 0.05 * torch.randn_like(tensor)
    return model


def batch(rows=4, length=11):
    """Rows of different lengths, padded with 0."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(110, 600, (rows, length), generator=generator)
    for row in range(rows):
        ids[row, 4 + (row * 3) % (length - 3):] = 0
    return {"input_ids": ids, "attention_mask": ids.ne(0).long()}


def labels_for(model):
    ids = batch()["input_ids"]
    if isinstance(model, MuxForSequenceClassification):
        return torch.tensor([0, 1, 2, 1])
    if isinstance(model, MuxForTokenClassification):
        return (ids % 3).masked_fill(ids == 0, -100)
    return (ids % 2 if model.config.family == "electra" else ids).masked_fill(ids == 0, -100)


@pytest.mark.parametrize(("kind", "family", "fields"), itertools.product(HEADS, ("bert", "electra"), VARIANTS))
@torch.no_grad()
def test_a_folder_gives_the_same_model_back(tmp_path, kind, family, fields):
    model = build(kind, family, **fields)
    model.save_pretrained(tmp_path)
    loaded, info = HEADS[kind].from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is kind
    assert loaded.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict()
    assert not any(info.values()), info
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), atol=0, rtol=0)
    torch.testing.assert_close(loaded.eval()(**batch(5)).logits, model(**batch(5)).logits, atol=1e-6, rtol=1e-5)
    stored = load_file(tmp_path / "model.safetensors")
    for (one, first), (other, second) in itertools.combinations(stored.items(), 2):
        assert first.shape != second.shape or first.numel() == 1 or not torch.equal(first, second), (one, other)
    tied = {name for name in model.state_dict() if name not in stored}
    assert tied == ({"head.decoder.weight"} if family == "bert" and "head.decoder.weight" in model.state_dict()
                    else set())


def test_masked_lm_is_for_bert_alone(tmp_path):
    build(MuxForPreTraining).save_pretrained(tmp_path / "bert")
    assert type(AutoModelForMaskedLM.from_pretrained(tmp_path / "bert")) is MuxForMaskedLM
    build(MuxForPreTraining, "electra").save_pretrained(tmp_path / "electra")
    with pytest.raises(ValueError, match="electra fills no masks"):
        AutoModelForMaskedLM.from_pretrained(tmp_path / "electra")


@pytest.mark.parametrize(("kind", "fields"), [
    (MuxForSequenceClassification, {}), (MuxForTokenClassification, {"demultiplexer": "prefix"}),
])
def test_compiled_is_eager(kind, fields):
    model = build(kind, num_hidden_layers=1, **fields)
    compiled = torch.compile(model)
    with torch.no_grad():
        for rows, length in ((4, 11), (5, 9)):  # the second leaves a slot to be filled
            torch.testing.assert_close(compiled(**batch(rows, length)).logits, model(**batch(rows, length)).logits,
                                       atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("kind", "family", "fields"), itertools.product(HEADS, ("bert", "electra"), VARIANTS))
@torch.no_grad()
def test_half_precision_is_close(kind, family, fields, dtype):
    model = build(kind, family, **fields)
    expected = model(**batch()).logits
    found = model.to(dtype)(**batch(), labels=labels_for(model)) if kind is not MuxForPreTraining else model.to(dtype)(
        **batch())
    assert found.logits.dtype == dtype
    real = batch()["attention_mask"].bool() if found.logits.shape[:2] == (4, 11) else slice(None)
    apart = (found.logits.float() - expected)[real]
    assert apart.norm() / expected[real].norm() < (0.01 if dtype == torch.float16 else 0.05)


@pytest.mark.parametrize(("kind", "family", "fields"), itertools.product(HEADS, ("bert", "electra"), VARIANTS))
def test_checkpointing_gives_the_same_gradients(kind, family, fields):
    model = build(kind, family, **fields)
    model.config.retrieval_weight = 0.0  # its slots are drawn at random
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config._attn_implementation = "eager"
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        model.zero_grad()
        model(**batch(), labels=labels_for(model)).loss.backward()
        gradients.append({name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None})
    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys() and len(plain) > 10
    for name, gradient in plain.items():
        assert torch.allclose(checkpointed[name], gradient, atol=1e-6, rtol=1e-5), name
