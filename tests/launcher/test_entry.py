"""Requests to stop that come before there is a run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT, Run

SLOW_SSH = """#!/bin/sh
echo $$ > {marker}.part
mv {marker}.part {marker}
exec sleep 1000
"""


def test_nothing_slow_comes_before_the_handlers() -> None:
    code = "import sys; from launcher import entry; print({'typer', 'pydantic', 'rich', 'mux'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_hosts_are_asked(run: Run, tmp_path: Path, number: signal.Signals) -> None:
    """The command ends as a run does that can go on; it leaves no process, and nothing on the disk."""
    tools, marker = tmp_path / "tools", tmp_path / "asked"
    tools.mkdir()
    (tools / "ssh").write_text(SLOW_SSH.format(marker=marker))
    (tools / "ssh").chmod(0o755)
    (tmp_path / "hosts.txt").write_text("one slots=1\n")
    run.environment["PATH"] = f"{tools}{os.pathsep}{run.environment['PATH']}"
    process = run.start("--hostfile", str(tmp_path / "hosts.txt"))
    while not marker.exists():
        assert process.poll() is None, run.output()
        time.sleep(0.02)
    ssh = psutil.Process(int(marker.read_text()))
    process.send_signal(number)
    assert process.wait(timeout=30) == 75, run.output()
    assert f"ended on request ({number.name}); the same command goes on from there" in run.output()
    assert "Traceback" not in run.output() and not run.path.exists()
    assert not psutil.wait_procs([ssh], timeout=10)[1] or ssh.status() == psutil.STATUS_ZOMBIE
    assert not run.processes()
