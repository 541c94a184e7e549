"""Checkpoints that someone has tampered with: passed over loudly, by the name of the file, before anything in them is
unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mux import manifest as manifests
from tests.conftest import Run
from tests.security.conftest import HANG_SECONDS, MUX
from tests.security.test_hostile_models import Payload

pytestmark = pytest.mark.processes

SHARD = "zero_pp_rank_1_mp_rank_00_optim_states.pt"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Run:
    """A run whose first stage has a checkpoint of every step and is not done."""
    made = Run(tmp_path_factory.mktemp("stopped") / "run", cache)
    done = made.launch(*OPTIONS)
    assert done.returncode == 0, done.stdout + done.stderr
    made.stage_folder = made.path / "retrieval"
    (made.stage_folder / "result.json").unlink()
    return made


OPTIONS = ("--stages", "retrieval", "--set", "stages.retrieval.save_every=1", "--set",
           "stages.retrieval.keep_checkpoints=99")


def payload(folder: Path, trace: Path) -> str:
    (folder / SHARD).write_bytes(pickle.dumps(Payload(trace)))
    return f"{SHARD} has"


def payload_of_the_same_size(folder: Path, trace: Path) -> str:
    size = (folder / SHARD).stat().st_size
    (folder / SHARD).write_bytes(pickle.dumps(Payload(trace)).ljust(size, b"\0"))
    return f"{SHARD} is not what was saved"


def link(folder: Path, trace: Path) -> str:
    (folder / SHARD).rename(trace.with_name("elsewhere.pt"))
    (folder / SHARD).symlink_to(trace.with_name("elsewhere.pt"))
    return f"{SHARD} is not a plain file"


def pipe(folder: Path, trace: Path) -> str:
    (folder / SHARD).unlink()
    os.mkfifo(folder / SHARD)
    return f"{SHARD} is not a plain file"


def one_more_with_its_hash(folder: Path, trace: Path) -> str:
    """Named in the manifest, whose seal its author did not renew."""
    (folder / "evil.pt").write_bytes(pickle.dumps(Payload(trace)))
    data = (folder / "evil.pt").read_bytes()
    content = json.loads((folder / manifests.MANIFEST).read_text())
    content["files"]["evil.pt"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / manifests.MANIFEST).write_text(json.dumps(content))
    return "manifest.json cannot be read: its content is not what was written"


TAMPERED: tuple[Callable[[Path, Path], str], ...] = (
    payload, payload_of_the_same_size, link, pipe, one_more_with_its_hash)


def test_tampered_checkpoints_are_passed_over(stopped: Run, tmp_path: Path) -> None:
    """One of each kind, newest first; the run goes on from the only sound one, and nothing was executed."""
    folder, trace = stopped.stage_folder / "checkpoints", tmp_path / "trace"
    steps = manifests.steps(folder)
    assert steps == [1, 2, 3, 4, 5, 6]
    told = {step: change(folder / manifests.folder_name(step), trace)
            for step, change in zip(steps[1:], TAMPERED, strict=True)}
    verified = subprocess.run([MUX, "runs", "verify", str(stopped.path)], capture_output=True, text=True,
                              timeout=HANG_SECONDS)
    assert verified.returncode == 1 and verified.stdout.rstrip().endswith("6 checkpoints, 5 not valid")
    done = stopped.launch(*OPTIONS)
    assert done.returncode == 0, done.stdout + done.stderr
    for step, words in told.items():
        place = f"{manifests.folder_name(step)}/{words}"
        assert place in verified.stdout and place in done.stdout.replace("\n", ""), (step, done.stdout)
    begun = [event for event in stopped.events("StageStarted") if event["stage"] == "retrieval"]
    assert begun[-1]["from_step"] == 1 and not trace.exists()


def test_a_folder_that_others_can_write_to_is_not_read(stopped: Run, tmp_path: Path) -> None:
    """Whoever can put shards there can put hashes there, too."""
    (stopped.stage_folder / "result.json").unlink(missing_ok=True)
    folder = stopped.stage_folder / "checkpoints"
    folder.chmod(0o777)
    try:
        done = stopped.launch(*OPTIONS)
    finally:
        folder.chmod(0o700)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert "is owned by another user or writable by others" in done.stdout.replace("\n", "")
