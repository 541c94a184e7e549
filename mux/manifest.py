"""The manifest of a checkpoint, without which it does not exist: which step, of what, and the sha256 of every file.

`step_<n>/manifest.json` is written last. A checkpoint is believed when its manifest is whole (it holds a sha256 of
itself, too), when all files it names are there and unchanged and no others, and when nobody else could have written
to the folder: a hash is no authentication, and unpickling a shard runs what is in it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mux.run import read_plain, write_json

MANIFEST, LATEST, VERSION = "manifest.json", "latest", 2
MOST_BYTES = 1 << 24  # of a manifest; one of 1000 ranks has about 0.5 MB

Natural = Annotated[int, Field(ge=0, le=10**15)]
Count = Annotated[int, Field(ge=1, le=10**6)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# No path, nothing hidden, nothing that a terminal or a shell would take for something else.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}$")]
Word = Annotated[str, Field(max_length=500)]

_STEP = re.compile(r"step_([0-9]{8,16})")
OPTIMIZER = "_optim_states.pt"  # how DeepSpeed calls what each rank has of the optimizer's state
# Optimizer states of these ZeRO stages become each other's, on any number of ranks. DeepSpeed knows no way between
# these families: stage 0 keeps whole states, 1 and 2 flatten groups of parameters, 3 cuts each parameter by itself.
FAMILIES = (frozenset({0}), frozenset({1, 2}), frozenset({3}))
MAY_DIFFER = {"world_size", "zero_stage"}
LASTING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO}


class InvalidCheckpoint(ValueError):
    """A checkpoint that must not be loaded; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Identity:
    """What a training must agree on with a checkpoint to go on from it bit by bit."""

    recipe_digest: str
    stage: str  # "<stage id>", or "<stage id>/<training>" of a fine-tuning stage
    world_size: int
    zero_stage: int
    precision: str

    @property
    def family(self) -> frozenset[int]:
        """The ZeRO stages into whose optimizer states those saved here can be converted."""
        return next(family for family in FAMILIES if self.zero_stage in family)


class Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class FileEntry(Part):
    bytes: Natural
    sha256: Sha256


class Manifest(Part):
    version: Annotated[int, Field(ge=VERSION, le=VERSION)] = VERSION
    step: Natural  # optimizer steps done
    time: float  # seconds since the epoch
    recipe_digest: Word
    stage: Word
    world_size: Count
    zero_stage: Annotated[int, Field(ge=0, le=3)]
    precision: Word
    rng: Word  # where random numbers come from, for people
    progress: dict[str, Any]  # what the training needs besides weights and optimizer
    files: dict[FileName, FileEntry]

    @property
    def identity(self) -> Identity:
        return Identity(self.recipe_digest, self.stage, self.world_size, self.zero_stage, self.precision)

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.files.values())


def folder_name(step: int) -> str:
    return f"step_{step:08d}"


def steps(folder: Path) -> list[int]:
    """The committed steps in a folder of checkpoints, oldest first."""
    numbers = (int(name[1]) for path in folder.glob("step_*") if (name := _STEP.fullmatch(path.name)))
    return sorted(step for step in set(numbers) if (folder / folder_name(step) / MANIFEST).exists())


def newest(folder: Path) -> Path | None:
    """The newest committed checkpoint, verified or not."""
    return next((folder / folder_name(step) for step in reversed(steps(folder))), None)


def pointed(folder: Path) -> str | None:
    """What `latest` in a folder of checkpoints says, which may be any text; None if it is not there. Raises
    InvalidCheckpoint if it is no file."""
    path = folder / LATEST
    try:
        text = read_plain(path)
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as problem:
        text = problem.object.decode("ascii", "replace")
    except OSError as problem:
        raise _unreadable(path, problem) from None
    except ValueError as problem:
        raise InvalidCheckpoint(f"{path} {problem}") from None
    return text.strip()[:100]


def write(folder: Path, manifest: Manifest) -> None:
    """Write and flush the manifest; raises ValueError if its progress is no JSON."""
    content = manifest.model_dump()
    write_json(folder / MANIFEST, content | {"sha256": _seal(content)})


def read(folder: Path) -> Manifest:
    """The manifest in a checkpoint's folder, which may be anything. Raises InvalidCheckpoint."""
    path = folder / MANIFEST
    try:
        content = json.loads(_content(path), parse_constant=_no_number, parse_float=_number)
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        seal = content.pop("sha256", None)
        manifest = Manifest.model_validate(content)
        if seal != _seal(content):
            raise ValueError("its content is not what was written: its sha256 differs")
    except ValidationError as problem:
        raise InvalidCheckpoint(f"{path} cannot be read: {_first(problem)}") from None
    except OSError as problem:
        raise _unreadable(path, problem) from None
    except (ValueError, RecursionError) as problem:
        raise InvalidCheckpoint(f"{path} cannot be read: {problem}") from None
    return manifest


