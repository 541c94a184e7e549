"""Token retrieval: decode which token each instance of a group had at a position (paper section 3.2; numerics 1.6).

R rows, B groups, N slots, L positions of a row, F with its prefix, X = B*N rows with fillers, V vocabulary, T retrieved
tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform
from transformers.utils import ModelOutput

from mux.model.config import MuxConfig
from mux.model.muxed import Encoded, MuxModel
from mux.model.parts import part

IGNORED = -100  # a label that asks for nothing


@dataclass
class MuxOutput(ModelOutput):
    """What a head answers. `hidden_states` and `attentions` are the backbone's, per layer, of the muxed sequence."""

    loss: Tensor | None = None
    task_loss: Tensor | None = None
    retrieval_loss: Tensor | None = None
    logits: Tensor | None = None  # see the head
    demultiplexed: Tensor | None = None  # [R, D] or [R, L, D]: what a classifier read
    retrieval_logits: Tensor | None = None  # [T, V], row-major over the [B, F] positions that were retrieved
    retrieval_targets: Tensor | None = None  # [T]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class VocabularyHead(nn.Module):
    """Vocabulary logits. The plain BERT encoder has its own transform first; a demultiplexer does that work itself."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__()
        self.markers = config.marker_ids
        self.transform = nn.Identity() if config.multiplexed else BertPredictionHeadTransform(config.backbone())
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size + self.markers)

    def forward(self, states: Tensor) -> Tensor:
        """[..., D] -> [..., V]; prefix markers are no answers."""
        with part("head"):
            logits = self.decoder(self.transform(states))
        return logits[..., : logits.shape[-1] - self.markers]


def tied_decoder(config: MuxConfig) -> dict[str, str]:
    """BERT's decoder is its word embeddings; ELECTRA's is a matrix of its own, as published (numerics section 1.5)."""
    return {"head.decoder.weight": "mux.backbone.embeddings.word_embeddings.weight"} if config.family == "bert" else {}


def retrieval_asked(config: Any, labels: Tensor | None, *questions: Tensor | None) -> bool:
    """Whether a head retrieves: where any of its retrieval arguments is given, or with labels if the loss counts."""
    return any(question is not None for question in questions) or (labels is not None and config.retrieval_weight > 0)


def retrieve(out: MuxOutput, mux: MuxModel, head: VocabularyHead | None, encoded: Encoded, labels_RL: Tensor | None,
             slots: Tensor | None) -> None:
    """Decode one token per position of each group; `out` gets the logits, the targets and the loss.

    `labels_RL`: the tokens to decode, -100 for none; default: the ids that were fed. `slots` [B, L] or [B, F] says
    whose token a position decodes (-1: none); default: drawn uniformly. Raises ValueError without a vocabulary head.
    """
    if head is None:
        raise ValueError("this model has no vocabulary head to retrieve tokens with; classifiers have one where "
                         "config.retrieval_weight > 0, a plain ELECTRA never")
    targets_XF = _fed_targets(mux, encoded) if labels_RL is None else _placed(encoded, labels_RL)
    N, positions = mux.N, targets_XF.shape[1]
    if slots is None:
        slots = torch.randint(N, (targets_XF.shape[0] // N, positions), device=targets_XF.device)
    slots_BF = F.pad(slots, (positions - slots.shape[1], 0), value=-1)
    rows_BF = torch.arange(len(slots_BF), device=slots_BF.device)[:, None] * N + slots_BF
    positions_BF = torch.arange(positions, device=slots_BF.device).expand_as(slots_BF)
    wanted_BF = slots_BF.ge(0) & targets_XF[rows_BF.clamp(min=0), positions_BF].ne(IGNORED)
    rows_T, positions_T = rows_BF[wanted_BF], positions_BF[wanted_BF]
    out.retrieval_targets = targets_XF[rows_T, positions_T]
    out.retrieval_logits = head(mux.demultiplex(encoded, rows_T, positions_T, for_vocabulary=True))
    out.retrieval_loss = mean_cross_entropy(out.retrieval_logits, out.retrieval_targets)


def _placed(encoded: Encoded, labels_RL: Tensor) -> Tensor:
    """[X, F]: the caller's labels where their tokens are; nothing is asked of prefixes and fillers."""
    rows = encoded.rows
    count, positions = rows.input_ids.shape
    labels_RF = F.pad(labels_RL, (rows.offset, 0), value=IGNORED)[:, :positions]
    return F.pad(labels_RF, (0, 0, 0, count - rows.given), value=IGNORED)


def _fed_targets(mux: MuxModel, encoded: Encoded) -> Tensor:
    """[X, F]: the ids that were fed, without padding, prefixes and fillers; as published: see `Reading`."""
    rows, config, reading = encoded.rows, mux.config, mux.prepare.reading
    ids_XF, everything = rows.input_ids, reading.retrieves_everything
    left_out_XF = torch.zeros_like(ids_XF, dtype=torch.bool)
    if config.mask_padding:
        left_out_XF |= rows.attention_mask.eq(0)
    elif not everything:
        left_out_XF |= ~mux.prepare.not_padding(ids_XF).bool()
    if config.mask_padding or everything:  # the published classifiers retrieve from fillers, too
        left_out_XF[rows.given :] = True
    if config.mask_padding or not everything:
        left_out_XF[:, : rows.offset] = True
    left_out_XF[:, 0] |= not mux.prepare.retrieves_first
    if not everything and config.retrieval_percentage < 1:
        left_out_XF |= torch.rand(ids_XF.shape, device=ids_XF.device) >= config.retrieval_percentage
    return ids_XF.masked_fill(left_out_XF, IGNORED)


def mean_cross_entropy(logits_MV: Tensor, targets_M: Tensor) -> Tensor:
    """The mean, in fp32; 0 for no target at all, where a plain mean would be NaN (numerics W9)."""
    with part("loss"):
        return F.cross_entropy(logits_MV.float(), targets_M, reduction="sum") / max(len(targets_M), 1)


def weigh(task_loss: Tensor | None, retrieval_loss: Tensor | None, config: Any) -> Tensor | None:
    """task_weight * task + retrieval_weight * retrieval (paper Table 12); retrieval that stands alone counts whole."""
    if task_loss is None:
        return retrieval_loss
    if retrieval_loss is None:
        return config.task_weight * task_loss
    return config.task_weight * task_loss + config.retrieval_weight * retrieval_loss
