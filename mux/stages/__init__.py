"""The stages of a run: one file a kind, named like it, with a function `run` of (context, the stage's own section).

A rank imports those of its job alone: pandas, scipy and their like take a second of every start.
"""

from importlib import import_module

from mux.recipe.stages import Stage
from mux.stages.context import Context


def run_stage(context: Context, stage: Stage) -> None:
    import_module(f"{__name__}.{stage.kind}").run(context, stage)
