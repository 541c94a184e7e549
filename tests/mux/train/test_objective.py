"""What objectives count, on real models: every item weighs the same however a batch is split."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForTokenClassification

from mux.data.batches import TextQuestions
from mux.data.masking import CORRUPTIONS, Vocabulary
from mux.model import MuxConfig, MuxForPreTraining, MuxForSequenceClassification, MuxForTokenClassification
from mux.train.objective import (
    CLASSES,
    MASKED_TOKENS,
    NUMBERS,
    REPLACED_TOKENS,
    Objective,
    Part,
    highest,
    right_sign,
    weighed,
)

SMALL = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
         "max_position_embeddings": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ANSWERS = {"bert": MASKED_TOKENS, "electra": REPLACED_TOKENS}


def config(family: str = "bert", **fields) -> MuxConfig:
    return MuxConfig(**{"num_instances": 2, "family": family} | SMALL | fields)


def total(parts: list[dict[str, Part]]) -> dict[str, tuple[float, float, int]]:
    return {name: (sum(float(part[name].loss.detach()) * part[name].count for part in parts),
                   sum(float(part[name].correct) for part in parts), sum(part[name].count for part in parts))
            for name in parts[0]}


def answered(objective, model, batch):
    """As the loop asks: counted before the batch is on its device."""
    return objective(model, batch, objective.counts(batch))


@pytest.mark.parametrize("family", ANSWERS)
def test_items_of_pretraining_weigh_the_same_however_they_are_split(family):
    torch.manual_seed(0)
    model = MuxForPreTraining(config(family)).eval()
    questions = TextQuestions(Vocabulary(60, (0, 1, 2, 3, 4), 4, 0), CORRUPTIONS[family, True], 0.3, True, True)
    ids = np.random.default_rng(0).integers(5, 60, (6, 2, 12))
    ids[2:4, :, 7:] = 0
    objective = Objective(weighed(0.25), ANSWERS[family])
    parts = []
    for first in (0, 2, 4):
        batch = questions(ids[first : first + 2], 0, 0, first)
        parts.append(answered(objective, model, batch))
        assert {name: part.count for name, part in parts[-1].items()} == objective.counts(batch)
    split, whole = total(parts), total([answered(objective, model, questions(ids, 0, 0, 0))])
    for name in ("task", "retrieval"):
        assert split[name][0] == pytest.approx(whole[name][0], rel=1e-5)
        assert split[name][1:] == whole[name][1:] and whole[name][2] > 20


@pytest.mark.parametrize("family", ANSWERS)
@pytest.mark.parametrize("fields", [
    {"demultiplexer": "prefix"}, {"compat": "princeton"}, {"compat": "princeton", "demultiplexer": "prefix"},
    {"compat": "princeton", "demultiplexer": "prefix", "uncorrupted_retrieval": True},
], ids=str)
def test_the_model_is_asked_what_is_counted(family, fields):
    """Also where prefixes cut the ends of rows: every question finds its token, and none is lost."""
    made = config(family, **fields, vocab_size=700)
    questions = TextQuestions(
        Vocabulary(700, (0, 1, 2, 3, 4), 4, 0), CORRUPTIONS[family, bool(made.exact_replacement)], 0.3, True, True,
        bool(made.uncorrupted_retrieval), 0 if made.own_special_ids else made.prefix_length)
    ids = np.random.default_rng(0).integers(5, 700, (3, 2, 12))
    ids[1, :, 7:] = 0
    batch, objective = questions(ids, 0, 0, 0), Objective(weighed(0.25), ANSWERS[family])
    model = MuxForPreTraining(made).eval()
    parts, counts = answered(objective, model, batch), objective.counts(batch)
    assert {name: part.count for name, part in parts.items()} == counts
    cut = questions.unread
    assert counts["retrieval"] == sum(max(int((row != 0).sum()) - (cut if row[-1] else 0), 0) for row in ids[:, 0])
    # The retrieved tokens are those of the drawn slots, position by position.
    slots = np.roll(batch["retrieval_slots"].numpy(), -cut, axis=1)
    groups, positions = np.nonzero(slots >= 0)
    fed = batch.get("retrieval_labels", batch["input_ids"]).numpy().reshape(3, 2, 12)
    expected = fed[groups, slots[groups, positions], positions]
    if not made.own_special_ids and not cut:
        expected[positions == 0] = 101  # numerics section 1.6
    assert model(**batch).retrieval_targets.tolist() == expected.tolist()


def test_hits_of_replaced_tokens_are_signs():
    logits = torch.tensor([[3.0, -1.0, 0.5], [-2.0, 0.0, -7.0]])
    labels = torch.tensor([[1, 0, 0], [1, 0, -100]])
    assert right_sign(logits, labels) == 3  # 3.0 for 1, -1.0 and 0.0 for 0


def test_hits_of_classes_are_the_highest_where_asked():
    logits = torch.tensor([[[1.0, 2.0], [5.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    assert highest(logits, torch.tensor([[1, 1], [1, -100]])) == 2
    assert highest(logits[:, 0], torch.tensor([1, 0])) == 1


def test_weights_are_the_rates():
    assert weighed(0.0) == {"task": 1.0} and weighed(1.0) == {"retrieval": 1.0}
    assert weighed(0.25, scale=50) == {"task": 37.5, "retrieval": 12.5}


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_the_weighed_parts_are_the_models_own_loss(family):
    """Also under the published weight of ELECTRA's loss."""
    torch.manual_seed(0)
    model = MuxForPreTraining(config(family, task_weight=0.75, retrieval_weight=0.25, discriminator_weight=50.0)).eval()
    questions = TextQuestions(Vocabulary(60, (0, 1, 2, 3, 4), 4, 0), CORRUPTIONS[family, True], 0.3, True, True)
    batch = questions(np.random.default_rng(0).integers(5, 60, (2, 2, 12)), 0, 0, 0)
    objective = Objective(weighed(0.25, 50.0 if family == "electra" else 1.0), ANSWERS[family])
    parts = answered(objective, model, batch)
    weighted = sum(objective.weights[name] * float(part.loss.detach()) for name, part in parts.items())
    assert weighted == pytest.approx(float(model(**batch).loss.detach()), rel=1e-6)


