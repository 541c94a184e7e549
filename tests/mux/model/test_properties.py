"""What holds for every multiplexer, demultiplexer, family and head under the default numerics (design section 4):

A full group's result never depends on other groups, on their order, on whether a tail exists, or on padded length;
repeated calls give the same tail. And N = 1 is transformers' own encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    ElectraConfig,
    ElectraForPreTraining,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
)

from mux.model import MuxConfig, MuxForPreTraining, MuxForSequenceClassification, MuxForTokenClassification
from mux.model.demultiplexer import SHARED
from mux.model.multiplexer import MULTIPLEXERS

V, CLASSES, LONGEST, MORE = 60, 3, 10, 5
SIZE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": V,
    "max_position_embeddings": 32,
}
FAMILIES: dict[str, dict[str, Any]] = {"bert": {}, "electra": {"embedding_size": 16}}
HEADS: dict[str, Any] = {"pretraining": MuxForPreTraining, "sequence": MuxForSequenceClassification,
                         "tokens": MuxForTokenClassification}
CLOSE: dict[str, Any] = {"atol": 2e-5, "rtol": 1e-5}
Row = list[int]

a_row = st.lists(st.integers(5, V - 1), min_size=1, max_size=LONGEST)
variants = st.tuples(st.sampled_from(list(FAMILIES)), st.sampled_from(list(HEADS)), st.sampled_from([2, 3, 5]))
some = settings(max_examples=6, deadline=None)


def noisy(model: Any) -> Any:
    """Move every weight off its initial value, so that biases and layer norms matter."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@cache
def build(multiplexer: str, demultiplexer: str, family: str, head: str, N: int) -> Any:
    torch.manual_seed(0)
    return noisy(HEADS[head](MuxConfig(
        family=family, num_instances=N, multiplexer=multiplexer, demultiplexer=demultiplexer, num_labels=CLASSES,
        task_weight=0.75, retrieval_weight=0.25, **SIZE, **FAMILIES[family])))


