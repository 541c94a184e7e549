"""Pre-training: masked language modelling for BERT, replaced-token detection for ELECTRA, token retrieval for both.

R rows, L positions of a row, V vocabulary, M labelled tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.electra.modeling_electra import ElectraDiscriminatorPredictions
from transformers.utils import can_return_tuple

from mux.model.config import MuxConfig
from mux.model.muxed import Encoded, MuxModel, MuxPreTrainedModel
from mux.model.retrieval import (
    IGNORED,
    MuxOutput,
    VocabularyHead,
    mean_cross_entropy,
    retrieval_asked,
    retrieve,
    tied_decoder,
    weigh,
)
from mux.model.rows import check_shapes, moved


class MuxForPreTraining(MuxPreTrainedModel):
    """The family's task (masked or replaced tokens) and token retrieval (paper sections 3.2 and 3.4), separately or
    weighed together."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config)
        self.mux = MuxModel(config, "pretraining")
        self.head = None
        if config.family == "bert" or config.multiplexed:
            self.head = VocabularyHead(config)
            self._tied_weights_keys = tied_decoder(config)
        if config.family == "electra":
            self.discriminator = ElectraDiscriminatorPredictions(config.backbone())
        self.post_init()

    def get_output_embeddings(self) -> nn.Module | None:
        return None if self.head is None else self.head.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        assert self.head is not None
        self.head.decoder = value

    @can_return_tuple
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
    ) -> MuxOutput:
        """`input_ids`, `labels`, `retrieval_labels` [R, L]; `retrieval_slots` [B, L] or [B, F]; see `retrieve`.

        Logits and labels are those of TASKS. Tokens are retrieved if either retrieval argument is given, or with labels
        if `config.retrieval_weight` > 0. Losses are means over what is asked, 0 where nothing is. Under the published
        numerics the whole ELECTRA loss is multiplied by `config.discriminator_weight` (numerics section 1.7).
        """
        config: Any = self.config
        check_shapes(input_ids, labels=labels, retrieval_labels=retrieval_labels)
        retrieving = retrieval_asked(config, labels, retrieval_labels, retrieval_slots)
        rows = self.mux.prepare(input_ids, attention_mask, token_type_ids, filler_rows,
                                labelled=labels is not None or retrieving)
        encoded = self.mux.encode(rows, **kwargs)
        out = MuxOutput(hidden_states=encoded.hidden_states, attentions=encoded.attentions)
        if labels is not None or not retrieving:
            out.logits, out.task_loss = TASKS[config.family](self, encoded, labels)
        if retrieving:
            retrieve(out, self.mux, self.head, encoded, retrieval_labels, retrieval_slots)
        out.loss = weigh(out.task_loss, out.retrieval_loss, config)
        if out.loss is not None and config.family == "electra":
            out.loss = config.discriminator_weight * out.loss
        return out


def masked_tokens(model: MuxForPreTraining, encoded: Encoded, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Masked language modelling. `labels`: the original token where it is asked for, -100 elsewhere. Logits [R, L, V]
    without labels, with labels [M, V], the labelled tokens row by row. Labels on a GPU have to be waited for."""
    assert model.head is not None
    if labels is None:
        return model.head(model.mux.all_states(encoded, for_vocabulary=True)), None
    reached_RL = labels[:, : encoded.hidden_BFD.shape[1] - encoded.rows.offset]  # a published prefix cuts the end
    asked = reached_RL.ne(IGNORED).nonzero(as_tuple=True)
    device = encoded.hidden_BFD.device
    rows_M, positions_M, targets_M = (moved(of_M, device) for of_M in (*asked, reached_RL[asked]))
    states_MD = model.mux.demultiplex(encoded, rows_M, positions_M + encoded.rows.offset, for_vocabulary=True)
    logits_MV = model.head(states_MD)
    return logits_MV, mean_cross_entropy(logits_MV, targets_M)


def replaced_tokens(model: MuxForPreTraining, encoded: Encoded, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Replaced-token detection. `labels`: 1 where the token was replaced, 0 where not, -100 where nothing is asked.
    Logits [R, L]."""
    logits_RL = model.discriminator(model.mux.all_states(encoded))
    if labels is None:
        return logits_RL, None
    rows = encoded.rows
    reached = encoded.hidden_BFD.shape[1] - rows.offset
    labels_RL = moved(labels, logits_RL.device)[:, :reached]
    asked_RL = labels_RL.ne(IGNORED) & rows.attention_mask[: rows.given, rows.offset :].bool()
    losses_RL = F.binary_cross_entropy_with_logits(logits_RL[:, :reached].float(), labels_RL.float(), reduction="none")
    return logits_RL, losses_RL.masked_fill(~asked_RL, 0.0).sum() / asked_RL.sum().clamp(min=1)


Task = Callable[[MuxForPreTraining, Encoded, Tensor | None], tuple[Tensor, Tensor | None]]
TASKS: dict[str, Task] = {"bert": masked_tokens, "electra": replaced_tokens}


class MuxForMaskedLM(MuxForPreTraining):
    """What AutoModelForMaskedLM gives. Raises ValueError for ELECTRA, which has learnt no masked LM."""

    def __init__(self, config: MuxConfig) -> None:
        if config.family != "bert":
            raise ValueError(f"a model of the family {config.family} fills no masks: it was trained to detect replaced "
                             "tokens; load it with AutoModelForPreTraining")
        super().__init__(config)
