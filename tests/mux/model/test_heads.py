"""What heads answer and refuse: losses by kind of problem, shapes, outputs, retrieval inside fine-tuning."""

import pytest
import torch
import torch.nn.functional as F

from mux.model import (
    MuxConfig,
    MuxForMaskedLM,
    MuxForPreTraining,
    MuxForSequenceClassification,
    MuxForTokenClassification,
    MuxModel,
)

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "vocab_size": 700, "max_position_embeddings": 64}
HEADS = (MuxForPreTraining, MuxForSequenceClassification, MuxForTokenClassification)


def build(kind, N=2, **fields):
    torch.manual_seed(0)
    return kind(MuxConfig(num_instances=N, **SIZE, **fields)).eval()


def texts(rows, length=9):
    return torch.randint(5, 700, (rows, length), generator=torch.Generator().manual_seed(1))


# --- losses ---------------------------------------------------------------------------------------------------
def test_losses_are_those_of_the_problem_type():
    """As transformers defines them, which the pipelines' answers follow too."""
    several = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]])
    model = build(MuxForSequenceClassification, num_labels=3, problem_type="multi_label_classification")
    out = model(texts(3), labels=several)
    torch.testing.assert_close(out.loss, F.binary_cross_entropy_with_logits(out.logits, several.float()))
    model = build(MuxForSequenceClassification, num_labels=3, problem_type="regression")
    out = model(texts(3), labels=several / 7)
    torch.testing.assert_close(out.loss, F.mse_loss(out.logits, several / 7))


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_number_a_row_may_have_a_column_of_its_own(shape):
    model, numbers = build(MuxForSequenceClassification, num_labels=1), torch.tensor([0.5, -1.0, 2.0])
    out = model(texts(3), labels=numbers.reshape(shape))
    torch.testing.assert_close(out.loss, ((out.logits[:, 0] - numbers) ** 2).mean())


def test_labels_that_ask_for_nothing_cost_nothing():
    model = build(MuxForSequenceClassification, num_labels=3)
    assert model(texts(2), labels=torch.tensor([-100, -100])).loss == 0
    one = model(texts(2), labels=torch.tensor([2, -100]))
    torch.testing.assert_close(one.loss, F.cross_entropy(one.logits[:1], torch.tensor([2])))


# --- shapes ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", HEADS)
def test_tensors_of_other_rows_are_refused(kind):
    model, ids = build(kind, num_labels=3), texts(4)
    with pytest.raises(ValueError, match=r"attention_mask: \[2, 9\] where the rows are \[4, 9\]"):
        model(ids, attention_mask=torch.ones_like(ids[:2]))
    with pytest.raises(ValueError, match="the rows have no tokens"):
        model(ids[:, :0])
    if kind is not MuxForSequenceClassification:
        for labels in (ids[:2], ids[:, :5], F.pad(ids, (0, 2))):
            with pytest.raises(ValueError, match=r"labels: .* where the rows are \[4, 9\]"):
                model(ids, labels=labels % 3)


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_a_published_prefix_needs_longer_rows_in_training(family):
    model = build(MuxForPreTraining, N=3, demultiplexer="prefix", compat="princeton", family=family)
    for length in (1, 3, 4):
        with pytest.raises(ValueError, match=f"rows of {length} tokens end before the prefix of 4"):
            model(texts(3, length), labels=texts(3, length) % 2)
    assert model(texts(3, 5), labels=texts(3, 5) % 2).loss > 0
    assert model(texts(3, 1)).logits.shape[:2] == (3, 1)


def test_keys_that_share_the_width_out_need_enough_of_it():
    for multiplexer in ("binary", "orthogonal_low_rank"):
        with pytest.raises(ValueError, match=f"{multiplexer} keys share the width out: 32 is too little for N = 33"):
            MuxModel(MuxConfig(num_instances=33, multiplexer=multiplexer, **SIZE))


# --- outputs --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", (*HEADS, MuxModel))
def test_outputs_follow_transformers_switches(kind):
    model = build(kind, num_labels=3)
    assert isinstance(model(texts(2), return_dict=False), tuple)
    assert model(texts(2)).hidden_states is None
    assert len(model(texts(2), output_hidden_states=True).hidden_states) == 3
    model = build(kind, num_labels=3, output_hidden_states=True)
    assert len(model(texts(2)).hidden_states) == 3


