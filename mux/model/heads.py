"""Heads: masked LM with retrieval, and sequence classification.

R rows (instances), B groups, N slots, L positions, D width, V vocabulary, C classes; M labelled tokens, T retrieved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertPooler, BertPredictionHeadTransform
from transformers.utils import ModelOutput

from mux.model.config import MuxConfig
from mux.model.muxed import MuxModel, MuxPreTrainedModel

IGNORED = -100  # a label that asks for nothing


@dataclass
class MuxForPreTrainingOutput(ModelOutput):
    """`logits` are [R, L, V] without labels, [M, V] with: the labelled tokens in row-major order."""

    loss: Tensor | None = None
    task_loss: Tensor | None = None
    retrieval_loss: Tensor | None = None
    logits: Tensor | None = None
    retrieval_logits: Tensor | None = None  # [T, V], row-major over the [B, L] positions that were retrieved
    retrieval_targets: Tensor | None = None  # [T]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MuxForSequenceClassificationOutput(ModelOutput):
    loss: Tensor | None = None
    task_loss: Tensor | None = None
    retrieval_loss: Tensor | None = None
    logits: Tensor | None = None  # [R, C]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class LanguageModelHead(nn.Module):
    """Vocabulary logits through the word embeddings. At N = 1 BERT's own transform comes first; a demultiplexer
    has done that work already."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config.backbone()) if config.num_instances == 1 else nn.Identity()
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, states_MD: Tensor) -> Tensor:
        return self.decoder(self.transform(states_MD))


