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
from mux.data.encoding import Encoded
from mux.data.masking import IGNORED, Corruption, Vocabulary, retrieval_slots
from mux.data.sampler import group_rows


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
    """What pre-training asks of a group of rows: about its corrupted tokens, the group's own tokens, or both."""

    vocabulary: Vocabulary
    corruption: Corruption | None  # None: the tokens stay as they are
    rate: float  # of the corruption
    task: bool  # whether the corruption is asked about
    retrieval: bool
    uncorrupted: bool = True  # retrieval decodes the tokens as they were (design section 4, departure 5), or as fed
    unread: int = 0  # so many last positions the model cuts off to make room for a prefix (numerics section 1.4)

    def __call__(self, ids_BNL: np.ndarray, seed: int, step: int, first_group: int) -> dict[str, Tensor]:
        real_BNL = ids_BNL != self.vocabulary.pad_id
        asked_BNL = real_BNL & (np.arange(ids_BNL.shape[-1]) < ids_BNL.shape[-1] - self.unread)
        batch = {"input_ids": ids_BNL, "attention_mask": real_BNL.astype(np.int64)}
        if self.corruption is not None:
            batch["input_ids"], labels = self.corruption(
                ids_BNL, self.vocabulary, self.rate, seed, step, first_group)
            if self.task:
                batch["labels"] = np.where(asked_BNL, labels, IGNORED)
        if self.retrieval and self.uncorrupted:
            batch["retrieval_labels"] = ids_BNL
        rows = {name: array.reshape(-1, array.shape[-1]) for name, array in batch.items()}
        if self.retrieval:
            # Of cut rows the model counts positions from the prefix on.
            slots_BL = retrieval_slots(asked_BNL, seed, step, first_group)
            rows["retrieval_slots"] = np.roll(slots_BL, self.unread, axis=1)
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
    """`batches(step)` for finetune: rows padded to the longest of the micro-batch, or as `encoded` says."""

    encoded: Encoded
    key: str  # content hash of the task, of which the order is a function
    N: int
    seed: int
    share: Share
    retrieval: bool = False  # whether the group's tokens are asked for beside the labels
    retrieves_first: bool = True  # and the first of each row among them
    teacher_AC: np.ndarray | None = None  # a teacher's logits for each label

    def __call__(self, step: int) -> list[dict[str, Tensor]]:
        rows_BN = group_rows(len(self.encoded), self.N, self.share.groups, self.key, self.seed, step)
        return [self.take(rows_BN[groups], step, groups.start) for groups in self.share]

    def take(self, rows_BN: np.ndarray, step: int, first_group: int) -> dict[str, Tensor]:
        rows = rows_BN.ravel()
        arrays = self.encoded.batch(rows)
        length = arrays["input_ids"].shape[1]
        arrays["labels"] = self.encoded.labels_of(rows, length)
        if self.teacher_AC is not None:  # where no label is, any will do: nobody looks
            arrays["teacher_logits"] = self.teacher_AC[self.encoded.asked(rows, length)]
        if self.retrieval:
            # Drawn for rows as long as rows may be: a position's draw does not depend on the longest of its batch.
            real_BNL = (np.arange(self.encoded.longest) < self.encoded.lengths[rows_BN][..., None])
            real_BNL[..., 0] &= self.retrieves_first
            arrays["retrieval_slots"] = retrieval_slots(real_BNL, self.seed, step, first_group)[:, :length]
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
