"""The micro batches that are known before a plan is made: of stages that go on, and measured ones."""

from __future__ import annotations

from launcher.placement import measured_for, placement
from mux import manifest as manifests
from mux.plan import Cluster
from mux.recipe import Recipe
from mux.run import RunDirectory


def known(run: RunDirectory, recipe: Recipe, cluster: Cluster) -> dict[str, int]:
    """Stage -> its micro batch. What a stage has had until now goes before what was measured for it."""
    return (measured(run, recipe, cluster) if recipe.engine.micro_batch == "auto" else {}) | kept(run, recipe)


def kept(run: RunDirectory, recipe: Recipe) -> dict[str, int]:
    """Of the stages that go on from a checkpoint, where the recipe asks for the same as before: dropout is drawn by
    micro batch, so losses do not depend on the number of devices."""
    try:
        previous = run.read_plan()
    except (OSError, ValueError):
        return {}
    if previous.recipe["engine"]["micro_batch"] != recipe.engine.micro_batch:
        return {}
    return {stage.id: stage.micro_batch for stage in previous.stages
            if stage.micro_batch and manifests.steps(run.checkpoints(stage.id))}


def measured(run: RunDirectory, recipe: Recipe, cluster: Cluster) -> dict[str, int]:
    """Of the stages of which the run holds a measurement for this recipe on this cluster."""
    found = {stage.id: run.measured(stage.id, measured_for(recipe, placement(stage, cluster), cluster))
             for stage in recipe.stages}
    return {stage: one.micro_batch for stage, one in found.items() if one is not None}
