"""The micro batches that are known before a plan is made: of stages that go on, and measured ones."""

from __future__ import annotations

from contextlib import suppress

from launcher.placement import measured_for, placement
from mux import manifest as manifests
from mux.plan import Cluster, MeasuredMicroBatch
from mux.recipe import Recipe
from mux.run import RunDirectory, read_plain


def known(run: RunDirectory, recipe: Recipe, cluster: Cluster) -> dict[str, int]:
    """Stage -> its micro batch until now, where it goes on from a checkpoint and the recipe asks for the same as
    before: dropout is drawn by micro batch, so losses do not depend on the number of devices. Else, if the recipe has
    it measured, what was measured on as many devices."""
    found = measured(run, recipe, cluster) if recipe.engine.micro_batch == "auto" else {}
    try:
        previous = run.read_plan()
    except (OSError, ValueError):
        return found
    if previous.recipe["engine"]["micro_batch"] != recipe.engine.micro_batch:
        return found
    return found | {stage.id: stage.micro_batch for stage in previous.stages
                    if stage.micro_batch and manifests.steps(run.checkpoints(stage.id))}


def measured(run: RunDirectory, recipe: Recipe, cluster: Cluster) -> dict[str, int]:
    """Of the stages of which the run holds a measurement for this recipe on this cluster."""
    found = {}
    for stage in recipe.stages:
        file = run.micro_batch(stage.id, measured_for(recipe, placement(stage, cluster)))
        with suppress(OSError, ValueError):
            found[stage.id] = MeasuredMicroBatch.model_validate_json(read_plain(file)).micro_batch
    return found
