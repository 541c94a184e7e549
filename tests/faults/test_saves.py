"""SIGKILL in the middle of a save; the next start goes on bit by bit from the newest checkpoint there is.

The moment is caught by watching the folder: the ranks are halted when it seems to be there, and killed if it is.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from mux import manifest as manifests
from tests.conftest import Run
from tests.faults.conftest import ALONE, gone_within

pytestmark = [pytest.mark.processes, pytest.mark.fault("SIGKILL in a save")]
thorough = pytest.mark.thorough

STEPS = 80
OPTIONS = (f"--set=stages.pretrain.steps={STEPS}", "--set=stages.pretrain.save_every=1")


def sizes(folder: Path) -> dict[str, int]:
    """Name -> bytes; what goes away while it is looked at is not there."""
    try:
        return {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    except OSError:
        return {}


def shards(folder: Path) -> dict[str, int]:
    return {name: size for name, size in sizes(folder).items() if name.endswith(".pt")}


def unfinished(folder: Path) -> tuple[Path, dict[str, int]]:
    """The folder that is being written, and what a whole one holds."""
    newest = manifests.newest(folder)
    assert newest is not None
    step = int(newest.name.removeprefix("step_")) + 1
    return folder / f"{manifests.folder_name(step)}.part", shards(newest)


def mid_write(folder: Path) -> bool:
    part, whole = unfinished(folder)
    there = shards(part)
    return bool(there) and any(there.get(name, 0) < size - 1000 for name, size in whole.items())


def before_manifest(folder: Path) -> bool:
    part, whole = unfinished(folder)
    there = sizes(part)
    return all(there.get(name, 0) > size - 1000 for name, size in whole.items()) and "manifest.json" not in there


def before_latest(folder: Path) -> bool:
    newest = manifests.newest(folder)
    return newest is not None and (folder / "latest").read_text().strip() != newest.name


MOMENTS = {"in mid-write": mid_write, "between shards and manifest": before_manifest,
           "between rename and latest": before_latest}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """A run that nothing happens to."""
    made = Run(tmp_path_factory.mktemp("whole") / "run", cache)
    done = made.launch(*OPTIONS, recipe=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.mark.parametrize(("moment", "whom"), [
    ("in mid-write", "all"),
    ("between shards and manifest", "all"),
    pytest.param("between rename and latest", "all", marks=thorough),
    pytest.param("in mid-write", "rank", marks=thorough),
    pytest.param("in mid-write", "agent", marks=thorough),
    pytest.param("in mid-write", "launcher", marks=thorough),
    pytest.param("between shards and manifest", "rank", marks=thorough),
])
def test_kill(run: Run, whole, moment, whom):
    is_it, folder = MOMENTS[moment], run.path / "pretrain" / "checkpoints"
    process = run.start(*OPTIONS, recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "CheckpointSaved", process)
    ranks, parts = run.ranks(), run.parts()
    assert len(ranks) == 2
    while True:
        assert process.poll() is None, f"ended before the moment came:\n{run.output()}"
        if not seen(is_it, folder):
            continue
        halt(ranks)
        if seen(is_it, folder):
            break
        for rank in ranks:
            rank.send_signal(signal.SIGCONT)
    for one in run.processes() if whom == "all" else parts[whom][-1:]:
        one.kill()
    for rank in ranks:
        with suppress(psutil.NoSuchProcess):
            rank.send_signal(signal.SIGCONT)
    assert process.wait(60) != 0
    gone_within(run, 10)
    assert whom != "all" or is_it(folder), list(folder.rglob("*"))  # it was the moment, and stays so
    newest = manifests.steps(folder)[-1]
    done = run.launch(*OPTIONS, recipe=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    resumed = [event for event in run.events("StageStarted") if event["from_step"]]
    assert [event["from_step"] for event in resumed] == [newest]
    assert run.losses("pretrain") == whole.losses("pretrain") and len(run.losses("pretrain")) == STEPS
    ours, theirs = (load_file(of.path / "pretrain/model/model.safetensors") for of in (run, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not list(folder.glob("*.part")) and manifests.steps(folder) == [STEPS - 1, STEPS]


def halt(ranks: list[psutil.Process]) -> None:
    """SIGSTOP; returns when every thread stands still (a write that has begun is ended first)."""
    for rank in ranks:
        rank.send_signal(signal.SIGSTOP)
    threads = [thread for rank in ranks for thread in Path(f"/proc/{rank.pid}/task").iterdir()]
    while not all((thread / "stat").read_text().rpartition(")")[2].split()[0] in "TZ" for thread in threads):
        time.sleep(0.001)


def seen(is_it, folder: Path) -> bool:
    try:
        return is_it(folder)
    except (OSError, AssertionError):  # a file went away while it was looked at
        return False
