"""What micro-batches ask, and that they are the same however a step is split."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mux.data.batches import Share, TaskBatches, TextQuestions
from mux.data.encoding import encode
from mux.data.masking import IGNORED, Vocabulary, mask_tokens, replace_tokens
from mux.data.tasks import Examples

VOCABULARY = Vocabulary(100, (0, 1, 2, 3, 4), mask_id=4, pad_id=0)
QUESTIONS = TextQuestions(VOCABULARY, mask_tokens, 0.3, task=True, retrieval=True)


def groups(B: int, N: int, L: int) -> np.ndarray:
    ids = np.random.default_rng(0).integers(5, 100, (B, N, L))
    ids[:, 0, L - 3 :] = 0
    return ids


def test_both_questions_are_asked_of_real_tokens():
    ids = groups(4, 2, 16)
    batch = QUESTIONS(ids, 0, 0, 0)
    flat = torch.from_numpy(ids.reshape(8, 16))
    asked = batch["labels"] != IGNORED
    assert torch.equal(batch["labels"][asked], flat[asked]) and asked.any()
    assert torch.equal(batch["retrieval_labels"], flat) and not torch.equal(batch["input_ids"], flat)
    assert torch.equal(batch["attention_mask"], flat.ne(0).long())
    assert (batch["retrieval_slots"][:, -3:] == 1).all() and set(batch["retrieval_slots"].unique().tolist()) == {0, 1}


def test_replaced_tokens_are_not_asked_for_at_padding():
    ids = groups(4, 2, 16)
    batch = dataclasses.replace(QUESTIONS, corruption=replace_tokens, retrieval=False)(ids, 0, 0, 0)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert torch.equal(batch["labels"].eq(IGNORED), batch["attention_mask"].eq(0))


def test_retrieval_alone_reads_the_tokens_as_they_are():
    ids = groups(4, 2, 16)
    batch = dataclasses.replace(QUESTIONS, corruption=None, task=False)(ids, 0, 0, 0)
    assert set(batch) == {"input_ids", "attention_mask", "retrieval_labels", "retrieval_slots"}
    assert torch.equal(batch["input_ids"], batch["retrieval_labels"])


def test_published_retrieval_decodes_what_is_fed():
    ids = groups(4, 2, 16)
    batch = dataclasses.replace(QUESTIONS, task=False, uncorrupted=False)(ids, 0, 0, 0)
    assert set(batch) == {"input_ids", "attention_mask", "retrieval_slots"}
    assert not torch.equal(batch["input_ids"], torch.from_numpy(ids.reshape(8, 16)))


def test_positions_that_a_prefix_cuts_off_are_not_asked_for():
    ids = groups(4, 2, 16)
    whole, cut = QUESTIONS(ids, 0, 0, 0), dataclasses.replace(QUESTIONS, unread=3)(ids, 0, 0, 0)
    assert (cut["labels"][:, -3:] == IGNORED).all() and torch.equal(cut["labels"][:, :-3], whole["labels"][:, :-3])
    # The model counts the positions of retrieval from the prefix on.
    assert (cut["retrieval_slots"][:, :3] == -1).all()
    assert torch.equal(cut["retrieval_slots"][:, 3:], whole["retrieval_slots"][:, :-3])


@pytest.mark.parametrize("of_words", [False, True])
def test_a_step_of_a_task_is_the_same_however_it_is_split(tokenizer, leads, of_words):
    texts = [text.split()[: 3 + number % 9] for number, text in enumerate(leads[:40])]
    count = sum(map(len, texts)) if of_words else len(texts)
    rows = tuple(map(tuple, texts)) if of_words else tuple(map(" ".join, texts))
    encoded = encode(Examples(rows, None, np.arange(count), of_words), tokenizer, 32)

    def step(micro_batch: int, ranks: int) -> tuple[list, list]:
        """(labels, retrieved ids) of the whole step in order."""
        labels, retrieved = [], []
        for rank in range(ranks):
            for batch in TaskBatches(encoded, "key", 2, 0, Share(rank, ranks, 8, micro_batch), retrieval=True)(5):
                labels += batch["labels"][batch["labels"] != IGNORED].tolist()
                slots = batch["retrieval_slots"]
                ids = batch["input_ids"].unflatten(0, (-1, 2))
                real = batch["attention_mask"].unflatten(0, (-1, 2)).bool()
                assert slots.shape == ids[:, 0].shape and torch.equal(slots >= 0, real.any(1))
                for group, position in slots.ge(0).nonzero().tolist():
                    assert real[group, slots[group, position], position]
                    retrieved.append(int(ids[group, slots[group, position], position]))
        return labels, retrieved

    whole = step(8, 1)
    assert whole == step(2, 1) == step(1, 4) and len(whole[0]) >= 16 and len(whole[1]) > 50