def test_the_vocabulary_grows_where_nothing_stands_behind_it():
    model = build(MuxForMaskedLM)
    model.resize_token_embeddings(710)
    ids = texts(2)
    ids[0, 3] = 705
    assert model(ids).logits.shape == (2, 9, 710)
    assert torch.isfinite(model(ids, labels=ids).loss)
    with pytest.raises(ValueError, match="with prefix markers cannot be resized"):
        build(MuxForMaskedLM, demultiplexer="prefix").resize_token_embeddings(710)


# --- retrieval inside fine-tuning -----------------------------------------------------------------------------
@pytest.mark.parametrize("compat", [None, "princeton"])
def test_a_share_of_the_tokens_is_retrieved(compat):
    model = build(MuxForSequenceClassification, num_labels=2, compat=compat, retrieval_weight=0.5,
                  retrieval_percentage=0.25)
    counts = []
    for seed in range(20):
        torch.manual_seed(seed)
        counts.append(len(model(texts(20, 40), labels=torch.zeros(20, dtype=torch.long)).retrieval_targets))
    assert 80 < sum(counts) / 20 < 120 and len(set(counts)) > 5  # of 10 groups of 40 positions


@pytest.mark.parametrize(("kind", "compat", "retrieved"), [
    (MuxForPreTraining, None, 18 - 9), (MuxForPreTraining, "princeton", 18 - 9),
    (MuxForSequenceClassification, None, 18 - 9), (MuxForSequenceClassification, "princeton", 18),
])
def test_fillers_are_retrieved_by_published_classifiers_alone(kind, compat, retrieved):
    """Three rows in groups of two, the second slot asked for everywhere: the last group's is a filler."""
    model = build(kind, compat=compat, num_labels=2, retrieval_weight=0.5)
    assert len(model(texts(3), retrieval_slots=torch.ones(2, 9, dtype=torch.long)).retrieval_targets) == retrieved


def test_the_first_token_of_published_electra_classifiers_is_not_retrieved():
    for kind, count in ((MuxForSequenceClassification, 8), (MuxForTokenClassification, 9)):
        model = build(kind, family="electra", compat="princeton", num_labels=2)
        assert len(model(texts(2), retrieval_slots=torch.zeros(1, 9, dtype=torch.long)).retrieval_targets) == count


def test_plain_electra_retrieves_nothing():
    model = build(MuxForPreTraining, N=1, family="electra")
    with pytest.raises(ValueError, match="no vocabulary head"):
        model(texts(2), retrieval_labels=texts(2))


# --- fillers --------------------------------------------------------------------------------------------------
def test_published_fillers_are_drawn_ids_and_masks_apart():
    """Numerics section 1.8: of rows of the same batch, by two independent draws."""
    model = build(MuxForSequenceClassification, N=5, compat="princeton", num_labels=2)
    ids = texts(6)
    ids[:, 0] = 101
    mask = (torch.arange(9) < torch.arange(3, 9)[:, None]).long()  # each row its own length
    apart = 0
    for seed in range(20):
        torch.manual_seed(seed)
        rows = model.mux.prepare(ids, mask)
        assert rows.given == 6 and len(rows.input_ids) == 10
        for filler, its_mask in zip(rows.input_ids[6:], rows.attention_mask[6:], strict=True):
            of, masked_as = ((ids == filler).all(1).nonzero().item(), (mask == its_mask).all(1).nonzero().item())
            apart += of != masked_as
    assert 50 < apart < 80  # five in six of 80


# --- gradients ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "fields"), [
    (MuxForTokenClassification, {}), (MuxForTokenClassification, {"demultiplexer": "prefix"}),
    (MuxForSequenceClassification, {"retrieval_weight": 0.5}), (MuxForPreTraining, {"retrieval_weight": 0.5}),
    (MuxForPreTraining, {"family": "electra"}),
])
def test_gradients_are_equal_to_the_last_bit(kind, fields):
    """With several threads, too, or no resumed run would be the one that was interrupted."""
    ids = torch.randint(5, 700, (64, 60), generator=torch.Generator().manual_seed(1))
    labels = ids % 2 if kind is not MuxForSequenceClassification else ids[:, 0] % 2
    slots = ids[::2] % 2 if "retrieval_weight" in fields else None
    torch.set_num_threads(2)
    try:
        found = []
        for _ in range(3):
            model = build(kind, num_labels=2, **fields)
            model(ids, labels=labels, retrieval_slots=slots).loss.backward()
            found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    finally:
        torch.set_num_threads(1)
    for other in found[1:]:
        assert all(torch.equal(grad, other[name]) for name, grad in found[0].items() if grad is not None)
