"""The default numerics against a plain loop over groups, positions and slots, written from the paper's equations."""

import pytest
import torch
import torch.nn.functional as F

from mux.model import MuxConfig, MuxForPreTraining, MuxForSequenceClassification, MuxModel
from mux.model.demultiplexer import SHARED
from mux.model.multiplexer import MULTIPLEXERS

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


# --- a group's mux, from the embedded tokens of its instances without their padding --------------------------
def keyed(mux, embedded):
    return [e * key for e, key in zip(embedded, mux.keys, strict=True)]


def mean(instances, length, divisor):
    """[length, E]: at each position the sum of the instances that have a token there, divided by a constant."""
    total = torch.zeros(length, instances[0].shape[1])
    for instance in instances:
        total[: len(instance)] += instance / divisor
    return total


def layer(module, states):
    return module(states[None])[0]


def gaussian(mux, embedded, length):
    return mean(keyed(mux, embedded), length, len(embedded))


def orthogonal(mux, embedded, length):
    rotated = [torch.stack([matrix @ token for token in e]) for e, matrix in zip(embedded, mux.keys, strict=True)]
    return mean(rotated, length, len(embedded) ** 0.5)


def contextual(mux, embedded, length):
    instances = keyed(mux, [layer(mux.instance_layer, e) + e for e in embedded])
    total = torch.zeros(length, embedded[0].shape[1])
    for position in range(length):
        present = [g[position] for g in instances if position < len(g)]
        if present:
            g = torch.stack(present)
            total[position] = (layer(mux.slot_layer, g) + g).sum(0) / len(embedded)
    return total


def contextual_v1(mux, embedded, length):
    instances = keyed(mux, embedded)
    context = mean([layer(mux.instance_layer, g) for g in instances], length, len(embedded))
    return context + mux.mean_norm(F.gelu(mux.mean_dense(mean(instances, length, len(embedded)))))


MUXES = {"gaussian": gaussian, "binary": gaussian, "orthogonal": orthogonal, "orthogonal_low_rank": orthogonal,
         "contextual": contextual, "contextual_v1": contextual_v1}


def plain_loop(model, ids):
    """Demuxed states [R, L, D], one instance, one position at a time. R is a multiple of N; padding is at the end."""
    config, N = model.config, model.config.num_instances
    prefixed, demux, states = config.demultiplexer == "prefix", model.demultiplexer, []
    before = N if prefixed else 0
    for first_row in range(0, len(ids), N):
        embedded = []
        for slot, row in enumerate(ids[first_row : first_row + N]):
            markers = [config.vocab_size + (slot if place == slot else N) for place in range(before)]
            tokens = torch.tensor([*markers, *row[row != 0]])
            embedded.append(model.backbone.embeddings(input_ids=tokens[None])[0])
        length = before + ids.shape[1]
        muxed = MUXES[config.multiplexer](model.multiplexer, embedded, length)
        anything = torch.tensor([[int(place < max(map(len, embedded))) for place in range(length)]])
        hidden = model.backbone(inputs_embeds=muxed[None], attention_mask=anything).last_hidden_state[0]
        first = torch.cat([demux.from_key.weight, demux.from_hidden.weight], dim=1)  # W [k ; h] + b
        for slot in range(N):
            key = hidden[slot] if prefixed else demux.keys[slot]
            out = []
            for h in hidden[before:]:
                x = demux.norms[0](F.gelu(F.linear(torch.cat([key, h]), first, demux.from_hidden.bias)))
                for dense, norm in zip(demux.layers, demux.norms[1:], strict=True):
                    x = norm(x + F.gelu(dense(x)))
                out.append(x)
            states.append(torch.stack(out))
    return torch.stack(states)


@pytest.mark.parametrize("demultiplexer", SHARED)
@pytest.mark.parametrize("multiplexer", MULTIPLEXERS)
@pytest.mark.parametrize(("family", "N"), [("bert", 2), ("bert", 5), ("electra", 3)])
@torch.no_grad()
def test_states(family, N, multiplexer, demultiplexer):
    narrow = {"embedding_size": 16} if family == "electra" else {}
    model = build(MuxModel, N, family=family, multiplexer=multiplexer, demultiplexer=demultiplexer, **narrow)
    ids = texts(2 * N, 9)
    torch.testing.assert_close(model(ids).last_hidden_state[ids != 0], plain_loop(model, ids)[ids != 0],
                               atol=5e-6, rtol=1e-5)


@torch.no_grad()
def test_pretraining_logits_and_losses():
    model, ids = build(MuxForPreTraining, 2, task_weight=0.75, retrieval_weight=0.25), texts(4, 9)
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
    model.config.retrieval_weight = 0.0
    torch.testing.assert_close(model(ids, labels=labels).loss, 0.75 * task, atol=1e-5, rtol=1e-5)


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


