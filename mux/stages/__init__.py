"""The stages of a run: one file a kind, named like it, with a function `run` of (context, the stage's own section),
and, where it trains, one that gives its `workload`.

A rank imports those of its job alone: pandas, scipy and their like take a second of every start.
"""

from importlib import import_module

from mux.recipe.stages import Stage
from mux.stages.context import Context


def run_stage(context: Context, stage: Stage) -> None:
    import_module(f"{__name__}.{stage.kind}").run(context, stage)


def measure_stage(context: Context, stage: Stage) -> None:
    """Find the stage's micro batch."""
    workload = import_module(f"{__name__}.{stage.kind}").workload(context, stage)
    import_module(f"{__name__}.micro_batch").measure(context, stage, workload)
