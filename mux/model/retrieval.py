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
from mux.model.rows import Rows, moved

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
    whose token a position decodes (-1: none); default: drawn uniformly. The places are found where the mask, or the
    labels, and the slots are: on the CPU no device is waited for. Raises ValueError without a vocabulary head.
    """
    if head is None:
        raise ValueError("this model has no vocabulary head to retrieve tokens with; classifiers have one where "
                         "config.retrieval_weight > 0, a plain ELECTRA never")
    if labels_RL is None:
        tokens_XF, asked_XF = encoded.rows.input_ids, _asked_of_fed(mux, encoded.rows)
    else:
        tokens_XF = _placed(encoded.rows, labels_RL, IGNORED)
        asked_XF = tokens_XF.ne(IGNORED)
    N, positions = mux.N, asked_XF.shape[1]
    if slots is None:
        slots = torch.randint(N, (asked_XF.shape[0] // N, positions), device=asked_XF.device)
    slots_BF = F.pad(slots.to(asked_XF.device), (positions - slots.shape[1], 0), value=-1)
    rows_BF = torch.arange(len(slots_BF), device=slots_BF.device)[:, None] * N + slots_BF
    positions_BF = torch.arange(positions, device=slots_BF.device).expand_as(slots_BF)
    wanted_BF = slots_BF.ge(0) & asked_XF[rows_BF.clamp(min=0), positions_BF]
    device = encoded.hidden_BFD.device
    rows_T, positions_T = (moved(places_BF[wanted_BF], device) for places_BF in (rows_BF, positions_BF))
    out.retrieval_targets = moved(tokens_XF, device)[rows_T, positions_T]
    out.retrieval_logits = head(mux.demultiplex(encoded, rows_T, positions_T, for_vocabulary=True))
    out.retrieval_loss = mean_cross_entropy(out.retrieval_logits, out.retrieval_targets)


def _placed(rows: Rows, given_RL: Tensor, nothing: int) -> Tensor:
    """[X, F]: what the caller says of tokens, where the tokens are; `nothing` for prefixes and fillers."""
    count, positions = rows.input_ids.shape
    given_RF = F.pad(given_RL, (rows.offset, 0), value=nothing)[:, :positions]
    return F.pad(given_RF, (0, 0, 0, count - rows.given), value=nothing)


def _asked_of_fed(mux: MuxModel, rows: Rows) -> Tensor:
    """[X, F]: which ids that were fed are decoded: no padding, prefixes and fillers; as published: see `Reading`.

    It is where the caller's mask is. The published classifiers ask the ids, which are on the device, for padding.
    """
    config, everything = mux.config, mux.prepare.reading.retrieves_everything
    if config.mask_padding:
        asked_XF = _placed(rows, rows.given_mask.ne(0), False)
    elif everything:
        asked_XF = torch.ones(rows.input_ids.shape, dtype=torch.bool, device=rows.given_mask.device)
        asked_XF[rows.given :] = False
    else:  # from fillers, too
        asked_XF = mux.prepare.not_padding(rows.input_ids).bool()
        asked_XF[:, : rows.offset] = False
    asked_XF[:, 0] &= mux.prepare.retrieves_first
    if not everything and config.retrieval_percentage < 1:
        asked_XF &= torch.rand(asked_XF.shape, device=asked_XF.device) < config.retrieval_percentage
    return asked_XF


def mean_cross_entropy(logits_MV: Tensor, targets_M: Tensor) -> Tensor:
    """The mean over targets that are not IGNORED, in fp32; 0 for no target at all, where a plain mean would be NaN
    (numerics W9). Their number stays on the device."""
    with part("loss"):
        total = F.cross_entropy(logits_MV.float(), targets_M, ignore_index=IGNORED, reduction="sum")
        return total / targets_M.ne(IGNORED).sum().clamp(min=1)


def weigh(task_loss: Tensor | None, retrieval_loss: Tensor | None, config: Any) -> Tensor | None:
    """task_weight * task + retrieval_weight * retrieval (paper Table 12); retrieval that stands alone counts whole."""
    if task_loss is None:
        return retrieval_loss
    if retrieval_loss is None:
        return config.task_weight * task_loss
    return config.task_weight * task_loss + config.retrieval_weight * retrieval_loss
