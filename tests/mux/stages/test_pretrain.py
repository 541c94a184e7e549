"""What pre-training asks, by the numerics of the recipe's [model]: no processes, no corpus."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from mux.data.masking import IGNORED, mask_tokens, replace_as_published, replace_tokens
from mux.stages import retrieval
from mux.stages.loading import config_of
from mux.stages.pretrain import objective_of, questions_of

NUMERICS = [{"compat": "princeton"}, {}, {"compat": "princeton", "departures": {"uncorrupted_retrieval": True}},
            {"departures": {"uncorrupted_retrieval": False, "exact_replacement": False, "own_special_ids": False}}]
CASES = list(itertools.product(NUMERICS, ("bert", "electra"), ("rsa", "prefix")))


@pytest.fixture
def asked(context):
    """asked(mask_rate, retrieval_rate, **model): the questions of such a training, and a batch of four groups."""
    def asked(mask_rate: float | None, retrieval_rate: float, **model: Any):
        made = context(**model)
        config = config_of(made.recipe.model, made.tokenizer, retrieval_rate)
        questions = questions_of(config, objective_of(config), made, mask_rate)
        ids = np.random.default_rng(0).integers(len(made.tokenizer.all_special_ids), 300, (4, 2, 32))
        return questions, ids.reshape(8, 32), questions(ids, 0, 0, 0)

    return asked


@pytest.mark.parametrize(("numerics", "family", "demultiplexer"), CASES, ids=str)
def test_what_a_recipe_asks(asked, numerics, family, demultiplexer):
    model = numerics | {"family": family, "demultiplexer": demultiplexer}
    departs = {"uncorrupted_retrieval": not numerics.get("compat"), "exact_replacement": not numerics.get("compat"),
               "own_special_ids": not numerics.get("compat")} | numerics.get("departures", {})
    unread = 3 if demultiplexer == "prefix" and not departs["own_special_ids"] else 0
    corruption = (mask_tokens if family == "bert" else
                  replace_tokens if departs["exact_replacement"] else replace_as_published)
    for rate, parts in ((0.0, {"task"}), (0.25, {"task", "retrieval"})):
        questions, ids, batch = asked(0.15, rate, **model)
        assert questions.corruption is corruption and questions.rate == 0.15
        assert questions.unread == unread and questions.uncorrupted == departs["uncorrupted_retrieval"]
        assert {name for name in ("task", "retrieval") if getattr(questions, name)} == parts
        changed = (batch["input_ids"].numpy() != ids).mean()
        assert 0.05 < changed < 0.25
        assert batch["labels"][:, 32 - unread:].eq(IGNORED).all() and batch["labels"][:, :32 - unread].ne(IGNORED).any()
        assert ("retrieval_slots" in batch) == ("retrieval" in parts)
        assert ("retrieval_labels" in batch) == ("retrieval" in parts and departs["uncorrupted_retrieval"])


@pytest.mark.parametrize(("numerics", "family", "demultiplexer"), CASES, ids=str)
def test_the_retrieval_stage_reads_what_its_numerics_say(asked, context, numerics, family, demultiplexer):
    """Published stage 1 reads and decodes corrupted tokens; ours reads and decodes the corpus as it stands."""
    model = numerics | {"family": family, "demultiplexer": demultiplexer}
    rate = retrieval.mask_rate(context(**model).recipe.model)
    questions, ids, batch = asked(rate, 1.0, **model)
    uncorrupted = numerics.get("departures", {}).get("uncorrupted_retrieval", not numerics.get("compat"))
    assert questions.retrieval and not questions.task and "labels" not in batch
    same = torch.from_numpy(ids).eq(batch["input_ids"])
    if uncorrupted:
        assert rate is None and questions.corruption is None and same.all()
        assert torch.equal(batch["retrieval_labels"], batch["input_ids"])
    else:
        assert rate == 0.15 and 0.05 < 1 - same.float().mean() < 0.25
        assert "retrieval_labels" not in batch  # what is fed is decoded
    unread = questions.unread  # of cut rows slots are counted from the prefix on
    assert batch["retrieval_slots"][:, :unread].eq(-1).all() and batch["retrieval_slots"][:, unread:].ge(0).all()
