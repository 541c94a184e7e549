"""What a checkpoint must be to be loaded; real ones are made and killed in tests/launcher/test_runs.py."""

import hashlib
import json
from types import SimpleNamespace

import pytest

from mux.train.checkpoint import Checkpoints, Identity, InvalidCheckpoint, verify

IDENTITY = Identity(recipe_digest="d", stage="pretrain", world_size=1, zero_stage=1, precision="fp32")
ALONE = SimpleNamespace(rank=0, size=1, first=True, barrier=lambda: None, gather=lambda value: [value],
                        from_first=lambda value: value)


class Shards:
    """Writes and notes instead of training; the files are real."""

    def __init__(self):
        self.loaded = []

    def save(self, folder, tag):
        (folder / tag).mkdir()
        (folder / tag / "rank0.pt").write_bytes(b"weights" + tag.encode())
        (folder / tag / "rank1.pt").write_bytes(b"more")

    def load(self, folder, tag):
        self.loaded.append(tag)


@pytest.fixture
def checkpoints(tmp_path):
    tmp_path.chmod(0o700)
    made = Checkpoints(tmp_path / "checkpoints", ALONE, IDENTITY, keep=2)
    for step in (10, 20, 30):
        made.save(Shards(), step, {})
    return made


def test_the_last_ones_are_kept_and_latest_names_the_newest(checkpoints):
    assert checkpoints.steps() == [20, 30]
    assert (checkpoints.folder / "latest").read_text() == "step_00000030\n"
    manifest = json.loads((checkpoints.folder / "step_00000030" / "manifest.json").read_text())
    assert manifest["step"] == 30 and manifest["world_size"] == 1 and manifest["recipe_digest"] == "d"
    assert manifest["files"]["rank1.pt"] == {"bytes": 4, "sha256": hashlib.sha256(b"more").hexdigest()}
    assert not list(checkpoints.folder.glob("*.part"))


def test_the_newest_is_loaded(checkpoints):
    engine = Shards()
    assert checkpoints.load(engine, pytest.fail)["step"] == 30 and engine.loaded == ["step_00000030"]


def flip(folder):
    (folder / "rank0.pt").write_bytes(b"weightz" + (folder / "rank0.pt").read_bytes()[7:])


def other_world(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"world_size": 2}))


DAMAGES = {
    "flipped": (flip, "rank0.pt is not what was saved"),
    "truncated": (lambda folder: (folder / "rank1.pt").write_bytes(b"mor"), "rank1.pt has 3 bytes"),
    "missing": (lambda folder: (folder / "rank1.pt").unlink(), "rank1.pt is missing"),
    "extra": (lambda folder: (folder / "rank2.pt").write_bytes(b""), "rank2.pt is not in the manifest"),
    "no manifest text": (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
    "other world": (other_world, "world_size = 2, this run has 1"),
    "writable": (lambda folder: folder.chmod(0o777), "writable by others"),
    "link": (lambda folder: ((folder / "rank1.pt").rename(folder.parent / "elsewhere"),
                             (folder / "rank1.pt").symlink_to(folder.parent / "elsewhere")), "not a plain file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_named_and_passed_over(checkpoints, damage):
    break_it, message = DAMAGES[damage]
    newest = checkpoints.folder / "step_00000030"
    break_it(newest)
    with pytest.raises(InvalidCheckpoint, match=message):
        verify(newest, IDENTITY)
    warnings, engine = [], Shards()
    assert checkpoints.load(engine, warnings.append)["step"] == 20
    assert engine.loaded == ["step_00000020"] and message in warnings[0] and str(newest) in warnings[0]


def test_if_none_is_valid_nothing_starts_over(checkpoints):
    for folder in checkpoints.folder.glob("step_*"):
        flip(folder)
    engine = Shards()
    with pytest.raises(InvalidCheckpoint, match=r"no valid checkpoint .* --fresh starts over"):
        checkpoints.load(engine, lambda text: None)
    assert not engine.loaded


def test_none_at_all_is_a_beginning(tmp_path):
    assert Checkpoints(tmp_path / "none", ALONE, IDENTITY, keep=2).load(Shards(), pytest.fail) is None


def test_a_save_that_breaks_off_leaves_the_others(checkpoints):
    class Breaks(Shards):
        def save(self, folder, tag):
            super().save(folder, tag)
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(Breaks(), 40, {})
    assert checkpoints.steps() == [20, 30]
    assert checkpoints.load(Shards(), pytest.fail)["step"] == 30
    checkpoints.save(Shards(), 40, {})
    assert checkpoints.steps() == [30, 40] and not list(checkpoints.folder.glob("*.part"))
