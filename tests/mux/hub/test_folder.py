"""Folders appear whole or not at all, and damaged ones are refused in words."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mux.hub.folder import read_weights, written_whole

WEIGHTS = {"bert.weight": torch.arange(12.0).reshape(3, 4), "bert.ids": torch.arange(5)}


def test_a_folder_appears_at_the_end(tmp_path: Path):
    place = tmp_path / "new" / "model"
    with written_whole(place) as part:
        (part / "file").write_text("all of it")
        assert not place.exists()
    assert (place / "file").read_text() == "all of it"
    assert [path.name for path in place.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_what_fails_leaves_nothing(error: BaseException, tmp_path: Path):
    with pytest.raises(type(error)), written_whole(tmp_path / "model") as part:
        (part / "file").touch()
        raise error
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="exists already"), written_whole(place):
            pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("name", "save"), [("pytorch_model.bin", torch.save), ("model.safetensors", save_file)])
def test_damaged_weights_are_refused_in_words(name: str, save, tmp_path: Path):
    """Cut anywhere, or with bytes changed anywhere, among them in the pickled instructions."""
    path = tmp_path / name
    save(WEIGHTS, path)
    assert torch.equal(read_weights(tmp_path)[1]["bert.weight"], WEIGHTS["bert.weight"])
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    for number in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 3, 30))):
            damaged[draw.randrange(min(len(whole), 700) if number % 2 else len(whole))] = draw.randrange(256)
        path.write_bytes(damaged if number % 3 else damaged[: draw.randrange(len(whole))])
        try:
            read_weights(tmp_path)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(str(path)), error
    assert refused > 100


def test_a_file_of_something_else_than_named_tensors_is_refused(tmp_path: Path):
    for content in ([torch.zeros(1)], {"a": 1}, {1: torch.zeros(1)}):
        torch.save(content, tmp_path / "pytorch_model.bin")
        with pytest.raises(ValueError, match="is not a state dict: tensors by name are needed"):
            read_weights(tmp_path)
