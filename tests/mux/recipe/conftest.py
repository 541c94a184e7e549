"""A folder of recipes to write into, as the current directory, so that refusals name files as a user would."""

from __future__ import annotations

from pathlib import Path

import pytest

from mux.recipe import Loaded, Refusal, load

# Every line that a test changes is there once.
SMALL = """\
name = "small"

[model]
size = "TINY"
N = 2

[tokenizer]
source = "sentencepiece"
vocabulary = 4_096

[corpus]
sources = ["builtin:wiki_leads"]
sequence_length = 64

[[stages]]
kind = "pretrain"
steps = 100
warmup_steps = 10

[[stages]]
kind = "finetune"
tasks = ["topic"]

[[stages]]
kind = "ensemble"
copies = [1, 2]
"""


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("small.toml", SMALL)

    def write(self, name: str, text: str | bytes) -> Path:
        """Returns the path as the user gives it: relative."""
        file = self.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Path(name)

    def changed(self, *changes: tuple[str, str]) -> str:
        """The small recipe with texts replaced."""
        text = SMALL
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        return text

    def load(self, text: str | bytes, *overrides: str, name: str = "x.toml") -> Loaded:
        return load(self.write(name, text), overrides)

    def refusal(self, text: str | bytes, *overrides: str, name: str = "x.toml") -> str:
        """What loading a recipe of this text says. It must be refused."""
        with pytest.raises(Refusal) as refused:
            self.load(text, *overrides, name=name)
        return str(refused.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path
