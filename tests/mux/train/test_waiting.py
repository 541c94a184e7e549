"""No part of a training step needs a number from the device: the meta device has none, and what asks for one there
raises. On a GPU the host would wait for it until all that is queued is done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mux.data.batches import TextQuestions
from mux.data.masking import CORRUPTIONS, Vocabulary
from mux.model import MuxConfig, MuxForPreTraining, MuxForSequenceClassification, MuxForTokenClassification
from mux.model.muxed import placed
from mux.train.objective import CLASSES, MASKED_TOKENS, NUMBERS, REPLACED_TOKENS, Answers, Objective, weighed

META = torch.device("meta")
SIZE = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "max_position_embeddings": 32}
ROWS, LENGTH = 6, 12
ANSWERS = {"bert": MASKED_TOKENS, "electra": REPLACED_TOKENS}


def step(model: Any, answers: Answers, rate: float, batch: dict[str, Tensor]) -> None:
    """Forward, objective and backward, as the loop has them, on the meta device."""
    model.to(META).train()
    objective = Objective(weighed(rate), answers)
    parts = objective(model, placed(model, batch, META), objective.counts(batch))
    assert parts.keys() == objective.weights.keys()
    torch.stack([part.loss for part in parts.values()]).sum().backward()
    assert all(part.loss.device == META and part.count > 0 for part in parts.values())
    assert all(parameter.grad is not None for parameter in model.mux.backbone.embeddings.parameters())


def ids_of(padded: bool, N: int) -> np.ndarray:
    ids = np.random.default_rng(0).integers(5, 60, (ROWS // N, N, LENGTH))
    if padded:
        ids[0, :, 7:] = ids[1, 0, 4:] = 0
    return ids


CASES = [(fields, rate) for fields in ({}, {"demultiplexer": "prefix"}, {"multiplexer": "contextual"},
                                       {"uncorrupted_retrieval": False}) for rate in (0.0, 0.25, 1.0)]


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize(("fields", "rate"), [*CASES, ({"num_instances": 1}, 0.0)], ids=str)
@pytest.mark.parametrize("family", ANSWERS)
def test_pretraining(family, fields, rate, padded):
    config = MuxConfig(**{"num_instances": 2, "family": family} | SIZE | fields)
    questions = TextQuestions(Vocabulary(60, (0, 1, 2, 3, 4), 4, 0), CORRUPTIONS[family, True], 0.3, rate < 1, rate > 0,
                              bool(config.uncorrupted_retrieval))
    batch = questions(ids_of(padded, config.num_instances), 0, 0, 0)
    step(MuxForPreTraining(config), ANSWERS[family], rate, batch)


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize(("kind", "classes", "answers"), [
    (MuxForSequenceClassification, 3, CLASSES), (MuxForSequenceClassification, 1, NUMBERS),
    (MuxForTokenClassification, 3, CLASSES),
])
def test_classification(kind, classes, answers, rate, padded):
    ids = torch.from_numpy(ids_of(padded, 2)).flatten(0, 1)
    batch = {"input_ids": ids, "attention_mask": ids.ne(0).long()}
    shape = ids.shape if kind is MuxForTokenClassification else ids.shape[:1]
    labels = torch.arange(shape.numel()).reshape(shape) % 3
    batch["labels"] = labels.float() if answers is NUMBERS else labels.masked_fill(labels.eq(2), -100)
    if rate:
        batch["retrieval_slots"] = ids[::2].ne(0).long() - 1  # the first of each group, where it is no padding
    model = kind(MuxConfig(num_instances=2, num_labels=classes, retrieval_weight=rate, task_weight=1 - rate, **SIZE))
    step(model, answers, rate, batch)


def test_what_waits_is_seen():
    """Labels that are on the device already, as transformers' Trainer puts them there, have to be asked for."""
    model = MuxForPreTraining(MuxConfig(num_instances=2, **SIZE)).to(META)
    ids = torch.zeros(2, 8, dtype=torch.long, device=META)
    with pytest.raises(NotImplementedError, match="meta"):
        model(ids, labels=ids)
