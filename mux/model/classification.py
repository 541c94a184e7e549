"""Task heads: classification and regression of whole instances, and classification of their tokens.

R rows, L positions, D width, C classes, T retrieved tokens.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertPooler
from transformers.models.electra.modeling_electra import ElectraClassificationHead
from transformers.utils import can_return_tuple

from mux.model.config import PRINCETON, MuxConfig
from mux.model.muxed import Encoded, MuxModel, MuxPreTrainedModel
from mux.model.parts import part
from mux.model.retrieval import (
    MuxOutput,
    VocabularyHead,
    mean_cross_entropy,
    retrieval_asked,
    retrieve,
    tied_decoder,
    weigh,
)
from mux.model.rows import check_shapes, moved


class LinearClassifier(nn.Linear):
    """Dropout, then a linear layer."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config.hidden_size, int(config.num_labels or 1))
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(self.dropout(states))


class ElectraClassifier(ElectraClassificationHead):
    """ELECTRA's own head for sequences, which reads position 0 of [R, L, D]."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config.backbone())

    def forward(self, features: Tensor, **kwargs: Any) -> Tensor:
        return super().forward(features[:, None])


SEQUENCE_CLASSIFIERS: dict[str, Any] = {"bert": LinearClassifier, "electra": ElectraClassifier}


def squared_error(logits_RC: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(logits_RC, labels.float().reshape(logits_RC.shape))


def classes_loss(logits_RC: Tensor, labels_RC: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits_RC, labels_RC.float())


# By `config.problem_type`, as transformers names and defines them.
LOSSES = {
    "regression": squared_error,
    "single_label_classification": mean_cross_entropy,
    "multi_label_classification": classes_loss,
}


class MuxClassifier(MuxPreTrainedModel):
    """What the two kinds of classifiers share: encode, classify, and a retrieval loss beside the task's if asked."""

    _keys_to_ignore_on_load_unexpected = [r"^head\.", r"^discriminator\."]  # noqa: RUF012 - heads of pre-training

    def __init__(self, config: MuxConfig, reads: str, classifier: nn.Module) -> None:
        super().__init__(config)
        self.num_labels = int(config.num_labels or 1)
        self.mux = MuxModel(config, reads)
        self.classifier = classifier
        self.head = None
        if config.multiplexed and (config.retrieval_weight > 0 or config.compat == PRINCETON):
            self.head = VocabularyHead(config)
            self._tied_weights_keys = tied_decoder(config)

    @property
    def read_positions(self) -> int | None:
        """How many positions are read, from the first on; None: all."""
        return None

    def states(self, encoded: Encoded) -> Tensor:
        """What the classifier reads."""
        raise NotImplementedError

    def task_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError

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
        """`input_ids` [R, L], any R >= 1, grouped N by N in order; `labels` [R], of tokens [R, L] with -100 for none.

        Tokens are retrieved if either retrieval argument is given, or with labels if `config.retrieval_weight` > 0
        (T-MUX fine-tunes so); see `mux.model.retrieval.retrieve`, also for its error.
        """
        rows = self.mux.prepare(input_ids, attention_mask, token_type_ids, filler_rows)
        retrieving = retrieval_asked(self.config, labels, retrieval_labels, retrieval_slots)
        encoded = self.mux.encode(rows, None if retrieving else self.read_positions, **kwargs)
        states = self.states(encoded)
        with part("head"):
            logits = self.classifier(states)
        out = MuxOutput(logits=logits, demultiplexed=states, hidden_states=encoded.hidden_states,
                        attentions=encoded.attentions)
        if labels is not None:
            out.task_loss = self.task_loss(logits, moved(labels, logits.device))
        if retrieving:
            retrieve(out, self.mux, self.head, encoded, retrieval_labels, retrieval_slots)
        out.loss = weigh(out.task_loss, out.retrieval_loss, self.config)
        return out


class MuxForSequenceClassification(MuxClassifier):
    """Classification, or regression if `num_labels` is 1, of each instance from its first position."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config, "sequence", SEQUENCE_CLASSIFIERS[config.family](config))
        # The plain encoder is BertForSequenceClassification with its pooler; a demultiplexer takes the pooler's place.
        pooled = config.family == "bert" and not config.multiplexed
        self.pooler = BertPooler(config.backbone()) if pooled else None
        self.post_init()

    @property
    def read_positions(self) -> int:
        return self.mux.first_position + 1

    def states(self, encoded: Encoded) -> Tensor:
        return self.mux.first_states(encoded) if self.pooler is None else self.pooler(encoded.hidden_BFD)

    def task_loss(self, logits_RC: Tensor, labels: Tensor) -> Tensor:
        """`labels` [R] of classes, [R] or [R, C] of numbers, [R, C] of several classes at once: see LOSSES."""
        kind = self.config.problem_type or ("regression" if self.num_labels == 1 else "single_label_classification")
        return LOSSES[kind](logits_RC.float(), labels)


class MuxForTokenClassification(MuxClassifier):
    """Classification of every token of each instance."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config, "tokens", LinearClassifier(config))
        self.post_init()

    def states(self, encoded: Encoded) -> Tensor:
        return self.mux.all_states(encoded)

    def task_loss(self, logits_RLC: Tensor, labels_RL: Tensor) -> Tensor:
        check_shapes(logits_RLC[..., 0], labels=labels_RL)
        return mean_cross_entropy(logits_RLC.flatten(0, 1), labels_RL.flatten())
