"""Disks that are full or cannot be written to: real ones, mounted for the test (as root)."""

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.faults.conftest import ALONE, gone_within

pytestmark = pytest.mark.processes



@pytest.fixture
def disk(tmp_path):
    """A disk of 64 MB and 400 files."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=400", "tmpfs", str(place)],
                             capture_output=True, text=True)
    if mounted.returncode and not os.environ.get("CI"):
        pytest.skip(f"no disk can be mounted: {mounted.stderr.strip()}")
    assert not mounted.returncode, mounted.stderr
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def place(disk) -> Path:
    return disk


def fill_bytes(disk: Path) -> list[Path]:
    """All but 100 kB of the disk."""
    ballast = disk / "ballast"
    with suppress(OSError):  # the run takes some itself in the meantime
        ballast.write_bytes(bytes(shutil.disk_usage(disk).free - 100_000))
    return [ballast]


def fill_files(disk: Path) -> list[Path]:
    """No room for one more file, however small: what a look at the free bytes does not see."""
    made = []
    with suppress(OSError):
        while True:
            made.append(disk / f"ballast{len(made)}")
            made[-1].touch()
    return made[:-1]


@pytest.mark.fault("disk full")
@pytest.mark.parametrize("fill", [fill_bytes, pytest.param(fill_files, marks=pytest.mark.thorough)])
def test_a_full_disk_ends_the_run_clearly(run: Run, disk, undisturbed, fill) -> None:
    process = run.start(recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "CheckpointSaved", process)
    ballast = fill(disk)
    assert process.wait(timeout=90) == 1, run.output()
    gone_within(run, 10)
    latest = (run.path / "pretrain/checkpoints/latest").read_text().strip()
    assert (run.path / "pretrain/checkpoints" / latest / "manifest.json").exists()
    said = run.output()
    assert "space" in said or "room" in said or "free" in said, said
    assert "Traceback" not in said
    for path in ballast:
        path.unlink()
    again = run.launch(recipe=ALONE)
    assert again.returncode == 0, again.stdout + again.stderr
    assert run.losses("pretrain") == undisturbed()


@pytest.mark.thorough
@pytest.mark.fault("read-only directory")
def test_a_directory_that_turns_read_only(run: Run, undisturbed) -> None:
    process = run.start(recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "CheckpointSaved", process)
    folder = run.path / "pretrain/checkpoints"
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        assert process.wait(timeout=90) == 1, run.output()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    gone_within(run, 10)
    assert "ead-only" in run.output() and str(folder) in run.output() and "Traceback" not in run.output()
    again = run.launch(recipe=ALONE)
    assert again.returncode == 0, again.stdout + again.stderr
    assert run.losses("pretrain") == undisturbed()
