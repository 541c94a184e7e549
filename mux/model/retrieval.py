"""Token retrieval: decode which token each instance of a group had at a position (paper section 3.2; numerics 1.6).

R rows, B groups, N slots, L positions of a row, F with its prefix, V vocabulary, T retrieved tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform

from mux.model.config import MuxConfig
from mux.model.muxed import Encoded, MuxModel

IGNORED = -100  # a label that asks for nothing


class VocabularyHead(nn.Module):
    """Vocabulary logits. The plain BERT encoder has its own transform first; a demultiplexer does that work itself."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__()
        self.vocabulary = config.vocab_size
        self.transform = nn.Identity() if config.multiplexed else BertPredictionHeadTransform(config.backbone())
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size + config.marker_ids)

    def forward(self, states: Tensor) -> Tensor:
        """[..., D] -> [..., V]; prefix markers are no answers."""
        return self.decoder(self.transform(states))[..., : self.vocabulary]


def tied_decoder(config: MuxConfig) -> dict[str, str]:
    """BERT's decoder is its word embeddings; ELECTRA's is a matrix of its own, as published (numerics section 1.5)."""
    return {"head.decoder.weight": "mux.backbone.embeddings.word_embeddings.weight"} if config.family == "bert" else {}


@dataclass(frozen=True)
class Retrieved:
    logits: Tensor  # [T, V], row-major over the [B, F] positions that were retrieved
    targets: Tensor  # [T]
    loss: Tensor


def retrieval_asked(config: Any, labels: Tensor | None, *questions: Tensor | None) -> bool:
    """Whether a head retrieves: where any of its retrieval arguments is given, or with labels if the loss counts."""
    return any(question is not None for question in questions) or (labels is not None and config.retrieval_weight > 0)


def retrieve(mux: MuxModel, head: VocabularyHead, encoded: Encoded, labels_RL: Tensor | None,
             slots: Tensor | None) -> Retrieved:
    """Decode one token per position of each group.

    `labels_RL`: the tokens to decode, -100 for none; default: the ids that were fed. `slots` [B, L] or [B, F] says
    whose token a position decodes (-1: none); default: drawn uniformly.
    """
    targets_XF = _fed_targets(mux, encoded) if labels_RL is None else _placed(mux, encoded, labels_RL)
    N, positions = mux.N, targets_XF.shape[1]
    if slots is None:
        slots = torch.randint(N, (len(targets_XF) // N, positions), device=targets_XF.device)
    slots_BF = F.pad(slots, (positions - slots.shape[1], 0), value=-1)
    rows_BF = torch.arange(len(slots_BF), device=slots_BF.device)[:, None] * N + slots_BF
    positions_BF = torch.arange(positions, device=slots_BF.device).expand_as(slots_BF)
    wanted_BF = slots_BF.ge(0) & targets_XF[rows_BF.clamp(min=0), positions_BF].ne(IGNORED)
    rows_T, positions_T = rows_BF[wanted_BF], positions_BF[wanted_BF]
    targets_T = targets_XF[rows_T, positions_T]
    logits_TV = head(mux.demultiplex(encoded, rows_T, positions_T, for_vocabulary=True))
    return Retrieved(logits_TV, targets_T, mean_cross_entropy(logits_TV, targets_T))


def _placed(mux: MuxModel, encoded: Encoded, labels_RL: Tensor) -> Tensor:
    """[B*N, F]: the caller's labels where their tokens are; nothing is asked of prefixes and fillers."""
    rows = encoded.rows
    positions = rows.input_ids.shape[1]
    labels_RF = F.pad(labels_RL, (rows.offset, 0), value=IGNORED)[:, :positions]
    return F.pad(labels_RF, (0, 0, 0, len(rows.input_ids) - rows.given), value=IGNORED)


def _fed_targets(mux: MuxModel, encoded: Encoded) -> Tensor:
    """[B*N, F]: the ids that were fed, without padding, prefixes and fillers; as published: see `Reading`."""
    rows, config, reading = encoded.rows, mux.config, mux.prepare.reading
    targets_XF = rows.input_ids
    if config.mask_padding:
        return _placed(mux, encoded, targets_XF.masked_fill(rows.attention_mask.eq(0), IGNORED)[
            : rows.given, rows.offset :])
    if reading.retrieves_padding:
        return targets_XF
    left_out_XF = ~mux.prepare.not_padding(targets_XF).bool()
    left_out_XF[:, : rows.offset] = True
    left_out_XF[:, 0] |= not reading.retrieves_first
    if config.retrieval_percentage < 1:
        left_out_XF |= torch.rand(targets_XF.shape, device=targets_XF.device) >= config.retrieval_percentage
    return targets_XF.masked_fill(left_out_XF, IGNORED)


def mean_cross_entropy(logits_MV: Tensor, targets_M: Tensor) -> Tensor:
    """The mean, in fp32; 0 for no target at all, where a plain mean would be NaN (numerics W9)."""
    return F.cross_entropy(logits_MV.float(), targets_M, reduction="sum") / max(len(targets_M), 1)


def weigh(task_loss: Tensor | None, retrieval_loss: Tensor | None, config: Any) -> Tensor | None:
    """task_weight * task + retrieval_weight * retrieval (paper Table 12); retrieval that stands alone counts whole."""
    if task_loss is None:
        return retrieval_loss
    if retrieval_loss is None:
        return config.task_weight * task_loss
    return config.task_weight * task_loss + config.retrieval_weight * retrieval_loss
