"""`mux runs verify`: every checkpoint of a run, read from end to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mux import manifest as manifests
from mux.manifest import LATEST, InvalidCheckpoint, Manifest
from mux.plan import Plan
from mux.run import RunDirectory


@dataclass(frozen=True)
class Verdict:
    """One checkpoint. `problem` names the file and what is wrong with it; None: it can be gone on from."""

    training: str  # "pretrain", or "finetune/topic/seed0_lr0.001_batch4" of a fine-tuning stage
    step: int
    manifest: Manifest | None  # None: it cannot be read
    problem: str | None


@dataclass(frozen=True)
class Training:
    """The checkpoints of a stage, or of one of its trainings."""

    name: str
    folder: Path
    steps: tuple[int, ...]


def trainings(run: RunDirectory, plan: Plan) -> list[Training]:
    """Those that have checkpoints, in the order of the plan."""
    found = (Training(name, folder, tuple(manifests.steps(folder)))
             for name, folder in run.checkpoint_folders(plan).items())
    return [training for training in found if training.steps]


def total_bytes(training: Training) -> int:
    """Of all files that are to be read."""
    return sum(path.stat().st_size for step in training.steps
               for path in (training.folder / manifests.folder_name(step)).iterdir() if path.is_file())


def verdicts(training: Training, plan: Plan, hashed: Callable[[int], None]) -> Iterator[Verdict]:
    """Read every checkpoint of a training. `hashed` is told the bytes that were read."""
    for step in training.steps:
        folder, manifest, problem = training.folder / manifests.folder_name(step), None, None
        try:
            manifest = manifests.examine(folder)
            problem = _stranger(folder, manifest, training, plan)
            manifests.verify(folder, hashed)
        except InvalidCheckpoint as error:
            if not folder.exists():  # a run that goes on has let it go
                continue
            problem = str(error)
        yield Verdict(training.name, step, manifest, problem)


def _stranger(folder: Path, manifest: Manifest, training: Training, plan: Plan) -> str | None:
    """What is wrong with a checkpoint that is whole, but of something else."""
    place = folder / manifests.MANIFEST
    if manifest.stage != training.name:
        return f"{place} is of {manifest.stage}, not of {training.name}"
    return None if manifest.recipe_digest == plan.recipe_digest else f"{place} is of another recipe"


def pointer(training: Training) -> tuple[str | None, str | None]:
    """(what is wrong with `latest`, what is worth saying of it): nothing reads it to go on."""
    path = training.folder / LATEST
    newest = manifests.folder_name(training.steps[-1])
    try:
        named = manifests.pointed(training.folder)
    except InvalidCheckpoint as error:
        return f"{error}; remove it: a start does not go on beside it", None
    if named is None:
        return None, f"{path} is not there; the newest checkpoint is {newest}, and a start goes on from it"
    if named not in map(manifests.folder_name, training.steps):
        return f"{path} names {named!r}, which is no checkpoint; the newest is {newest}", None
    return None, None if named == newest else f"{path} names {named}; the newest is {newest}, a start goes on from it"
