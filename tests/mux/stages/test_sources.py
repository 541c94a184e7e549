"""Where models come from."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mux.run import write_json
from mux.stages.sources import source_folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_stage_of_the_run(context):
    made = context()
    with pytest.raises(ValueError, match="stage pretrain has not finished"):
        source_folder(made, "pretrain")
    write_json(made.run.stage_result("pretrain"), {"model": "pretrain/model"})
    write_json(made.run.stage_result("finetune"), {"tasks": {"topic": {"model": "finetune/topic/model"}}})
    assert source_folder(made, "pretrain") == made.run.path / "pretrain/model"
    assert source_folder(made, "finetune", "topic") == made.run.path / "finetune/topic/model"


def test_another_run(context, tmp_path, outside):
    made = context()
    with pytest.raises(ValueError, match="has no pre-trained model yet"):
        source_folder(made, f"run:{tmp_path}")
    write_json(tmp_path / "results.json", {"stages": [
        {"id": "pretrain", "kind": "pretrain", "status": "done", "model": "outside"}]})
    assert source_folder(made, f"run:{tmp_path}") == outside
    assert len(json.loads(made.run.environment.read_text())["data"][f"model run:{tmp_path}"]) == 64


def test_a_folder_is_noted_by_its_weights_and_must_stay_as_it_is(context, outside):
    source = f"path:{outside}"
    assert source_folder(context(), source) == outside
    (outside / "README.md").write_text("no weights")
    assert source_folder(context(), source) == outside
    (outside / "model.safetensors").write_bytes(b"others!")
    with pytest.raises(ValueError, match="has changed since the run began"):
        source_folder(context(), source)


def test_what_the_first_rank_could_not_have_is_an_error_on_all(context, tmp_path):
    """The second rank asks for nothing itself and hears the first's reason."""
    first, second = context(), context()
    with pytest.raises(ValueError, match="no such folder") as told:
        source_folder(first, f"path:{tmp_path}/none")
    second.ranks = SimpleNamespace(rank=1, size=2, first=False, from_first=lambda value: told.value)
    with pytest.raises(ValueError, match="no such folder"):
        source_folder(second, f"path:{tmp_path}/none")


@pytest.mark.parametrize("failure", [
    lambda folder: (folder / "results.json").mkdir(),  # OSError
    lambda folder: (folder / "results.json").write_text('{"stages": [{}]}'),  # KeyError
])
def test_whatever_fails_on_the_first_rank_is_told(context, outside, failure):
    """Not raised before the others are told: they would wait for it."""
    made, told = context(), []
    made.ranks.from_first = lambda value: told.append(value) or value
    failure(outside)
    with pytest.raises((OSError, KeyError)) as raised:
        source_folder(made, f"run:{outside}")
    assert told == [raised.value]


def test_other_weights_are_an_error_on_all(context, outside):
    source_folder(context(), f"path:{outside}")
    (outside / "model.safetensors").write_bytes(b"others!")
    made, told = context(), []
    made.ranks.from_first = lambda value: told.append(value) or value
    with pytest.raises(ValueError, match="has changed since the run began"):
        source_folder(made, f"path:{outside}")
    assert len(told) == 1 and isinstance(told[0], ValueError)


def test_of_a_run_safetensors_alone_are_read(context, tmp_path, outside):
    write_json(tmp_path / "results.json", {"stages": [
        {"id": "pretrain", "kind": "pretrain", "status": "done", "model": "outside"}]})
    (outside / "model.safetensors").rename(outside / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"outside has no \*\.safetensors"):
        source_folder(context(), f"run:{tmp_path}")
