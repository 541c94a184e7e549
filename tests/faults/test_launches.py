"""Faults around a run: a second launch, damaged token files, terminals that go away."""

import json
import os
import pty
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run
from tests.faults.conftest import ALONE, LONG

pytestmark = pytest.mark.processes


@pytest.mark.fault("two launches of one run")
def test_a_second_launch_is_refused(run: Run) -> None:
    process = run.start(LONG, recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "StepDone", process)
    for options in ((), ("--fresh",)):
        other = run.launch(LONG, *options, recipe=ALONE)
        assert other.returncode == 2 and f"process {process.pid} on {os.uname().nodename}" in other.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75, run.output()


@pytest.mark.fault("damaged token file")
@pytest.mark.parametrize("damage", [lambda whole: whole[:-2], lambda whole: whole[:-1] + bytes([whole[-1] ^ 1])],
                         ids=["truncated", "one bit"])
def test_token_files(run: Run, tmp_path, damage) -> None:
    """Named, not rebuilt in silence, and not tried again: what is wrong with the input stays wrong."""
    run.environment["MUX_CACHE"] = str(tmp_path / "cache")
    assert run.launch(recipe=ALONE).returncode == 0
    corpus = json.loads((run.path / "environment.json").read_text())["data"]["corpus"]
    store = tmp_path / "cache/corpora" / corpus / "tokens.bin"
    damaged = damage(store.read_bytes())
    store.chmod(0o600)
    store.write_bytes(damaged)
    failed = run.launch("--fresh", "--set=cluster.max_restarts=5", recipe=ALONE)
    assert failed.returncode == 1 and str(store) in failed.stdout, failed.stdout
    assert len(run.events("JobStarted")) == 1 and store.read_bytes() == damaged


@pytest.mark.fault("terminal")
def test_a_pipe_that_nobody_reads_any_more(run: Run, undisturbed) -> None:
    process = subprocess.Popen(run.command(recipe=ALONE), cwd=ROOT, env=run.environment, text=True,
                               stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert run.losses("pretrain") == undisturbed()


@pytest.mark.fault("terminal")
def test_a_terminal_of_40_columns_that_is_resized_and_closed(run: Run) -> None:
    """A hang-up is a stop on request: a checkpoint and exit status 75."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (20, 40))
    command = [word for word in run.command(LONG, recipe=ALONE) if word != "--plain"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
                               env={key: value for key, value in run.environment.items() if key != "COLUMNS"})
    os.close(theirs)
    drain = subprocess.Popen(["cat"], stdin=ours, stdout=subprocess.DEVNULL)
    run.wait_for_events("StepDone", process)
    termios.tcsetwinsize(ours, (5, 10))
    process.send_signal(signal.SIGWINCH)
    before = len(run.events("StepDone"))
    run.wait_for_events("StepDone", process, more_than=before + 20)
    drain.kill()
    drain.wait()
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 75
    assert Path(run.path / "pretrain/checkpoints/latest").exists()
