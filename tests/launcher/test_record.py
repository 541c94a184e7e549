"""`mux runs keep`: the record of a run, which the report and the other commands read like the run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.record import FILES, keep
from mux.event import Heartbeat, RunFinished, RunStarted
from mux.journal import encode
from mux.recipe import Refusal
from mux.report.results import read_run
from mux.run import RunDirectory

MUX = str(Path(sys.executable).parent / "mux")


@pytest.fixture
def run(tmp_path):
    """A run that was killed once, and then finished."""
    run = RunDirectory(tmp_path / "runs" / "a")
    run.path.mkdir(parents=True)
    started = {"name": "a", "directory": str(run.path), "model": "", "N": 2, "stages": [], "hosts": []}
    beats = [Heartbeat(time=time, rank=0, stage="pretrain", step=1, memory_bytes=1) for time in (20, 30, 110)]
    events = [RunStarted(time=10, **started), *beats[:2], RunStarted(time=100, resumed=True, **started), beats[2],
              RunFinished(time=120, seconds=20)]
    run.events.write_text("".join(f"{encode(event)}\n" for event in events))
    run.recipe.write_text('name = "a"\n')
    run.plan.write_text(json.dumps({"name": "a", "directory": str(run.path)}))
    run.environment.write_text(json.dumps({"host": "gpu-07.example", "processors": "2 x Xeon", "commit": "abc"}))
    run.results.write_text(json.dumps({"schema": 1, "name": "a", "status": "finished", "stages": [],
                                       "model": {"family": "bert", "N": 2}}))
    (run.path / "pretrain").mkdir()
    (run.path / "pretrain" / "model.safetensors").write_bytes(bytes(100))
    return run


def test_a_record_is_read_like_the_run_and_says_nothing_of_the_machine(run, tmp_path):
    record = keep(run, tmp_path / "docs")
    assert record == tmp_path / "docs" / "a" and {path.name for path in record.iterdir()} == FILES
    kept, whole = read_run(record), read_run(run.path)
    assert kept.starts == whole.starts == [(10.0, 30.0), (100.0, 120.0)] and kept.seconds == 40
    assert (kept.results, kept.environment, kept.plan) == (whole.results, whole.environment, whole.plan)
    text = "".join(path.read_text() for path in record.iterdir())
    assert str(tmp_path) not in text and "gpu-07" not in text and '"directory": "runs/a"' in text
    assert text.count("Heartbeat") == 1  # the last of the start that was killed
    assert keep(run, tmp_path / "docs") == record  # again


def test_what_is_no_record_is_not_replaced(run, tmp_path):
    (tmp_path / "docs" / "a").mkdir(parents=True)
    (tmp_path / "docs" / "a" / "thesis.tex").write_text("all of it")
    with pytest.raises(Refusal, match="holds other files"):
        keep(run, tmp_path / "docs")
    assert [path.name for path in tmp_path.glob("docs/**/*")] == ["a", "thesis.tex"]


@pytest.mark.parametrize("status", ["running", "stopped", "failed"])
def test_a_run_that_has_not_finished_has_no_record(run, tmp_path, status):
    run.results.write_text(run.results.read_text().replace("finished", status))
    with pytest.raises(Refusal, match=f"the run is {status}"):
        keep(run, tmp_path / "docs")
    assert not (tmp_path / "docs").exists()


@pytest.mark.processes
def test_the_record_of_a_real_run(finished, tmp_path):
    done = subprocess.run([MUX, "runs", "keep", finished.path, "--to", "kept"], cwd=tmp_path, text=True,
                          capture_output=True, timeout=120, env=finished.environment)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    record = tmp_path / "kept" / "run"
    assert sum(path.stat().st_size for path in record.iterdir()) < 1_000_000
    assert str(finished.path) not in "".join(path.read_text() for path in record.iterdir())
    for words in (("runs", "show", record), ("runs", "diff", record, finished.path)):
        read = subprocess.run([MUX, *words], cwd=tmp_path, text=True, capture_output=True, timeout=120,
                              env=finished.environment)
        assert read.returncode == 0 and not read.stderr, read.stdout + read.stderr
    assert "recipe: no difference" in read.stdout and "results: no difference" in read.stdout
