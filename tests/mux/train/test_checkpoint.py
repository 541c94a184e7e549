"""Saving in the background and what a checkpoint must be to be loaded; real runs are killed in tests/launcher."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mux import manifest as manifests
from mux.manifest import Identity, InvalidCheckpoint
from mux.train import checkpoint as module
from mux.train.checkpoint import Checkpoints, SaveFailed
from mux.train.snapshot import Snapshot
from tests.mux.test_manifest import rewritten

IDENTITY = Identity(recipe_digest="d", stage="pretrain", world_size=1, zero_stage=1, precision="fp32")
ALONE = SimpleNamespace(rank=0, size=1, first=True, gather=lambda value: [value], from_first=lambda value: value,
                        sum=list)


class Weights:
    """A tensor and what else a shard holds, instead of a training; the files are real."""

    def __init__(self, rank=0):
        self.rank, self.taken = rank, Snapshot()
        self.weight = torch.arange(1000, dtype=torch.float32)
        self.state = {"module": {"a": self.weight, "tied": self.weight, "part": self.weight[10:20]}, "steps": [1]}

    def snapshot(self):
        self.taken.clear()
        self.taken.take(f"rank{self.rank}.pt", self.state)
        self.taken.settle()
        return self.taken


@pytest.fixture
def checkpoints(tmp_path):
    tmp_path.chmod(0o700)
    made = Checkpoints(tmp_path / "checkpoints", ALONE, IDENTITY, keep=2)
    engine = Weights()
    for step in (10, 20, 30):
        made.save(engine, step, {})
    made.wait()
    return made


def test_the_last_ones_are_kept_and_latest_names_the_newest(checkpoints):
    assert checkpoints.steps() == [20, 30]
    assert (checkpoints.folder / "latest").read_text() == "step_00000030\n"
    newest = checkpoints.folder / "step_00000030"
    manifest = json.loads((newest / "manifest.json").read_text())
    assert manifest["step"] == 30 and manifest["world_size"] == 1 and manifest["recipe_digest"] == "d"
    content = (newest / "rank0.pt").read_bytes()
    assert manifest["files"] == {"rank0.pt": {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["latest", "step_00000020", "step_00000030"]


def test_some_stay_for_ever(tmp_path):
    made, engine = Checkpoints(tmp_path, ALONE, IDENTITY, keep=1, every=20), Weights()
    for step in (10, 20, 30, 40, 50, 60, 70):
        made.save(engine, step, {})
    made.wait()
    assert made.steps() == [20, 40, 60, 70]


def test_a_save_holds_what_was_there_when_it_was_asked_for(tmp_path, monkeypatch):
    engine, go = Weights(), threading.Event()
    write = module.manifests.write
    monkeypatch.setattr(module.manifests, "write", lambda *args: (go.wait(60), write(*args)))
    made, told = Checkpoints(tmp_path, ALONE, IDENTITY, keep=2), []
    made.save(engine, 1, {"n": 1}, told.append)
    engine.weight.mul_(-1)  # training goes on
    engine.state["steps"].append(2)
    assert not told and made.steps() == []
    go.set()
    made.wait()
    [saved] = told
    assert saved.path == tmp_path / "step_00000001" and 0 < saved.stalled <= saved.seconds
    held = torch.load(saved.path / "rank0.pt")
    assert torch.equal(held["module"]["a"], torch.arange(1000.0)) and held["steps"] == [1]
    assert held["module"]["a"].data_ptr() == held["module"]["tied"].data_ptr()
    assert torch.equal(held["module"]["part"], torch.arange(10.0, 20.0))
    assert saved.bytes == (saved.path / "rank0.pt").stat().st_size < 2 * 4000  # tied weights are there once


def test_memory_is_taken_once(tmp_path):
    engine = Weights()
    copies = engine.snapshot()._copies
    places = [copy.data_ptr() for copy in copies]
    engine.state["module"]["part"] = torch.zeros(3, 4)  # of another shape
    assert [copy.data_ptr() for copy in engine.snapshot()._copies][:1] == places[:1] and len(copies) == 2
    assert torch.equal(copies[1], torch.zeros(3, 4))


def test_all_ranks_write_and_one_commits(tmp_path):
    """Two ranks as two threads; their collectives are a barrier and a shared list."""
    barrier, box = threading.Barrier(2, timeout=60), [None, None]

    def gather(rank, value):
        box[rank] = value
        barrier.wait()
        values = list(box)
        barrier.wait()
        return values

    def ranks(rank):
        return SimpleNamespace(rank=rank, size=2, first=rank == 0, gather=lambda value: gather(rank, value),
                               from_first=lambda value: gather(rank, value)[0],
                               sum=lambda values: [sum(gather(rank, value)) for value in values])

    outcomes, told, warned = {}, [], []

    def work(rank):
        made = Checkpoints(tmp_path, ranks(rank), IDENTITY, keep=3)
        engine = Weights(rank)
        for step in (1, 2):
            made.save(engine, step, {}, told.append)
        made.wait()
        barrier.wait()
        if rank == 1:
            (tmp_path / "step_00000002" / "rank0.pt").write_bytes(
                bytes(reversed((tmp_path / "step_00000002" / "rank0.pt").read_bytes())))
        barrier.wait()
        outcomes[rank] = made.newest_valid(warned.append)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [saved.path.name for saved in told] == ["step_00000001", "step_00000002"]
    assert set(manifests.read(tmp_path / "step_00000001").files) == {"rank0.pt", "rank1.pt"}
    assert outcomes[0] == outcomes[1] == manifests.read(tmp_path / "step_00000001")
    assert len(warned) == 2 and all("rank0.pt is not what was saved" in text for text in warned)
    assert (tmp_path / "latest").read_text() == "step_00000001\n"


def test_the_newest_is_taken(checkpoints):
    assert checkpoints.newest_valid(pytest.fail).step == 30


def flip(folder):
    content = bytearray((folder / "rank0.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "rank0.pt").write_bytes(content)


DAMAGES = {
    "flipped": (flip, "rank0.pt is not what was saved"),
    "truncated": (lambda folder: os.truncate(folder / "rank0.pt", 7), "rank0.pt has 7 bytes"),
    "missing": (lambda folder: (folder / "rank0.pt").unlink(), "rank0.pt is missing"),
    "extra": (lambda folder: (folder / "rank2.pt").write_bytes(b""), "rank2.pt is not in the manifest"),
    "from another step": (lambda folder: rewritten(folder, step=20), "manifest.json is of another step: 20"),
    "no manifest text": (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
    "writable": (lambda folder: folder.chmod(0o777), "writable by others"),
    "link": (lambda folder: ((folder / "rank0.pt").rename(folder.parent / "elsewhere"),
                             (folder / "rank0.pt").symlink_to(folder.parent / "elsewhere")), "not a plain file"),
    "another recipe": (lambda folder: rewritten(folder, recipe_digest="e"), "recipe_digest = 'e', this run has 'd'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_named_and_passed_over(checkpoints, damage):
    break_it, message = DAMAGES[damage]
    newest = checkpoints.folder / "step_00000030"
    break_it(newest)
    warnings = []
    assert checkpoints.newest_valid(warnings.append).step == 20
    assert message in warnings[0] and str(newest) in warnings[0]
    assert (checkpoints.folder / "latest").read_text() == "step_00000020\n"


def test_a_passed_over_one_is_replaced(checkpoints):
    flip(checkpoints.folder / "step_00000030")
    checkpoints.save(Weights(), 30, {})
    checkpoints.wait()
    assert checkpoints.newest_valid(pytest.fail).step == 30


def test_if_none_is_valid_nothing_starts_over(checkpoints):
    for folder in checkpoints.folder.glob("step_*"):
        flip(folder)
    with pytest.raises(InvalidCheckpoint, match=r"no valid checkpoint .* --fresh starts over"):
        checkpoints.newest_valid(lambda text: None)


def test_none_at_all_is_a_beginning(tmp_path):
    assert Checkpoints(tmp_path / "none", ALONE, IDENTITY, keep=2).newest_valid(pytest.fail) is None


def test_without_room_nothing_is_written(checkpoints):
    engine = Weights()
    engine.snapshot = lambda: SimpleNamespace(bytes=4 * 10**15)
    before = {path: path.stat().st_mtime_ns for path in checkpoints.folder.rglob("*")}
    with pytest.raises(SaveFailed, match=r"needs 4,000,000,000,000,000 bytes; [\d,]+ bytes are free\. .*keep_check"):
        checkpoints.save(engine, 40, {})
    assert before == {path: path.stat().st_mtime_ns for path in checkpoints.folder.rglob("*")}
    checkpoints.save(Weights(), 40, {})
    checkpoints.wait()
    assert checkpoints.steps() == [30, 40]


def test_what_broke_off_in_the_background_is_raised_at_the_next_step(checkpoints):
    engine = Weights()
    engine.state["module"]["a"] = Unwritable()
    checkpoints.save(engine, 40, {})
    with pytest.raises(SaveFailed, match=r"step_00000040.* cannot be written: No space left on device; .* are free"):
        while True:
            checkpoints.check()
    assert checkpoints.steps() == [20, 30] and (checkpoints.folder / "latest").read_text() == "step_00000030\n"
    checkpoints.check()  # said once
    checkpoints.save(Weights(), 40, {})
    checkpoints.wait()
    assert checkpoints.steps() == [30, 40] and not list(checkpoints.folder.glob("*.part"))


class Unwritable:
    """Cannot be written: no room, as it is pickled for the file."""

    thawed = False

    def __reduce__(self):
        if self.thawed:
            raise OSError(28, "No space left on device")
        return thaw, ()


def thaw():
    made = Unwritable()
    made.thawed = True
    return made


def test_a_full_disk_is_told_in_its_own_words(tmp_path):
    """torch's archive says "unexpected pos" where a write fails; the limit of the process stands for a full disk."""
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import torch
from tests.mux.train.test_checkpoint import ALONE, IDENTITY, Weights
from mux.train.checkpoint import Checkpoints, SaveFailed
from pathlib import Path
made, engine = Checkpoints(Path({str(tmp_path)!r}) / "checkpoints", ALONE, IDENTITY, keep=2), Weights()
made.save(engine, 1, {{}})
made.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
engine.state["large"] = torch.zeros(1_000_000)
made.save(engine, 2, {{}})
try:
    made.wait()
