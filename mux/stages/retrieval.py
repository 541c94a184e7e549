"""Token retrieval: prime the multiplexer by decoding the group's own tokens (paper section 3.4).

They are read and decoded as they stand in the corpus; the published models read and decoded them corrupted as in
pre-training (numerics section 1.6; design section 4, departure 5).
"""

from __future__ import annotations

from mux.recipe import ModelSection, RetrievalStage
from mux.stages.context import Context
from mux.stages.micro_batch import Workload
from mux.stages.pretrain import corpus_workload, train_on_corpus

PUBLISHED_RATE = 0.15


def run(context: Context, stage: RetrievalStage) -> None:
    train_on_corpus(context, stage, mask_rate=mask_rate(context.recipe.model), retrieval_rate=1.0)


def workload(context: Context, stage: RetrievalStage) -> Workload:
    return corpus_workload(context, mask_rate=mask_rate(context.recipe.model), retrieval_rate=1.0)


def mask_rate(model: ModelSection) -> float | None:
    return None if model.departs("uncorrupted_retrieval") else PUBLISHED_RATE
