"""A stage's context without processes: a run directory, a recipe, one rank."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from mux.data.tokenizer import train
from mux.recipe import Recipe, files
from mux.run import RunDirectory, write_json
from mux.stages.context import Context

VOCABULARY = 300
SIZE = {"size": {"layers": 2, "hidden": 32, "heads": 4, "intermediate": 64}, "max_positions": 40, "N": 2}


@pytest.fixture(scope="session")
def small_tokenizer() -> PreTrainedTokenizerFast:
    texts = [text for path in files.expand("builtin:wiki_leads") for text in files.read_documents(path)]
    return train(iter(texts[:300]), VOCABULARY)


@pytest.fixture
def context(tmp_path: Path, small_tokenizer: PreTrainedTokenizerFast):
    """context(**model): of a recipe with this [model]; the tokenizer is there already."""
    run = RunDirectory(tmp_path / "run")
    run.create()
    write_json(run.environment, {"data": {}})
    rank = SimpleNamespace(rank=0, size=1, first=True, from_first=lambda value: value, sum=list, device="cpu")

    def context(**model: Any) -> Context:
        recipe = Recipe.model_validate({
            "name": "test", "model": (SIZE if model.get("family") != "hub" else {}) | model,
            "tokenizer": {"source": "sentencepiece", "vocabulary": VOCABULARY},
            "corpus": {"sources": ["builtin:wiki_leads"]},
            "stages": [{"kind": "finetune", "id": "finetune", "tasks": ["topic"], "sequence_length": 24}],
        })
        made = Context(run=run, plan=None, recipe=recipe, ranks=rank, voice=None, stop=lambda: False)
        made.tokenizer = small_tokenizer
        return made

    return context