class MuxForPreTraining(MuxPreTrainedModel):
    """Masked language modelling and token retrieval (paper section 3.2 and 3.4), separately or weighed together."""

    _tied_weights_keys = {"head.decoder.weight": "mux.backbone.embeddings.word_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config)
        self.mux = MuxModel(config)
        self.head = LanguageModelHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.head.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.head.decoder = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        retrieval_labels: Tensor | None = None,
        retrieval_slots: Tensor | None = None,
        filler_rows: Tensor | None = None,
        **kwargs: Any,
    ) -> MuxForPreTrainingOutput:
        """`input_ids`, `labels`, `retrieval_labels` [R, L]; `retrieval_slots` [B, L].

        `labels`: the original token where it is to be predicted, -100 elsewhere. `retrieval_labels`: the tokens to be
        decoded at each place; one slot per position is decoded, the one `retrieval_slots` names (-1: none), drawn
        uniformly if it is not given (numerics section 1.6). Losses are means over the decoded tokens, 0 if there is
        none; with both, loss = (1 - r) task + r retrieval with r = `config.retrieval_rate`.
        """
        rows = len(input_ids)
        encoded = self.mux.encode(
            *self.mux.whole_groups(input_ids, attention_mask, token_type_ids, filler_rows=filler_rows), **kwargs)
        out = MuxForPreTrainingOutput(hidden_states=encoded.hidden_states, attentions=encoded.attentions)
        if labels is None and retrieval_labels is None:
            out.logits = self._all_logits(encoded.hidden_BLD, rows)
        if labels is not None:
            labelled_rows, positions = labels.ne(IGNORED).nonzero(as_tuple=True)
            out.logits = self.head(self.mux.demultiplex(encoded.hidden_BLD, labelled_rows, positions))
            out.task_loss = mean_cross_entropy(out.logits, labels[labelled_rows, positions])
        if retrieval_labels is not None:
            retrieved_rows, positions = self._retrieved(retrieval_labels, retrieval_slots)
            out.retrieval_targets = retrieval_labels[retrieved_rows, positions]
            out.retrieval_logits = self.head(self.mux.demultiplex(encoded.hidden_BLD, retrieved_rows, positions))
            out.retrieval_loss = mean_cross_entropy(out.retrieval_logits, out.retrieval_targets)
        out.loss = weigh(out.task_loss, out.retrieval_loss, self.config.retrieval_rate)
        return out

    def _all_logits(self, hidden_BLD: Tensor, rows: int) -> Tensor:
        length, device = hidden_BLD.shape[1], hidden_BLD.device
        every_row = torch.arange(rows, device=device).repeat_interleave(length)
        every_position = torch.arange(length, device=device).repeat(rows)
        return self.head(self.mux.demultiplex(hidden_BLD, every_row, every_position)).unflatten(0, (rows, length))

    def _retrieved(self, retrieval_labels: Tensor, slots_BL: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rows and positions [T] of the tokens to decode: one slot per group and position, without ignored labels."""
        rows, length = retrieval_labels.shape
        groups, N = -(-rows // self.mux.N), self.mux.N
        if slots_BL is None:
            slots_BL = torch.randint(N, (groups, length), device=retrieval_labels.device)
        group_of_BL = torch.arange(groups, device=retrieval_labels.device)[:, None]
        rows_BL = group_of_BL * N + slots_BL
        exists_BL = slots_BL.ge(0) & rows_BL.lt(rows)  # fillers of the last group are not decoded
        positions_BL = torch.arange(length, device=retrieval_labels.device).expand_as(rows_BL)
        wanted_BL = exists_BL & retrieval_labels[rows_BL.clamp(0, rows - 1), positions_BL].ne(IGNORED)
        return rows_BL[wanted_BL], positions_BL[wanted_BL]


class MuxForSequenceClassification(MuxPreTrainedModel):
    """Classification, or regression if `num_labels` is 1, of each instance from its first position."""

    _keys_to_ignore_on_load_unexpected = [r"^head\."]  # noqa: RUF012 - the language model head of pre-training

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config)
        self.num_labels = int(config.num_labels or 1)
        self.mux = MuxModel(config)
        # N = 1 is BertForSequenceClassification with its pooler; a demultiplexer takes the pooler's place.
        self.pooler = BertPooler(config.backbone()) if config.num_instances == 1 else None
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        filler_rows: Tensor | None = None,
        **kwargs: Any,
    ) -> MuxForSequenceClassificationOutput:
        """`input_ids` [R, L], any R >= 1; `labels` [R]. Rows are grouped N by N in order."""
        rows = len(input_ids)
        encoded = self.mux.encode(
            *self.mux.whole_groups(input_ids, attention_mask, token_type_ids, filler_rows=filler_rows), **kwargs)
        if self.pooler is not None:
            states_RD = self.pooler(encoded.hidden_BLD)
        else:
            every_row = torch.arange(rows, device=input_ids.device)
            states_RD = self.mux.demultiplex(encoded.hidden_BLD[:, :1], every_row, torch.zeros_like(every_row))
        logits_RC = self.classifier(self.dropout(states_RD))
        loss = None
        if labels is not None:
            regression = self.num_labels == 1
            loss = (F.mse_loss(logits_RC[:, 0].float(), labels.float()) if regression
                    else F.cross_entropy(logits_RC.float(), labels))
        return MuxForSequenceClassificationOutput(
            loss=loss, task_loss=loss, logits=logits_RC,
            hidden_states=encoded.hidden_states, attentions=encoded.attentions)


def mean_cross_entropy(logits_MV: Tensor, targets_M: Tensor) -> Tensor:
    """The mean, in fp32; 0 for no target at all, where a plain mean would be NaN (numerics W9)."""
    return F.cross_entropy(logits_MV.float(), targets_M, reduction="sum") / max(len(targets_M), 1)


def weigh(task_loss: Tensor | None, retrieval_loss: Tensor | None, rate: float) -> Tensor | None:
    """(1 - r) task + r retrieval (paper appendix, Table 12); a loss that stands alone counts whole."""
    if task_loss is None or retrieval_loss is None:
        return retrieval_loss if task_loss is None else task_loss
    return (1 - rate) * task_loss + rate * retrieval_loss