def verify(folder: Path, hashed: Callable[[int], None] = lambda count: None) -> Manifest:
    """The manifest of a checkpoint whose files are all there, unchanged and private. Raises InvalidCheckpoint.

    `hashed` is told the bytes of each file as it is found to be what was saved.
    """
    manifest = examine(folder)
    for name, entry in manifest.files.items():
        check_content(folder / name, entry)
        hashed(entry.bytes)
    return manifest


def examine(folder: Path) -> Manifest:
    """`verify` but for the content of the files, which takes long."""
    check_private(folder)
    manifest = read(folder)
    if folder.name != folder_name(manifest.step):
        raise InvalidCheckpoint(f"{folder / MANIFEST} is of another step: {manifest.step}")
    if odd := {path.name for path in folder.iterdir()} - {MANIFEST} ^ set(manifest.files):
        first = min(odd)
        what = "missing" if first in manifest.files else "not in the manifest"
        raise InvalidCheckpoint(f"{folder / first} is {what}")
    for name, entry in manifest.files.items():
        path = folder / name
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidCheckpoint(f"{path} is not a plain file")
        if status.st_size != entry.bytes:
            raise InvalidCheckpoint(f"{path} has {status.st_size} bytes, its manifest says {entry.bytes}")
        _check_owner(path, status)
    shards = sum(name.endswith(OPTIMIZER) for name in manifest.files)
    if manifest.zero_stage > 0 and shards not in (0, manifest.world_size):
        raise InvalidCheckpoint(f"{folder} says world_size = {manifest.world_size}, and has the optimizer states of "
                                f"{shards} ranks")
    return manifest


def check_content(path: Path, entry: FileEntry) -> None:
    """Raise InvalidCheckpoint if the file's sha256 is not the manifest's."""
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise _unreadable(path, problem) from None
    if found != entry.sha256:
        raise InvalidCheckpoint(f"{path} is not what was saved: its sha256 differs from the manifest's")


def check_private(folder: Path) -> None:
    """Raise InvalidCheckpoint if someone else could have put a file here: unpickling one runs its code."""
    for place in _up_to_the_run(folder):
        try:
            status = place.lstat()
        except OSError as problem:
            raise _unreadable(place, problem) from None
        if not stat.S_ISDIR(status.st_mode):
            raise InvalidCheckpoint(f"{place} is not a folder of its own")
        _check_owner(place, status)


def _up_to_the_run(folder: Path) -> list[Path]:
    """A checkpoint's folder and those it is in, up to the run directory; of one in no run the folder and its parent."""
    places = [folder, *folder.parents]
    run = next((number for number, place in enumerate(places) if (place / "plan.json").exists()), 1)
    return places[: run + 1]


def _check_owner(place: Path, status: os.stat_result) -> None:
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidCheckpoint(f"{place} is owned by another user or writable by others; "
                                f"take it over (chown) and chmod go-w it if you trust it")


def _unreadable(place: Path, problem: OSError) -> InvalidCheckpoint:
    """The verdict on what cannot be read. Raises the problem itself if it may pass: a disk that does not answer says
    nothing against what is on it."""
    if problem.errno not in LASTING:
        raise problem
    return InvalidCheckpoint(f"{place} cannot be read: {problem.strerror}")


# --- going on from it -----------------------------------------------------------------------------
def obstacle(there: Identity, here: Identity) -> str | None:
    """Why a training cannot go on from a checkpoint, in words; None: it can."""
    differences = _differing(there, here)
    for name, (was, is_now) in differences.items():
        if name not in MAY_DIFFER:
            return f"it was saved with {name} = {was!r}, this run has {is_now!r}"
    if differences and there.family != here.family:
        return f"what ZeRO {there.zero_stage} has saved cannot become ZeRO {here.zero_stage}'s"
    return None


def must_be_converted(there: Identity, here: Identity) -> bool:
    """Whether the shards, which `here` can go on from, are cut for other ranks. Whole states fit as they are."""
    return bool(_differing(there, here)) and there.zero_stage != 0


def resized(there: Identity, here: Identity) -> str:
    """What changes, in words: "resized from 4 to 2 ranks, ZeRO 1 to 2"."""
    changes = []
    if there.world_size != here.world_size:
        changes.append(f"{there.world_size} to {here.world_size} rank{'s' if here.world_size > 1 else ''}")
    if there.zero_stage != here.zero_stage:
        changes.append(f"ZeRO {there.zero_stage} to {here.zero_stage}")
    return f"resized from {', '.join(changes)}"


def _differing(there: Identity, here: Identity) -> dict[str, tuple[Any, Any]]:
    """{field: (there, here)} of what two identities do not agree on."""
    wanted = asdict(here)
    return {name: (value, wanted[name]) for name, value in asdict(there).items() if value != wanted[name]}


# --- the file itself ------------------------------------------------------------------------------
def _content(path: Path) -> bytes:
    """What is in a plain file that is not too large; a pipe or a link is not opened."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
            raise ValueError(f"it is no plain file of at most {MOST_BYTES:,} bytes")
        return file.read(MOST_BYTES)


def _seal(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        _no_number(text)
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no number")


def _first(problem: ValidationError) -> str:
    error = problem.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, error["loc"]))
    return f"{where[:100]!r}: {error['msg']}" if where else error["msg"]
