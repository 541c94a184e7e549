"""Goal 9: how many tokens a second one process prepares for a pre-training step: read, grouped, masked, counted."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.contestants import VOCABULARY
from benchmarks.records import Record
from mux.data.batches import CorpusBatches, Share, TextQuestions
from mux.data.corpus import Corpus
from mux.data.masking import CORRUPTIONS, Vocabulary
from mux.train.objective import MASKED_TOKENS, Objective, weighed

GOAL, ROWS, LENGTH, GROUPS = 20e6, 100_000, 128, 32


def measure(device: str, short: bool) -> Iterator[Record]:
    with tempfile.TemporaryDirectory() as folder:
        corpus = corpus_in(Path(folder))
        for N in (1, 2, 10):
            questions = TextQuestions(Vocabulary(VOCABULARY, (0, 100, 101, 102, 103), 103, 0),
                                      CORRUPTIONS["bert", True], 0.15, task=True, retrieval=N > 1)
            batches = CorpusBatches(corpus, questions, N, 0, Share(0, 1, GROUPS, GROUPS))
            objective = Objective(weighed(0.1 if N > 1 else 0.0), MASKED_TOKENS)
            rates = []
            for step in range(20 if short else 100):
                begun = time.perf_counter()
                for batch in batches(step):
                    objective.counts(batch)
                rates.append(GROUPS * N * LENGTH / (time.perf_counter() - begun))
            low, median, high = np.quantile(rates[2:], (0.25, 0.5, 0.75))
            yield Record("data_path", f"N = {N}, masked rows ready to be fed", "", round(median / 1e6, 2), GOAL / 1e6,
                         unit="M tokens/s", low=round(low / 1e6, 2), high=round(high / 1e6, 2),
                         conditions=f"{GROUPS} groups, {LENGTH} tokens, one process, {len(rates)} steps")


def corpus_in(folder: Path) -> Corpus:
    """A token store of random tokens, on disk as a run's is."""
    tokens = np.memmap(folder / "tokens.bin", dtype="<u2", mode="w+", shape=(ROWS, LENGTH))
    tokens[:] = np.random.default_rng(0).integers(1000, VOCABULARY, (ROWS, LENGTH))
    return Corpus(folder, "benchmark", tokens, ROWS, 0, {})
