"""Checkpoints that are not what was saved: every kind of damage to the newest one of a stopped run."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mux import manifest as manifests
from tests.conftest import Run
from tests.faults.conftest import ALONE

pytestmark = [pytest.mark.processes, pytest.mark.fault("damaged checkpoint")]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, cache) -> Run:
    """A run that was stopped with two checkpoints, and a copy of it."""
    made = Run(tmp_path_factory.mktemp("stopped") / "run", cache)
    process = made.start(recipe=ALONE)
    made.wait_for(lambda event: event["event"] == "CheckpointSaved" and event["step"] == 10, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75, made.output()
    shutil.copytree(made.path, made.path.with_name("copy"))
    return made


@pytest.fixture
def run(stopped):
    """The stopped run, as it was."""
    shutil.rmtree(stopped.path)
    shutil.copytree(stopped.path.with_name("copy"), stopped.path)
    return stopped


def checkpoints(run: Run) -> list[Path]:
    """Oldest first."""
    return sorted((run.path / "pretrain/checkpoints").glob("step_????????"))


def flip(older: Path, newest: Path) -> str:
    shard = shards(newest)[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    return shard.name


def truncate(older: Path, newest: Path) -> str:
    shard = shards(newest)[-1]
    shard.write_bytes(shard.read_bytes()[:-1])
    return shard.name


def swap(older: Path, newest: Path) -> str:
    one, other = (path for path in shards(newest) if "optim" in path.name)
    aside = newest.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    return "optim_states"


def of_another_step(older: Path, newest: Path) -> str:
    shard = shards(newest)[0]
    shutil.copy(older / shard.name, shard)
    return shard.name


def missing(older: Path, newest: Path) -> str:
    shard = shards(newest)[0]
    shard.unlink()
    return shard.name


def extra(older: Path, newest: Path) -> str:
    (newest / "extra.pt").write_bytes(b"")
    return "extra.pt"


def symlink(older: Path, newest: Path) -> str:
    shard = shards(newest)[0]
    moved = shard.rename(newest.parent / "elsewhere.pt")
    shard.symlink_to(moved)
    return shard.name


def another_recipe(older: Path, newest: Path) -> str:
    edit(newest, recipe_digest="0" * 64)
    return "recipe"


def another_world_size(older: Path, newest: Path) -> str:
    """Three ranks have saved this, it says, but there are shards of two."""
    edit(newest, world_size=3)
    return "world"


def no_manifest(older: Path, newest: Path) -> str:
    (newest / "manifest.json").write_text("{}")
    return "manifest.json"


def edit(folder: Path, **values) -> None:
    """Under a sha256 that fits: only what it says can be wrong."""
    manifests.write(folder, manifests.read(folder).model_copy(update=values))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pt"))


DAMAGES = [flip, truncate, swap, of_another_step, missing, extra, symlink, another_recipe, another_world_size,
           no_manifest]
QUICK = (flip, another_world_size)  # a start each; the others are quick only where manifests are tested alone


@pytest.mark.parametrize("damage", [pytest.param(one, marks=() if one in QUICK else pytest.mark.thorough)
                                    for one in DAMAGES], ids=lambda one: one.__name__)
def test_damaged(run: Run, undisturbed, damage: Callable[[Path, Path], str]) -> None:
    """Passed over by name, loudly; the one before it is gone on from."""
    older, newest = checkpoints(run)[-2:]
    name = damage(older, newest)
    verified = mux("runs", "verify", str(run.path))
    assert verified.returncode == 1 and name in verified.stdout, verified.stdout
    again = run.launch(recipe=ALONE)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"passing over {newest}" in again.stdout and name in again.stdout, again.stdout
    assert run.losses("pretrain") == undisturbed()


def test_all_damaged(run: Run) -> None:
    """Starting over must be asked for."""
    for folder in checkpoints(run):
        flip(folder, folder)
    again = run.launch(recipe=ALONE)
    assert again.returncode != 0 and "--fresh" in again.stdout + again.stderr
    assert not any(event["step"] == 1 for event in run.events("StepDone")[-3:])
    fresh = run.launch("--fresh", recipe=ALONE)
    assert fresh.returncode == 0, fresh.stdout + fresh.stderr


def mux(*words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "mux"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)