@pytest.mark.parametrize("multiplexer", MULTIPLEXERS)
def test_keys_are_frozen_unless_they_shall_be_learned(multiplexer):
    for learn in (False, True):
        model = MuxModel(MuxConfig(num_instances=2, multiplexer=multiplexer, learn_keys=learn, **SIZE))
        assert ("multiplexer.keys" in dict(model.named_parameters())) == learn
        assert "multiplexer.keys" in model.state_dict()
        model(texts(4, 9)).last_hidden_state.square().sum().backward()
        assert (model.multiplexer.keys.grad is not None) == learn


def keys_of(multiplexer, N=5, **fields):
    torch.manual_seed(0)
    return MuxModel(MuxConfig(num_instances=N, multiplexer=multiplexer, **SIZE, **fields)).multiplexer.keys


def test_gaussian_keys_have_the_norm_that_is_asked_for():
    torch.testing.assert_close(keys_of("gaussian").norm(dim=1), torch.ones(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(keys_of("contextual", multiplexer_norm=3.0).norm(dim=1), torch.full((5,), 3.0))


def test_orthogonal_keys_keep_lengths_and_low_rank_ones_share_the_width_out():
    for matrix in keys_of("orthogonal"):
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(32), atol=1e-5, rtol=0)
    keys = keys_of("orthogonal_low_rank")
    assert [int(torch.linalg.matrix_rank(matrix, atol=1e-4)) for matrix in keys] == [32 // 5] * 5
    # Instances land in subspaces that do not overlap: nothing of one is seen in another's.
    torch.testing.assert_close(keys[0].T @ keys[1], torch.zeros(32, 32), atol=1e-5, rtol=0)


def test_binary_keys_are_blocks_that_may_overlap():
    keys = keys_of("binary", N=4)
    assert keys.sum(1).tolist() == [8.0] * 4 and keys.sum(0).tolist() == [1.0] * 32
    assert keys_of("binary", N=4, multiplexer_overlap=0.5).sum(1).tolist() == [12.0, 12.0, 12.0, 8.0]


@pytest.mark.parametrize(("fields", "message"), [
    ({"multiplexer": "gausian"}, "no multiplexer 'gausian'; there are gaussian, contextual"),
    ({"demultiplexer": "index"}, "no demultiplexer 'index'; there are rsa, prefix"),
    ({"family": "roberta"}, "family is bert or electra"),
    ({"compat": "stanford"}, "compat is None or 'princeton'"),
    ({"num_instances": 0}, "num_instances is at least 1"),
    ({"embedding_size": 16}, "BERT embeds as wide as it encodes"),
    ({"compat": "princeton", "demultiplexer_layers": 1}, "the published demultiplexer has 2 or more"),
])
def test_a_configuration_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MuxModel(MuxConfig(**SIZE | fields))


def test_rows_that_do_not_fit_are_refused():
    model = MuxModel(MuxConfig(num_instances=4, demultiplexer="prefix", **SIZE))
    model(texts(4, 60))
    with pytest.raises(ValueError, match=r"61 tokens and a prefix of 4 do not fit in .* = 64; truncate them to 60"):
        model(texts(4, 61))
    with pytest.raises(ValueError, match="the batch has no rows"):
        model(torch.empty(0, 5, dtype=torch.long))


def test_a_retrieval_loss_needs_a_vocabulary_head():
    model, ids = build(MuxForSequenceClassification, 2, num_labels=2), texts(4, 9)
    with pytest.raises(ValueError, match="no vocabulary head"):
        model(ids, retrieval_labels=ids)


def test_replaced_token_detection():
    model, ids = build(MuxForPreTraining, 2, family="electra", task_weight=0.5, retrieval_weight=0.5), texts(4, 9)
    labels = torch.where(ids == 0, -100, ids % 2)
    out = model(ids, labels=labels, retrieval_labels=ids.masked_fill(ids == 0, -100))
    states = plain_loop(model.mux, ids)
    logits = model.discriminator(states)
    asked = labels != -100
    torch.testing.assert_close(out.logits[ids != 0], logits[ids != 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.task_loss, F.binary_cross_entropy_with_logits(logits[asked], labels[asked].float()),
                               atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.loss, (out.task_loss + out.retrieval_loss) / 2)
    assert out.retrieval_logits.shape == (len(out.retrieval_targets), 100)


def test_mux_padding_of_every_slot_is_no_nan():
    """A row of nothing but padding, and positions that are padding in every slot."""
    for multiplexer in MULTIPLEXERS:
        model, ids = build(MuxForSequenceClassification, 2, multiplexer=multiplexer, num_labels=2), texts(4, 9)
        ids[1] = 0
        out = model(F.pad(ids, (0, 3)), labels=torch.tensor([0, 1, 0, 1]))
        out.loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters()), multiplexer
        torch.testing.assert_close(out.logits, model(ids).logits, atol=1e-5, rtol=1e-5)
