"""What a start finds in a run directory, whoever has been there, and what it clears away."""

import errno
import os
import socket
import subprocess
from pathlib import Path

import pytest

from launcher import directory
from launcher.ending import remedy
from mux import journal
from mux.event import CheckpointSaved, Heartbeat, RunFinished
from mux.journal import EventWriter
from mux.recipe import Refusal
from mux.run import write_json
from tests.conftest import COMMAND, ROOT, TINY
from tests.launcher.test_resizing import begun, refusal, saved


def log(run, *events) -> None:
    writer = EventWriter(run.events)
    for event in events:
        writer.write(event)
    writer.close()


def checkpoint_saved(stage: str, training: str | None = None) -> CheckpointSaved:
    return CheckpointSaved(stage=stage, training=training, step=5, path="", bytes=1, seconds=1)


def test_what_never_became_a_checkpoint_is_nothing_trained(tmp_path) -> None:
    plan, run = begun(tmp_path)
    saved(run.checkpoints("pretrain"), plan, "pretrain", step=3)
    whole = run.checkpoints("pretrain") / "step_00000003"
    whole.rename(whole.with_suffix(".part"))
    assert not directory.has_trained(run)
    whole.with_suffix(".part").rename(whole)
    assert directory.has_trained(run)


def test_trainings_are_looked_for_where_they_are_kept(tmp_path) -> None:
    plan, run = begun(tmp_path)
    training = plan.stage("finetune").trainings[0].name
    log(run, checkpoint_saved("pretrain"), checkpoint_saved("finetune", training))
    told = refusal(run)
    for folder in (run.checkpoints("pretrain"), run.training("finetune", training) / "checkpoints"):
        assert f"{folder}: the events tell of checkpoints, and none is left" in told
    saved(run.checkpoints("pretrain"), plan, "pretrain")
    write_json(run.training_result("finetune", training), {})
    assert directory.state_of(run, plan, "auto", False) == "unfinished"  # a training that is done keeps none


def test_long_logs_are_read_once_and_hardly_decoded(tmp_path, monkeypatch) -> None:
    plan, run = begun(tmp_path)
    beats = [Heartbeat(stage="pretrain", step=step, memory_bytes=1) for step in range(1000)]
    log(run, *beats, RunFinished(seconds=1.0))
    for stage in plan.stages:
        write_json(run.stage_result(stage.id), {"seconds": 1.0} | ({"steps": stage.steps} if stage.steps else {}))
    decoded = []
    decode = journal.decode
    monkeypatch.setattr(journal, "decode", lambda line: decoded.append(line) or decode(line))
    assert directory.state_of(run, plan, "auto", False) == "finished"
    assert len(decoded) == 1
    run.events.write_text(run.events.read_text().rstrip("\n"))  # the last line is torn off
    assert directory.state_of(run, plan, "auto", False) == "unfinished"


def bound(path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(os.path.relpath(path))  # a whole path may be too long
    listening.close()


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, bound])
@pytest.mark.parametrize("name", ["pretrain/checkpoints/latest", "events.jsonl", "environment.json", "stop"])
def test_what_is_no_file_is_refused_before_anything_starts(tmp_path, monkeypatch, make, name) -> None:
    monkeypatch.chdir(tmp_path)
    _, run = begun(tmp_path)
    (run.path / name).parent.mkdir(parents=True, exist_ok=True)
    make(run.path / name)
    assert refusal(run) == f"{run.path / name}: is no plain file, and a run has a file there\n    remove it"


def test_a_link_to_itself_is_refused(tmp_path) -> None:
    _, run = begun(tmp_path)
    run.events.symlink_to(run.events)
    assert f"{run.events}: cannot be read: Too many levels of symbolic links" in refusal(run)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, bound])
def test_a_lock_that_is_no_file_is_nobodys(tmp_path, monkeypatch, make) -> None:
    monkeypatch.chdir(tmp_path)
    plan, run = begun(tmp_path)
    make(run.lock)
    assert not directory.running(run)
    assert directory.state_of(run, plan, "auto", False) == "unfinished"
    with pytest.raises(Refusal, match="cannot be used as the run's lock"):
        directory.Lock(run)


def test_what_a_killed_start_has_left_is_removed(tmp_path) -> None:
    _, run = begun(tmp_path)
    left = run.logs / "preflight.0123456789abcdef"
    left.mkdir()
    (left / "asked").write_text("token")
    run.ask_to_stop("mux stop")
    (run.logs / "localhost.0.log").write_text("kept")
    directory.clear(run)
    assert not run.stop_request.exists() and [path.name for path in run.logs.iterdir()] == ["localhost.0.log"]


@pytest.mark.parametrize(("error", "told"), [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/events.jsonl"),
     "/run/events.jsonl: No space left on device; free some room"),
    (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "Disk quota exceeded; free some room"),
    (PermissionError(errno.EACCES, "Permission denied", "/run/plan.json"),
     "/run/plan.json: Permission denied; mend that"),
    (OSError("odd"), "odd; mend that"),
])
def test_room_is_asked_for_where_there_is_none(error, told) -> None:
    assert remedy(error) == told


@pytest.mark.processes
def test_a_name_that_is_no_text_is_refused(tmp_path) -> None:
    """By mux-launch before anything is written, and by all that look at runs; beside others it is listed."""
    folder = tmp_path / os.fsdecode(b"\xff\x1b[2J")
    told = rf"{tmp_path}/\udcff\u001b[2J: is not UTF-8, and plans and events name their run"
    mux = str(Path(COMMAND[0]).with_name("mux"))
    commands = [[*COMMAND, str(ROOT / TINY), *words, "--run-dir", folder] for words in ((), ("--dry-run",))]
    commands += [[mux, *words, folder] for words in (("runs", "show"), ("runs", "ls"), ("runs", "verify"), ("stop",),
                                                     ("watch",))]
    for command in commands:
        done = subprocess.run(command, capture_output=True, timeout=60)
        assert done.returncode == 2 and told in done.stderr.decode(), (command, done.stdout, done.stderr)
        assert b"Traceback" not in done.stderr and not folder.exists()
    folder.mkdir()
    (folder / "plan.json").write_text("{}")
    done = subprocess.run([mux, "runs", "ls", tmp_path], capture_output=True, timeout=60)
    assert done.returncode == 0 and b"unknown" in done.stdout and b"\x1b" not in done.stdout, done
