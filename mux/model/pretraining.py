"""Pre-training heads: masked language modelling for BERT, replaced-token detection for ELECTRA, retrieval for both.

R rows, B groups, L positions of a row, F with its prefix, V vocabulary, M labelled tokens, T retrieved tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.electra.modeling_electra import ElectraDiscriminatorPredictions
from transformers.utils import ModelOutput

from mux.model.config import MuxConfig
from mux.model.muxed import Encoded, MuxModel, MuxPreTrainedModel
from mux.model.retrieval import (
    IGNORED,
    VocabularyHead,
    mean_cross_entropy,
    retrieval_asked,
    retrieve,
    tied_decoder,
    weigh,
)


@dataclass
class MuxForPreTrainingOutput(ModelOutput):
    """`logits`: BERT [R, L, V] without labels, with labels [M, V], the labelled tokens row by row; ELECTRA [R, L]."""

    loss: Tensor | None = None
    task_loss: Tensor | None = None
    retrieval_loss: Tensor | None = None
    logits: Tensor | None = None
    retrieval_logits: Tensor | None = None  # [T, V]
    retrieval_targets: Tensor | None = None  # [T]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class MaskedTokens:
    """Masked language modelling: `labels` hold the original token where it is asked for, -100 elsewhere."""

    def __init__(self, model: MuxForPreTraining) -> None:
        self.mux, self.head = model.mux, model.head

    def __call__(self, encoded: Encoded, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if labels is None:
            return self.head(self.mux.all_states(encoded, for_vocabulary=True)), None
        reached_RL = labels[:, : encoded.hidden_BFD.shape[1] - encoded.rows.offset]  # a published prefix cuts the end
        rows_M, positions_M = reached_RL.ne(IGNORED).nonzero(as_tuple=True)
        states_MD = self.mux.demultiplex(encoded, rows_M, positions_M + encoded.rows.offset, for_vocabulary=True)
        logits_MV = self.head(states_MD)
        return logits_MV, mean_cross_entropy(logits_MV, reached_RL[rows_M, positions_M])


class ReplacedTokens:
    """Replaced-token detection: `labels` 1 where the token was replaced, 0 where not, -100 where nothing is asked."""

    def __init__(self, model: MuxForPreTraining) -> None:
        self.mux, self.head = model.mux, model.discriminator

    def __call__(self, encoded: Encoded, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        logits_RL = self.head(self.mux.all_states(encoded))
        if labels is None:
            return logits_RL, None
        rows = encoded.rows
        reached = encoded.hidden_BFD.shape[1] - rows.offset
        real_RL = rows.attention_mask[: rows.given, rows.offset :].bool()
        asked_RL = labels[:, :reached].ne(IGNORED) & real_RL
        asked_M, labels_M = logits_RL[:, :reached][asked_RL], labels[:, :reached][asked_RL]
        total = F.binary_cross_entropy_with_logits(asked_M.float(), labels_M.float(), reduction="sum")
        return logits_RL, total / max(len(labels_M), 1)


class MuxForPreTraining(MuxPreTrainedModel):
    """The family's task (masked or replaced tokens) and token retrieval (paper sections 3.2 and 3.4), separately or
    weighed together."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config)
        self.mux = MuxModel(config, "pretraining")
        if config.family == "bert" or config.multiplexed:
            self.head = VocabularyHead(config)
            self._tied_weights_keys = tied_decoder(config)
        if config.family == "electra":
            self.discriminator = ElectraDiscriminatorPredictions(config.backbone())
        self.task = TASKS[config.family](self)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module | None:
        return self.head.decoder if hasattr(self, "head") else None

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
        """`input_ids`, `labels`, `retrieval_labels` [R, L]; `retrieval_slots` [B, L] or [B, F]; see `retrieve`.

        Tokens are retrieved if either retrieval argument is given, or with labels if `config.retrieval_weight` > 0.
        Losses are means over what is asked, 0 where nothing is. Under the published numerics the whole ELECTRA loss is
        multiplied by `config.discriminator_weight` (numerics section 1.7).
        """
        config: Any = self.config
        retrieving = retrieval_asked(config, labels, retrieval_labels, retrieval_slots)
        rows = self.mux.prepare(input_ids, attention_mask, token_type_ids, filler_rows,
                                labelled=labels is not None or retrieving)
        encoded = self.mux.encode(rows, **kwargs)
        out = MuxForPreTrainingOutput(hidden_states=encoded.hidden_states, attentions=encoded.attentions)
        if labels is not None or not retrieving:
            out.logits, out.task_loss = self.task(encoded, labels)
        if retrieving:
            retrieved = retrieve(self.mux, self.head, encoded, retrieval_labels, retrieval_slots)
            out.retrieval_logits, out.retrieval_targets = retrieved.logits, retrieved.targets
            out.retrieval_loss = retrieved.loss
        out.loss = weigh(out.task_loss, out.retrieval_loss, config)
        if out.loss is not None and config.family == "electra":
            out.loss = config.discriminator_weight * out.loss
        return out


TASKS: dict[str, Any] = {"bert": MaskedTokens, "electra": ReplacedTokens}


class MuxForMaskedLM(MuxForPreTraining):
    """What AutoModelForMaskedLM gives. Raises ValueError for ELECTRA, which has learnt no masked LM."""

    def __init__(self, config: MuxConfig) -> None:
        if config.family != "bert":
            raise ValueError(f"a model of the family {config.family} fills no masks: it was trained to detect replaced "
                             "tokens; load it with AutoModelForPreTraining")
        super().__init__(config)