def texts(labels: torch.Tensor, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 60, (4, 9), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, **more}


def test_fine_tuning_with_retrieval_has_both_parts():
    torch.manual_seed(0)
    model = MuxForSequenceClassification(config(task_weight=0.9, retrieval_weight=0.1, num_labels=3)).eval()
    slots = torch.tensor([[0, 1, -1] * 3, [1, 1, -1] * 3])
    batch = texts(torch.tensor([0, 1, 2, 0]), retrieval_slots=slots)
    parts = answered(Objective(weighed(0.1), CLASSES), model, batch)
    assert parts["task"].count == 4 and parts["retrieval"].count == 12 and parts["retrieval"].loss.requires_grad
    out = model(**batch)
    weighted = 0.9 * parts["task"].loss + 0.1 * parts["retrieval"].loss
    assert weighted.item() == pytest.approx(out.loss.item())


def test_a_teacher_stands_beside_the_labels():
    torch.manual_seed(0)
    model = MuxForTokenClassification(config(num_labels=3)).eval()
    labels = torch.randint(3, (4, 9))
    labels[labels == 2], labels[0, 0] = -100, 1
    batch = texts(labels, teacher_logits=torch.randn(4, 9, 3))
    objective = Objective(weighed(0.0, teacher_rate=0.25), CLASSES, temperature=2.0)
    assert objective.weights == {"task": 0.75, "teacher": 0.25}
    assert weighed(0.2, teacher_rate=0.25) == pytest.approx({"task": 0.6, "teacher": 0.2, "retrieval": 0.2})
    parts, logits = answered(objective, model, batch), model(batch["input_ids"], batch["attention_mask"]).logits
    asked = labels >= 0
    taught, said = (torch.distributions.Categorical(logits=x[asked] / 2) for x in (batch["teacher_logits"], logits))
    expected = 4 * torch.distributions.kl_divergence(taught, said).mean()
    assert parts["teacher"].loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert parts["teacher"].count == parts["task"].count == asked.sum()
    assert parts["teacher"].correct == (logits.argmax(-1) == batch["teacher_logits"].argmax(-1))[asked].sum()
    batch["teacher_logits"][~asked] = 1e6  # nobody looks there
    assert answered(objective, model, batch)["teacher"].loss.item() == pytest.approx(expected.item(), rel=1e-5)
    alike = answered(objective, model, batch | {"teacher_logits": logits.detach()})["teacher"]
    assert alike.loss.item() == pytest.approx(0, abs=1e-6) and alike.correct == alike.count


def test_a_teacher_of_numbers():
    model = MuxForSequenceClassification(config(num_labels=1)).eval()
    batch = texts(torch.tensor([0.5, 1.0, 2.0, 3.0]), teacher_logits=torch.tensor([[0.0], [1.0], [2.0], [5.0]]))
    part = answered(Objective(weighed(0.0, teacher_rate=1.0), NUMBERS, temperature=3.0), model, batch)["teacher"]
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    assert part.loss.item() == pytest.approx((logits - batch["teacher_logits"]).square().mean().item(), rel=1e-5)


def test_numbers_are_counted_and_never_right():
    model = MuxForSequenceClassification(config(num_labels=1)).eval()
    batch = texts(torch.tensor([0.5, -100.0, 2.0, 3.0]))  # a number, not a label that asks for nothing
    parts = answered(Objective(weighed(0.0), NUMBERS), model, batch)
    assert parts["task"].count == 4 and math.isnan(parts["task"].correct)


@pytest.mark.parametrize("model", [
    MuxForTokenClassification(config(num_labels=2)),
    BertForTokenClassification(BertConfig(**SMALL, num_labels=2)),
], ids=["mux", "transformers"])
def test_a_batch_without_a_labelled_word_has_no_loss(model):
    objective = Objective(weighed(0.0), CLASSES)
    labels = torch.full((4, 9), -100)
    part = answered(objective, model, texts(labels))["task"]
    assert part.count == 0 and float(part.loss) == 0 and part.correct == 0
    part.loss.backward()
    labels[1, 2] = labels[2, 3] = 1
    part = answered(objective, model, texts(labels))["task"]
    assert part.count == 2 and float(part.loss) > 0