except SaveFailed as error:
    print(error)
print(made.steps())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told, steps = done.stdout.splitlines()[-2:]
    assert "step_00000002" in told and "cannot be written: File too large; " in told and "bytes are free" in told
    assert steps == "[1]" and "Traceback" not in done.stderr


def test_a_read_only_folder_is_named(tmp_path):
    if os.getuid() == 0:  # rights mean nothing to root: a file where the folder should be
        (tmp_path / "checkpoints").write_text("")
    else:
        tmp_path.chmod(0o500)
    with pytest.raises(SaveFailed, match=f"{tmp_path}/checkpoints cannot be written: "):
        Checkpoints(tmp_path / "checkpoints", ALONE, IDENTITY, keep=2).save(Weights(), 1, {})


def test_everything_is_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        made = Checkpoints(tmp_path / "checkpoints", ALONE, IDENTITY, keep=2)
        made.save(Weights(), 1, {})
        made.wait()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode)
             for path in [tmp_path / "checkpoints", *(tmp_path / "checkpoints").rglob("*")]}
    assert modes == {"checkpoints": 0o700, "step_00000001": 0o700, "latest": 0o600, "manifest.json": 0o600,
                     "rank0.pt": 0o600}


def test_a_thread_that_waits_for_ever_does_not_keep_the_process(tmp_path):
    """Rank 0 of two, whose other rank is gone, fails in its main thread.

    Not before its own share is written: torch.save in another thread aborts an interpreter that ends. A rank ends by
    os._exit, which this does not.
    """
    code = f"""
import time
from pathlib import Path
from types import SimpleNamespace
from tests.mux.train.test_checkpoint import ALONE, IDENTITY, Weights
from mux.train.checkpoint import Checkpoints
ranks = SimpleNamespace(**vars(ALONE) | {{"size": 2}})
folder = Path({str(tmp_path)!r}) / "checkpoints"
Checkpoints(folder, ranks, IDENTITY, keep=2).save(Weights(), 1, {{}})
while not list(folder.glob("*.part/.rank_00000.json")):
    time.sleep(0.01)
raise KeyError("main")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "KeyError: 'main'" in done.stderr
    assert manifests.steps(Path(tmp_path) / "checkpoints") == []


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_latest_that_is_no_file_is_not_waited_for(checkpoints, make):
    latest = checkpoints.folder / "latest"
    latest.unlink()
    make(latest)
    with pytest.raises(InvalidCheckpoint, match=f"{latest} .*(Is a directory|is no plain file)"):
        checkpoints.newest_valid(print)


def test_a_latest_that_is_no_text_is_told_and_passed_over(checkpoints):
    (checkpoints.folder / "latest").write_bytes(b"\xff\x00")
    told = []
    assert checkpoints.newest_valid(told.append).step == 30
    assert len(told) == 1 and "was the newest checkpoint, and is none any more" in told[0]
