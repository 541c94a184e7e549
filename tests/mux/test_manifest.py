"""The manifest of a checkpoint: what it must be to be believed."""

import hashlib
import json
import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mux import manifest as manifests
from mux.manifest import FileEntry, InvalidCheckpoint, Manifest

HUGE = 1 << 30


def made(folder: Path, step: int = 20, **changed) -> Path:
    """A checkpoint with two files."""
    place = folder / manifests.folder_name(step)
    place.mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    contents = {"rank0.pt": b"weights", "rank1.pt": b"more"}
    for name, content in contents.items():
        (place / name).write_bytes(content)
    files = {name: FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
             for name, content in contents.items()}
    values = {"step": step, "time": time.time(), "recipe_digest": "d", "stage": "pretrain", "world_size": 2,
              "zero_stage": 1, "precision": "fp32", "rng": "by step", "progress": {"last": None}, "files": files}
    manifests.write(place, Manifest(**values | changed))
    return place


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return made(tmp_path / "checkpoints")


def rewritten(folder: Path, **changed) -> None:
    """With other values under a sha256 that fits them: only what they are can be wrong."""
    content = json.loads((folder / "manifest.json").read_text())
    content.pop("sha256")
    content |= changed
    seal = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(content | {"sha256": seal}))


def test_what_was_written_is_read(checkpoint):
    told = []
    manifest = manifests.verify(checkpoint, told.append)
    assert manifest == manifests.read(checkpoint) and manifest.step == 20 and manifest.bytes == 11
    assert told == [7, 4] and manifest.identity.world_size == 2 and manifest.progress == {"last": None}
    assert stat.S_IMODE((checkpoint / "manifest.json").stat().st_mode) == 0o600


def test_only_committed_steps_count(tmp_path):
    folder = tmp_path / "checkpoints"
    assert manifests.steps(folder) == [] and manifests.newest(folder) is None
    for step in (10, 123456789, 20):
        made(folder, step)
    (folder / "step_00000030").mkdir()
    made(folder, 40).rename(folder / "step_00000040.part")
    made(folder, 50).rename(folder / "step_0000000050")  # no name that we give
    made(folder, 60).rename(folder / "step_٠٠٠٠٠٠٦٠")
    assert manifests.steps(folder) == [10, 20, 123456789]
    assert manifests.newest(folder) == folder / "step_123456789"


ENTRY = {"bytes": 1, "sha256": "0" * 64}
VALUES = {
    "another version": ({"version": 1}, "'version'"),
    "an unknown key": ({"extra": 1}, "'extra'"),
    "a step that is text": ({"step": "20"}, "'step'"),
    "a step that is true": ({"step": True}, "'step'"),
    "a step below nothing": ({"step": -1}, "'step'"),
    "a huge number": ({"step": 10**30}, "'step'"),
    "a fraction": ({"world_size": 2.0}, "'world_size'"),
    "no files": ({"files": None}, "'files'"),
    "a path": ({"files": {"/etc/passwd": ENTRY}}, "'files"),
    "a path upwards": ({"files": {"../latest": ENTRY}}, "'files"),
    "the folder itself": ({"files": {"..": ENTRY}}, "'files"),
    "a line break": ({"files": {"a\n": ENTRY}}, "'files"),
    "a size below nothing": ({"files": {"a": ENTRY | {"bytes": -1}}}, "'files"),
    "a short hash": ({"files": {"a": ENTRY | {"sha256": "0"}}}, "'files"),
    "an escape for terminals": ({"\x1b[2J": 1}, r"'\\x1b\[2J'"),
    "a ZeRO stage that is none": ({"zero_stage": 4}, "'zero_stage'"),
}


@pytest.mark.parametrize("what", VALUES)
def test_values_that_are_refused(checkpoint, what):
    changed, message = VALUES[what]
    rewritten(checkpoint, **changed)
    with pytest.raises(InvalidCheckpoint, match=f"manifest.json cannot be read: {message}"):
        manifests.read(checkpoint)


TEXTS = {
    "nothing": (b"", "Expecting value"),
    "half of it": (b'{"version": 2, "step"', "Expecting"),
    "a list": (b"[]", "no JSON object"),
    "no text": (b"\xff\xfe\xff", "codec"),
    "NaN": (b'{"time": NaN}', "NaN is no number"),
    "more than a float holds": (b'{"time": 1e999}', "1e999 is no number"),
    "a number without end": (b'{"step": ' + b"9" * 5000 + b"}", "integer string"),
    "lists in lists": (b"[" * 100_000, "recursion"),
    "deep lists": (b'{"progress": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "recursion"),
}


@pytest.mark.parametrize("what", TEXTS)
def test_texts_that_are_refused(checkpoint, what):
    text, message = TEXTS[what]
    (checkpoint / "manifest.json").write_bytes(text)
    with pytest.raises(InvalidCheckpoint, match=message):
        manifests.verify(checkpoint)


def test_every_flipped_bit_is_seen(checkpoint):
    path = checkpoint / "manifest.json"
    content = path.read_bytes()
    passed = []
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            passed.append(manifests.read(checkpoint))
        except InvalidCheckpoint:
            continue
    path.write_bytes(content)
    assert all(manifest == manifests.read(checkpoint) for manifest in passed)  # white space


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(Manifest.model_fields)) | st.text(), inner),
).map(lambda value: json.dumps(value).encode()))
def test_nothing_else_is_raised(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(InvalidCheckpoint):
        manifests.read(folder)


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_huge_file(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(HUGE)


def as_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


KINDS = (as_pipe, as_huge_file, as_link, as_folder, Path.unlink)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["manifest.json", "rank1.pt"])
def test_what_is_no_plain_file_is_never_opened(checkpoint, kind, name):
    kind(checkpoint / name)
    with pytest.raises(InvalidCheckpoint, match=name):
        manifests.verify(checkpoint)


def test_a_link_is_no_folder_of_checkpoints(checkpoint):
    moved = checkpoint.parent / "elsewhere"
    checkpoint.rename(moved)
    checkpoint.symlink_to(moved)
    with pytest.raises(InvalidCheckpoint, match="not a folder of its own"):
        manifests.verify(checkpoint)


def test_a_missing_one_is_invalid(tmp_path):
    with pytest.raises(InvalidCheckpoint, match="No such file"):
        manifests.verify(tmp_path / "step_00000001")


def test_progress_must_be_json(checkpoint):
    with pytest.raises(ValueError, match="JSON"):
        made(checkpoint.parent, 30, progress={"loss": float("nan")})
    assert not (checkpoint.parent / "step_00000030" / "manifest.json").exists()
