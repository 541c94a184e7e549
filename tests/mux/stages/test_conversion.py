"""The converter of checkpoints as a process: stopped when a stop is asked for, and its failure told. What it makes is
loaded in tests/mux/train/test_resuming.py."""

import os
from types import SimpleNamespace

import psutil
import pytest

from mux.manifest import Manifest
from mux.stages.conversion import convert, load_resized
from mux.train.loop import Stopped

pytestmark = pytest.mark.processes

RANK = SimpleNamespace(first=True, from_first=lambda value: value, barrier=lambda: None)


def converters() -> list[psutil.Process]:
    return [process for process in psutil.Process(os.getpid()).children()
            if "deepspeed.checkpoint.ds_to_universal" in process.cmdline()]


def test_a_stop_ends_the_conversion(tmp_path):
    seen = []

    def progress_together(*words):
        seen.extend(converters())
        raise Stopped

    source = tmp_path / "step_00000005"
    source.mkdir()
    with pytest.raises(Stopped):
        convert(SimpleNamespace(ranks=RANK, progress_together=progress_together), source, tmp_path / "made")
    assert len(seen) == 1 and not converters() and not (tmp_path / "made").exists()


def test_a_conversion_that_fails_is_told(tmp_path):
    source = tmp_path / "step_00000005"
    source.mkdir()
    with pytest.raises(RuntimeError, match=r"step_00000005 could not be resized: ds_to_universal ended with 1"):
        convert(SimpleNamespace(ranks=RANK, progress_together=lambda *words: None), source, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_it_wants_room_before_it_begins(tmp_path):
    manifest = Manifest(step=5, time=0.0, recipe_digest="d", stage="pretrain", world_size=2, zero_stage=1,
                        precision="fp32", rng="", progress={}, files={"shard": {"bytes": 10**15, "sha256": "0" * 64}})
    with pytest.raises(OSError, match="needs 2,000,000,000,000,000 bytes beside it"):
        load_resized(SimpleNamespace(ranks=RANK), SimpleNamespace(folder=tmp_path), None, manifest)
    assert not list(tmp_path.iterdir())