def batch(rows: Sequence[Row], more: int = 0, below_padding: int = 0) -> dict[str, Tensor]:
    """Rows padded to the longest and `more` beyond; segments change in the middle of each row."""
    length = max(map(len, rows)) + more
    ids = torch.tensor([row + [below_padding] * (length - len(row)) for row in rows])
    lengths = torch.tensor([[len(row)] for row in rows])
    mask = (torch.arange(length) < lengths).long()
    segments = (torch.arange(length) >= (lengths + 1) // 2).long()
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


@torch.no_grad()
def results(model: Any, rows: Sequence[Row], **padding: int) -> list[Tensor]:
    """Each row's logits, of its own tokens where the head has some for each token."""
    logits = model(**batch(rows, **padding)).logits
    assert len(logits) == len(rows)
    whole = isinstance(model, MuxForSequenceClassification)
    return [found if whole else found[: len(row)] for found, row in zip(logits, rows, strict=True)]


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("demultiplexer", SHARED)
@pytest.mark.parametrize("multiplexer", MULTIPLEXERS)
@some
@given(data=st.data())
def test_a_full_group_depends_on_itself_alone(multiplexer, demultiplexer, family, head, data) -> None:
    N = data.draw(st.sampled_from([2, 3, 5]))
    model = build(multiplexer, demultiplexer, family, head, N)
    groups = data.draw(st.lists(st.lists(a_row, min_size=N, max_size=N), min_size=1, max_size=3))
    tail = data.draw(st.lists(a_row, max_size=N - 1))
    expected = [row for group in groups for row in results(model, group)]
    rows = [row for group in groups for row in group]
    assert_same(results(model, [*rows, *tail])[: len(rows)], expected)
    order = data.draw(st.permutations(range(len(groups))))
    moved = results(model, [row for index in order for row in groups[index]], more=data.draw(st.integers(0, MORE)))
    assert_same(moved, [row for index in order for row in expected[index * N: (index + 1) * N]])


@pytest.mark.parametrize("demultiplexer", SHARED)
@pytest.mark.parametrize("multiplexer", MULTIPLEXERS)
@some
@given(variant=variants, data=st.data())
def test_any_number_of_rows_and_a_tail_that_repeats(multiplexer, demultiplexer, variant, data) -> None:
    """A tail is filled with the batch's first rows; apart from these it is a group like the others."""
    *kind, N = variant
    model = build(multiplexer, demultiplexer, *kind, N)
    rows = data.draw(st.lists(a_row, min_size=1, max_size=3 * N))
    found = results(model, rows)
    assert all(torch.equal(one, other) for one, other in zip(found, results(model, rows), strict=True))
    filled = [*rows, *(rows * N)[: -len(rows) % N]]
    assert_same(found, results(model, filled, more=data.draw(st.integers(0, MORE)))[: len(rows)])
    last = len(rows) // N * N
    assert_same(found[last:], results(model, filled[last:])[: len(rows) - last] if last < len(rows) else [])


@pytest.mark.parametrize("demultiplexer", SHARED)
@pytest.mark.parametrize("multiplexer", MULTIPLEXERS)
@some
@given(variant=variants, data=st.data())
def test_what_lies_under_padding_does_not_matter(multiplexer, demultiplexer, variant, data) -> None:
    *kind, N = variant
    model = build(multiplexer, demultiplexer, *kind, N)
    rows = data.draw(st.lists(a_row, min_size=1, max_size=2 * N))
    more = data.draw(st.integers(0, MORE))
    assert_same(results(model, rows, more=more, below_padding=data.draw(st.integers(1, V - 1))), results(model, rows))


@pytest.mark.parametrize("demultiplexer", SHARED)
@pytest.mark.parametrize("multiplexer", MULTIPLEXERS)
@some
@given(variant=variants, data=st.data())
def test_losses_count_every_row_once(multiplexer, demultiplexer, variant, data) -> None:
    """No loss depends on the order of the groups or the padded length; of fillers and padding nothing is asked."""
    family, head, N = variant
    model = build(multiplexer, demultiplexer, family, head, N)
    groups = data.draw(st.integers(1, 3))
    rows = data.draw(st.lists(a_row, min_size=groups * N, max_size=groups * N))
    slots = data.draw(st.lists(st.lists(st.integers(-1, N - 1), min_size=LONGEST + MORE, max_size=LONGEST + MORE),
                               min_size=groups, max_size=groups))
    order = data.draw(st.permutations(range(groups)))
    moved = [row for group in order for row in rows[group * N: (group + 1) * N]]
    one = losses(model, rows, slots)
    other = losses(model, moved, [slots[group] for group in order], more=data.draw(st.integers(0, MORE)))
    torch.testing.assert_close(one[:3], other[:3], **CLOSE)
    left_out = data.draw(st.integers(0, N - 1))
    kept = rows[: len(rows) - left_out]
    asked = [kept[group * N + slot][place] for group in range(groups) for place, slot in enumerate(slots[group])
             if slot >= 0 and group * N + slot < len(kept) and place < len(kept[group * N + slot])]
    assert losses(model, kept, slots)[3].tolist() == asked


@torch.no_grad()
def losses(model: Any, rows: Sequence[Row], slots: list[list[int]], more: int = 0) -> tuple[Tensor, ...]:
    """(loss, task loss, retrieval loss, retrieved tokens) with labels that are a function of each row."""
    fed = batch(rows, more)
    every = fed["input_ids"]
    if isinstance(model, MuxForSequenceClassification):
        labels = torch.tensor([sum(row) % CLASSES for row in rows])
    else:
        highest = {"bert": V, "electra": 2}[model.config.family] if isinstance(model, MuxForPreTraining) else CLASSES
        labels = torch.where((every % 3 > 0) & fed["attention_mask"].bool(), every % highest, -100)
    chosen = torch.tensor(slots)[:, : every.shape[1]]
    out = model(**fed, labels=labels, retrieval_slots=chosen)
    return out.loss, out.task_loss, out.retrieval_loss, out.retrieval_targets


# --- N = 1 ----------------------------------------------------------------------------------------------------
PLAIN: dict[tuple[str, str], Any] = {
    ("bert", "pretraining"): BertForMaskedLM, ("electra", "pretraining"): ElectraForPreTraining,
    ("bert", "sequence"): BertForSequenceClassification, ("electra", "sequence"): ElectraForSequenceClassification,
    ("bert", "tokens"): BertForTokenClassification, ("electra", "tokens"): ElectraForTokenClassification,
}
RENAMED = {"bert.pooler.": "pooler.", "bert.": "mux.backbone.", "electra.": "mux.backbone.",
           "cls.predictions.bias": "head.decoder.bias", "cls.predictions.": "head.",
           "discriminator_predictions.": "discriminator."}


@cache
def plain_pair(family: str, head: str, classes: int) -> tuple[Any, Any]:
    """(ours, transformers') with the same weights; every weight of ours is theirs."""
    config = {"bert": BertConfig, "electra": ElectraConfig}[family](num_labels=classes, **SIZE, **FAMILIES[family])
    theirs = noisy(PLAIN[family, head](config))
    state = {}
    for name, tensor in theirs.state_dict().items():
        start = next((start for start in RENAMED if name.startswith(start)), "")
        state[RENAMED.get(start, "") + name.removeprefix(start)] = tensor
    ours = HEADS[head](MuxConfig(family=family, num_instances=1, num_labels=classes, **SIZE, **FAMILIES[family]))
    assert ours.load_state_dict(state).missing_keys == []
    return ours.eval(), theirs


@pytest.mark.parametrize(("head", "classes"), [("pretraining", 2), ("sequence", 3), ("sequence", 1), ("tokens", 4)],
                         ids=["pretraining", "sequence", "regression", "tokens"])
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=20, deadline=None)
@given(rows=st.lists(a_row, min_size=1, max_size=6), more=st.integers(0, MORE))
@torch.no_grad()
def test_one_instance_is_the_plain_encoder(family: str, head: str, classes: int, rows: list[Row], more: int) -> None:
    ours, theirs = plain_pair(family, head, classes)
    fed = batch(rows, more)
    torch.testing.assert_close(ours(**fed).logits, theirs(**fed).logits, atol=1e-6, rtol=1e-6)
    labels = plain_labels(fed, family, head, classes)
    found, expected = ours(**fed, labels=labels), theirs(**fed, labels=labels)
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-6, rtol=1e-6)
    if PLAIN[family, head] is BertForMaskedLM:  # ours: labelled tokens only
        torch.testing.assert_close(found.logits, expected.logits[labels != -100], atol=2e-6, rtol=1e-6)


def plain_labels(fed: dict[str, Tensor], family: str, head: str, classes: int) -> Tensor:
    """At least one token of a batch is asked for: transformers' mean over none is NaN."""
    ids, real = fed["input_ids"], fed["attention_mask"].bool()
    if head == "sequence":
        scores = ids.sum(1) % 7
        return scores / 3 if classes == 1 else scores % classes
    if family == "electra" and head == "pretraining":
        return (ids % 2).float()
    asked = real & (ids % 3 > 0)
    asked[0, 0] = True
    return torch.where(asked, ids if head == "pretraining" else ids % classes, -100)
