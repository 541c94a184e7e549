"""The default numerics against a plain loop over groups, positions and slots, written from the paper's equations."""

import pytest
import torch
import torch.nn.functional as F

from mux.model import MuxConfig, MuxForPreTraining, MuxForSequenceClassification, MuxModel

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "vocab_size": 100, "max_position_embeddings": 64}


def build(kind, N, **fields):
    torch.manual_seed(0)
    model = kind(MuxConfig(num_instances=N, **SIZE, **fields)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def texts(rows, length, seed=1):
    """Rows of different lengths, padded with 0."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 100, (rows, length), generator=generator)
    for row in range(rows):
        ids[row, 3 + (row * 5) % (length - 3):] = 0
    return ids


def plain_loop(model, ids):
    """Demuxed states [R, L, D], one instance, one position at a time. R is a multiple of N."""
    N, (rows, length) = model.config.num_instances, ids.shape
    embeddings, keys = model.backbone.embeddings, model.multiplexer.keys
    demux, states = model.demultiplexer, []
    for group in range(rows // N):
        muxed = torch.zeros(length, model.config.hidden_size)
        for slot in range(N):
            row = ids[group * N + slot]
            embedded = embeddings(input_ids=row[None])[0]
            for position in range(length):
                if row[position] != 0:  # padding adds nothing, the divisor stays N
                    muxed[position] += embedded[position] * keys[slot] / N
        anything = torch.tensor([[int(any(ids[group * N + slot, p] != 0 for slot in range(N)))
                                  for p in range(length)]])
        hidden = model.backbone(inputs_embeds=muxed[None], attention_mask=anything).last_hidden_state[0]
        for slot in range(N):
            first = torch.cat([demux.from_key.weight, demux.from_hidden.weight], dim=1)  # W [k ; h] + b
            out = []
            for position in range(length):
                x = F.linear(torch.cat([demux.keys[slot], hidden[position]]), first, demux.from_hidden.bias)
                x = demux.norms[0](F.gelu(x))
                for layer, norm in zip(demux.layers, demux.norms[1:], strict=True):
                    x = norm(x + F.gelu(layer(x)))
                out.append(x)
            states.append(torch.stack(out))
    return torch.stack(states)


@pytest.mark.parametrize("N", [2, 3, 5])
@torch.no_grad()
def test_states(N):
    model, ids = build(MuxModel, N), texts(2 * N, 9)
    torch.testing.assert_close(model(ids).last_hidden_state, plain_loop(model, ids), atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_pretraining_logits_and_losses():
    model, ids = build(MuxForPreTraining, 2, retrieval_rate=0.25), texts(4, 9)
    labels = torch.where(torch.arange(36).view(4, 9) % 4 == 1, ids, -100)
    slots = torch.arange(18).view(2, 9) % 2
    slots[0, 8] = -1  # nothing to retrieve there
    full = F.linear(plain_loop(model.mux, ids), model.mux.backbone.embeddings.word_embeddings.weight,
                    model.head.decoder.bias)
    torch.testing.assert_close(model(ids).logits, full, atol=1e-5, rtol=1e-5)
    out = model(ids, labels=labels, retrieval_labels=ids, retrieval_slots=slots)
    picked = labels != -100
    task = F.cross_entropy(full[picked], labels[picked])
    pairs = [(group * 2 + int(slots[group, p]), p) for group in range(2) for p in range(9) if slots[group, p] >= 0]
    retrieval = sum(F.cross_entropy(full[r, p], ids[r, p]) for r, p in pairs) / len(pairs)
    torch.testing.assert_close(out.logits, full[picked], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.task_loss, task, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.retrieval_loss, retrieval, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.loss, 0.75 * task + 0.25 * retrieval, atol=1e-5, rtol=1e-5)
    assert len(out.retrieval_logits) == len(pairs) == 17


@torch.no_grad()
def test_sequence_logits():
    model, ids = build(MuxForSequenceClassification, 3, num_labels=4), texts(6, 9)
    first = plain_loop(model.mux, ids)[:, 0]
    expected = F.linear(first, model.classifier.weight, model.classifier.bias)
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [MuxForSequenceClassification, MuxForPreTraining])
@torch.no_grad()
def test_nothing_else_matters_to_a_full_group(kind):
    """Not the other groups, not their order, not a tail, not the padded length; and repeated calls agree."""
    model, N = build(kind, 3), 3
    ids = texts(8, 12)  # two full groups and a tail of two
    alone = model(ids[:3]).logits
    longer = F.pad(ids, (0, 7))
    for logits in (model(ids).logits[:3], model(ids[:6].roll(3, 0)).logits[3:6], model(longer).logits[:3],
                   model(longer).logits[:3]):
        cut = logits[:, : alone.shape[1]] if logits.dim() == 3 else logits
        real = ids[:3].ne(0) if logits.dim() == 3 else slice(None)
        torch.testing.assert_close(cut[real], alone[real], atol=1e-5, rtol=1e-5)
    assert len(model(ids).logits) == 8
    torch.testing.assert_close(model(ids).logits, model(ids).logits, atol=0, rtol=0)
    assert len(ids) == N * 2 + 2


@torch.no_grad()
def test_tail_is_filled_with_the_first_rows_or_the_named_ones():
    model, ids = build(MuxForSequenceClassification, 3, num_labels=2), texts(4, 9)
    filled = model(torch.cat([ids, ids[:2]])).logits[:4]
    torch.testing.assert_close(model(ids).logits, filled, atol=1e-6, rtol=0)
    named = model(torch.cat([ids, ids[[2, 1]]])).logits[:4]
    torch.testing.assert_close(model(ids, filler_rows=torch.tensor([2, 1])).logits, named, atol=1e-6, rtol=0)
    assert not torch.allclose(filled, named, atol=1e-4)
    with pytest.raises(ValueError, match="2 filler rows"):
        model(ids, filler_rows=torch.tensor([0]))


@torch.no_grad()
def test_segments_reach_the_embeddings():
    model, ids = build(MuxForSequenceClassification, 2, num_labels=2), texts(4, 9)
    segments = torch.zeros_like(ids)
    segments[1, 2:] = 1
    assert not torch.allclose(model(ids).logits[:2], model(ids, token_type_ids=segments).logits[:2], atol=1e-4)
    torch.testing.assert_close(model(ids).logits[2:], model(ids, token_type_ids=segments).logits[2:], atol=1e-6, rtol=0)


def test_nothing_to_predict_is_no_nan():
    model, ids = build(MuxForPreTraining, 2), texts(4, 9)
    out = model(ids, labels=torch.full_like(ids, -100))
    assert out.loss.item() == 0.0
    out.loss.backward()


def test_multiplexer_keys_are_unit_vectors_and_frozen():
    model = MuxModel(MuxConfig(num_instances=5, **SIZE))
    keys = model.multiplexer.keys
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(5), atol=1e-6, rtol=0)
    assert all("multiplexer.keys" not in name or "demultiplexer" in name for name, _ in model.named_parameters())
