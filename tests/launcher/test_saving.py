"""Everything is killed in the middle of a save; the next start goes on bit by bit from the newest checkpoint there is.

The moment is caught by watching the folder: the ranks are halted when it seems to be there, and killed if it is.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mux import manifest as manifests

pytestmark = pytest.mark.processes

ALONE = "tests/recipes/pretrain_alone.toml"
STEPS = 150
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
def undisturbed(tmp_path_factory, cache):
    from tests.conftest import Run

    made = Run(tmp_path_factory.mktemp("undisturbed") / "run", cache)
    done = made.launch(*OPTIONS, recipe=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in_the_middle_of_a_save(run, undisturbed, moment):
    is_it, folder = MOMENTS[moment], run.path / "pretrain" / "checkpoints"
    process = run.start(*OPTIONS, recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "CheckpointSaved", process)
    ranks, everything = run.ranks(), run.processes()
    assert len(ranks) == 2
    while True:
        assert process.poll() is None, f"ended before the moment came:\n{run.output()}"
        if not seen(is_it, folder):
            continue
        for rank in ranks:
            rank.send_signal(signal.SIGSTOP)
        if seen(is_it, folder):
            break
        for rank in ranks:
            rank.send_signal(signal.SIGCONT)
    for one in everything:
        one.kill()
    assert process.wait(30) != 0
    assert is_it(folder), list(folder.rglob("*"))  # it was the moment, and stays so
    newest = manifests.steps(folder)[-1]
    done = run.launch(*OPTIONS, recipe=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    resumed = [event for event in run.events("StageStarted") if event["from_step"]]
    assert [event["from_step"] for event in resumed] == [newest]
    assert run.losses("pretrain") == undisturbed.losses("pretrain") and len(run.losses("pretrain")) == STEPS
    ours, theirs = (load_file(of.path / "pretrain/model/model.safetensors") for of in (run, undisturbed))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not list(folder.glob("*.part")) and manifests.steps(folder) == [STEPS - 1, STEPS]


def seen(is_it, folder: Path) -> bool:
    try:
        return is_it(folder)
    except (OSError, AssertionError):  # a file went away while it was looked at
        return False


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own."""
    place = tmp_path / "small"
    place.mkdir()
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", place]).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_ends_the_run_in_plain_words_and_loses_nothing(run, small_disk):
    run.path = small_disk / "run"
    process = run.start(*OPTIONS, recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "CheckpointSaved", process)
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - 300_000))
    assert process.wait(120) == 1, run.output()
    assert "cannot be written: it needs " in run.output() and " bytes are free. Those before it" in run.output()
    folder = run.path / "pretrain/checkpoints"
    steps = manifests.steps(folder)
    assert steps and not list(folder.glob("*.part")) and manifests.verify(manifests.newest(folder)).step == steps[-1]
    assert (folder / "latest").read_text() == f"{manifests.folder_name(steps[-1])}\n"
    (small_disk / "ballast").unlink()
    again = run.launch(*OPTIONS, recipe=ALONE)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [event["from_step"] for event in run.events("StageStarted")][-1] == steps[-1]
