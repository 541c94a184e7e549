"""Micro-batches as pure functions of the step: the same on any number of ranks, after any restart.

B groups, N slots, L positions; a micro-batch is a dict of CPU tensors with the groups' rows in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mux.data.corpus import Corpus
from mux.data.masking import mask_tokens, retrieval_slots
from mux.data.sampler import group_rows
from mux.data.tasks import Encoded


@dataclass(frozen=True)
class Share:
    """Which of a step's groups are this rank's, and how many of them make a micro-batch."""

    rank: int
    ranks: int
    groups: int  # of the whole step
    micro_batch: int

    def __iter__(self) -> Iterator[slice]:
        """This rank's micro-batches as slices of the step's groups."""
        mine = self.groups // self.ranks
        for first in range(self.rank * mine, (self.rank + 1) * mine, self.micro_batch):
            yield slice(first, first + self.micro_batch)


@dataclass(frozen=True)
class TextQuestions:
    """What pre-training asks of a group of rows: masked tokens, retrieved tokens, or both."""

    mask_id: int
    special_ids: tuple[int, ...]
    vocabulary: int
    mask_rate: float | None  # None: nothing is masked (the retrieval stage)
    retrieval: bool
    pad_id: int

    def __call__(self, ids_BNL: np.ndarray, seed: int, step: int, first_group: int) -> dict[str, Tensor]:
        real_BNL = ids_BNL != self.pad_id
        batch = {"input_ids": ids_BNL, "attention_mask": real_BNL.astype(np.int64)}
        if self.mask_rate is not None:
            batch["input_ids"], batch["labels"] = mask_tokens(
                ids_BNL, self.special_ids, self.mask_id, self.vocabulary, self.mask_rate, seed, step, first_group)
        rows = {name: array.reshape(-1, array.shape[-1]) for name, array in batch.items()}
        if self.retrieval:
            # The tokens to decode are the uncorrupted ones (design section 4, departure 5).
            rows["retrieval_labels"] = ids_BNL.reshape(-1, ids_BNL.shape[-1])
            rows["retrieval_slots"] = retrieval_slots(real_BNL, seed, step, first_group)
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in rows.items()}


@dataclass(frozen=True)
class CorpusBatches:
    """`batches(step)` for retrieval and pretrain."""

    corpus: Corpus
    questions: TextQuestions
    N: int
    seed: int
    share: Share

    def __call__(self, step: int) -> list[dict[str, Tensor]]:
        rows_BN = group_rows(self.corpus.train_rows, self.N, self.share.groups, self.corpus.hash, self.seed, step)
        batches = []
        for groups in self.share:
            ids_BNL = self.corpus.take(rows_BN[groups].ravel()).reshape(-1, self.N, self.corpus.sequence_length)
            batches.append(self.questions(ids_BNL, self.seed, step, groups.start))
        return batches


@dataclass(frozen=True)
class TaskBatches:
    """`batches(step)` for finetune: rows padded to the longest of the micro-batch."""

    encoded: Encoded
    key: str  # content hash of the task, of which the order is a function
    N: int
    seed: int
    share: Share

    def __call__(self, step: int) -> list[dict[str, Tensor]]:
        rows_BN = group_rows(len(self.encoded.labels), self.N, self.share.groups, self.key, self.seed, step)
        return [self.take(rows_BN[groups].ravel()) for groups in self.share]

    def take(self, rows: np.ndarray) -> dict[str, Tensor]:
        arrays = self.encoded.batch(rows) | {"labels": self.encoded.labels[rows]}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
