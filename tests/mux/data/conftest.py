from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from mux.data.tokenizer import train
from mux.recipe import files

VOCABULARY = 1000


@pytest.fixture(scope="session")
def leads() -> list[str]:
    """The 2,000 Wikipedia paragraphs that come with the program."""
    return [text for path in files.expand("builtin:wiki_leads") for text in files.read_documents(path)]


@pytest.fixture(scope="session")
def tokenizer(leads: list[str]) -> PreTrainedTokenizerFast:
    return train(iter(leads[:600]), VOCABULARY)


@pytest.fixture
def texts(tmp_path: Path, leads: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A corpus of 100 paragraphs: its source, relative to the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leads.txt").write_text("\n\n".join(leads[:100]), encoding="utf-8")
    return "path:leads.txt"


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `here` that `hub:here/NAME` reads, without a network and without touching the user's cache."""
    import datasets
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "here").mkdir()
    return tmp_path / "here"
