"""Whether checkpoints can be gone on from under a plan, before any process starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mux import manifest as manifests
from mux.manifest import InvalidCheckpoint, Manifest, obstacle
from mux.plan import Plan, StagePlan
from mux.run import RunDirectory


def refusal(manifest: Manifest, plan: Plan, stage: StagePlan) -> str | None:
    """Why a stage cannot go on from a checkpoint under a plan, in words; None: it can."""
    engine = plan.recipe["engine"]
    here = replace(manifest.identity, world_size=stage.devices, recipe_digest=plan.recipe_digest,
                   zero_stage=engine["zero_stage"], precision=engine["precision"])
    return obstacle(manifest.identity, here)


def refusals(run: RunDirectory, plan: Plan) -> dict[str, str]:
    """Stage -> why it cannot go on, of those that are neither done nor without a checkpoint."""
    found = {}
    for stage in plan.stages:
        reasons = (refusal(manifest, plan, stage) for manifest in _newest(run, plan, stage))
        if reason := next((reason for reason in reasons if reason), None):
            found[stage.id] = reason
    return found


def _newest(run: RunDirectory, plan: Plan, stage: StagePlan) -> Iterator[Manifest]:
    """The newest usable checkpoint of the stage and of each of its trainings, if they are not done."""
    if run.stage_result(stage.id).exists():
        return
    places = [run.checkpoints(stage.id)]
    places += [run.training(stage.id, training.name) / "checkpoints" for training in stage.trainings
               if not run.training_result(stage.id, training.name).exists()]
    for place in places:
        yield from _usable(place, plan)


def _usable(place: Path, plan: Plan) -> Iterator[Manifest]:
    """None or one; damaged ones and those of another recipe are the ranks' to tell of, who fall back to the one
    before."""
    for step in reversed(manifests.steps(place)):
        with suppress(InvalidCheckpoint):
            manifest = manifests.read(place / manifests.folder_name(step))
            if manifest.recipe_digest == plan.recipe_digest:
                yield manifest
                return
