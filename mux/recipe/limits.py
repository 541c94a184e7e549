"""How much one recipe may ask for. A plan of more could not be made, shown or stored in reasonable time."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from mux.recipe.positions import Path
from mux.recipe.refusal import Finding
from mux.recipe.schema import Recipe
from mux.recipe.stages import EnsembleStage, EvaluateStage, FinetuneStage, Stage, ThroughputStage

STAGES = 100
RANKS = 1024  # of a host
NODES = 10_000
TRAININGS = 2000  # of a stage
MODELS = 1000  # that a stage times
TICKETS = 1000


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Whatever is beyond these limits."""
    cluster, slurm = recipe.cluster, recipe.slurm
    yield from _more(("stages",), len(recipe.stages), STAGES, "stages")
    yield from _more(("cluster", "processes"), cluster.processes, RANKS, "ranks on one host")
    yield from _more(("slurm", "nodes"), slurm.nodes, NODES, "nodes")
    yield from _more(("slurm", "gpus_per_node"), slurm.gpus_per_node, RANKS, "ranks on one host")
    for stage in recipe.stages:
        yield from _stage(stage, ("stages", stage.id))


def _stage(stage: Stage, key: Path) -> Iterator[Finding]:
    if isinstance(stage, FinetuneStage | EvaluateStage | EnsembleStage):
        yield from _more((*key, "tickets"), stage.tickets, TICKETS, "tickets")
    if isinstance(stage, FinetuneStage):
        lists = stage.tasks, stage.seeds, stage.search.learning_rate, stage.search.batch
        yield from _more(key, prod(len(values) or 1 for values in lists), TRAININGS,
                         "trainings: tasks x seeds x points of the search")
    if isinstance(stage, ThroughputStage):
        grid = [values for name, values in stage.models if name != "hub"]
        yield from _more((*key, "models"), prod(len(values) or 1 for values in grid) + len(stage.models.hub), MODELS,
                         "models to time")


def _more(key: Path, there: int, most: int, what: str) -> Iterator[Finding]:
    if there > most:
        yield Finding(key, f"{there:,} are more than {most:,} {what}", "ask for less, or make several recipes of it")
