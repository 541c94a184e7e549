"""`mux runs keep`: the record of a run, which the report and the other commands read like the run."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.record import keep
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


FILES = {"recipe.toml", "plan.json", "environment.json", "events.jsonl", "results.json"}


def test_a_record_is_read_like_the_run_and_says_nothing_of_the_machine(run, tmp_path):
    (record,) = keep([run], tmp_path / "docs")
    assert record == tmp_path / "docs" / "a" and {path.name for path in record.iterdir()} == FILES
    kept, whole = read_run(record), read_run(run.path)
    assert kept.starts == whole.starts == [(10.0, 30.0), (100.0, 120.0)] and kept.seconds == 40
    assert (kept.results, kept.environment, kept.plan) == (whole.results, whole.environment, whole.plan)
    text = "".join(path.read_text() for path in record.iterdir())
    assert str(tmp_path) not in text and "gpu-07" not in text and '"directory": "runs/a"' in text
    assert text.count("Heartbeat") == 1  # the last of the start that was killed
    (record / "report").mkdir()  # as `mux report` leaves it there
    assert keep([run], tmp_path / "docs") == [record]


def test_a_run_that_was_moved_says_nothing_of_where_it_was(run, tmp_path, monkeypatch):
    moved = run.path.rename(tmp_path / "a")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(moved)
    (moved / "recipe.toml").write_text(f'sources = ["path:{moved}/texts", "path:{Path.cwd()}/x", "hub:a/b"]')
    for name in ("link", "a/../a"):
        (record,) = keep([RunDirectory(tmp_path / name)], tmp_path / "docs")
        assert record.name == name[-1 if name != "link" else 0 :]
        text = "".join(path.read_text() for path in record.iterdir())
        assert str(tmp_path) not in text and '"path:x", "hub:a/b"' in text


def test_in_the_root_folder_addresses_stay(run, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    run.recipe.write_text("# https://example.org/x\n")
    (record,) = keep([run], tmp_path / "docs")
    assert (record / "recipe.toml").read_text() == "# https://example.org/x\n"


def test_what_is_no_record_is_not_replaced(run, tmp_path):
    thesis = tmp_path / "docs" / "a" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("all of it")
    with pytest.raises(Refusal, match="holds other files"):
        keep([run], tmp_path / "docs")
    inside = RunDirectory(run.path / "pretrain" / "..")
    (record,) = keep([inside], tmp_path / "docs" / "a" / "runs")  # its name is no ".."
    assert record.name == "a" and thesis.read_text() == "all of it"


def test_the_record_of_another_run_is_not_replaced(run, tmp_path):
    (record,) = keep([run], tmp_path / "docs")
    before = (record / "results.json").read_text()
    run.results.write_text(before.replace('"name": "a"', '"name": "b"'))
    with pytest.raises(Refusal, match=r"is the record of another run, a, and .* is b"):
        keep([run], tmp_path / "docs")
    assert (record / "results.json").read_text() == before
    with pytest.raises(Refusal, match="is no folder"):
        keep([run], record / "results.json")


def test_two_runs_of_one_name_are_refused_before_anything_is_written(run, tmp_path):
    other = RunDirectory(tmp_path / "other" / "a")
    shutil.copytree(run.path, other.path)
    with pytest.raises(Refusal, match="two runs have this name"):
        keep([run, other], tmp_path / "docs")
    assert not (tmp_path / "docs").exists()


def spoilt(name: str, content: str | None):
    def spoil(run: RunDirectory) -> None:
        (run.path / name).unlink()
        if content is not None:
            (run.path / name).write_text(content)
    return spoil


@pytest.mark.parametrize(("spoil", "says"), [
    *[(lambda run, status=status: run.results.write_text(run.results.read_text().replace("finished", status)),
       f"the run is {status}") for status in ("running", "stopped", "failed")],
    (spoilt("results.json", None), "the run is not begun"),
    (spoilt("results.json", "[1]"), "results.json: cannot be read: it is no JSON object"),
    (spoilt("results.json", "{"), "results.json: cannot be read: "),
    (spoilt("recipe.toml", None), "recipe.toml: cannot be read: "),
    *[(spoilt(name, None), f"{name}: is not there: what the run was cannot be kept")
      for name in ("plan.json", "environment.json", "events.jsonl")],
])
def test_a_run_without_a_record_is_refused(run, tmp_path, spoil, says):
    spoil(run)
    with pytest.raises(Refusal, match=re.escape(says)):
        keep([run], tmp_path / "docs")
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
    assert "recipe: no difference" in read.stdout
    kept, whole = read_run(record), read_run(finished.path)
    assert kept.results == whole.results and kept.starts == whole.starts and kept.seconds > 1
