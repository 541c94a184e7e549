"""Token retrieval: prime the multiplexer by decoding the group's own, uncorrupted tokens (paper section 3.4)."""

from __future__ import annotations

from mux.recipe import RetrievalStage
from mux.stages.context import Context
from mux.stages.pretrain import train_on_corpus


def run(context: Context, stage: RetrievalStage) -> None:
    train_on_corpus(context, stage, mask_rate=None, retrieval_rate=1.0)
