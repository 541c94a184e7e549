"""Where the time of a step goes, of a few steps that really take it."""

import gzip
import json
import time

import pytest
import torch

from mux.model.parts import part
from mux.train.profile import PASSED_OVER, RECORDED, TRACE, Profile

SECONDS = 0.02


def recorded(folder, steps: int) -> list:
    told = []
    profile = Profile(folder, torch.device("cpu"), lambda table, said: told.append((table, said)))
    for _ in range(steps):
        with part("outer"):
            time.sleep(SECONDS)
            with part("inner"):
                time.sleep(2 * SECONDS)
        with part("other"):
            pass
        profile.step()
    profile.close()
    return told


def test_parts_are_seconds_of_a_step_and_count_once(tmp_path):
    ((table, said),) = recorded(tmp_path / "a" / "b", PASSED_OVER + RECORDED + 3)
    assert set(table) == {"outer", "inner", "other"}
    assert table["inner"] == pytest.approx(2 * table["outer"], rel=0.5) and table["other"] < table["outer"]
    assert table["outer"] >= SECONDS
    trace = tmp_path / "a" / "b" / TRACE
    assert str(trace) in said
    names = [event.get("name") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]]
    assert names.count("mux: inner") >= RECORDED


def test_a_training_that_ends_before_has_no_table(tmp_path):
    assert recorded(tmp_path / "a", PASSED_OVER + RECORDED - 1) == []
    assert not (tmp_path / "a").exists()


def test_a_trace_that_cannot_be_written_ends_nothing(tmp_path):
    (tmp_path / "a").write_text("in the way")
    ((table, said),) = recorded(tmp_path / "a", PASSED_OVER + RECORDED)
    assert "could not be written" in said and table["outer"] >= SECONDS


def test_without_a_profiler_parts_are_nothing():
    with part("x") as nothing:
        assert nothing is None
