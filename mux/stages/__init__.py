"""The stages of a run: one file a kind, each a function of (context, the stage's own section)."""

from collections.abc import Callable
from typing import Any

from mux.recipe.stages import Stage
from mux.stages import ensemble, evaluate, finetune, muxology, pretrain, retrieval, throughput
from mux.stages.context import Context

KINDS: dict[str, Callable[[Context, Any], None]] = {
    "retrieval": retrieval.run,
    "pretrain": pretrain.run,
    "finetune": finetune.run,
    "evaluate": evaluate.run,
    "ensemble": ensemble.run,
    "throughput": throughput.run,
    "muxology": muxology.run,
}


def run_stage(context: Context, stage: Stage) -> None:
    KINDS[stage.kind](context, stage)
