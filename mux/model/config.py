"""The configuration of a MUX model, and how it describes its backbone to transformers."""

from __future__ import annotations

from typing import Any

from transformers import BertConfig, ElectraConfig, PreTrainedConfig

from mux.size import SIZES

PRINCETON = "princeton"  # the numerics of the published models


class MuxConfig(PreTrainedConfig):
    """A BERT or ELECTRA encoder that reads `num_instances` texts in one forward pass.

    The names of the encoder's own fields are those of `transformers.BertConfig` and `ElectraConfig`. The fields under
    "departures" say where the numerics are better than the published ones; `compat = "princeton"` sets all of them
    back, except those that are given beside it. Raises ValueError for values that do not go together.
    """

    model_type = "mux"
    # Not predictions: what transformers' Trainer would gather of every evaluation batch beside the logits.
    keys_to_ignore_at_inference = (
        "task_loss", "retrieval_loss", "demultiplexed", "retrieval_logits", "retrieval_targets", "hidden_states",
        "attentions",
    )

    family: str = "bert"  # bert | electra
    num_instances: int = 2  # N
    multiplexer: str = "gaussian"  # see mux.model.multiplexer
    demultiplexer: str = "rsa"  # rsa | prefix
    demultiplexer_layers: int = 3
    multiplexer_norm: float = 1.0  # L2 norm of each key vector v_i, as published (numerics D1)
    multiplexer_overlap: float = 0.0  # binary: by how much of its width each block of ones reaches over the next
    learn_keys: bool = False  # train v_i; the published models never did
    task_weight: float = 1.0  # loss = task_weight * task + retrieval_weight * retrieval
    retrieval_weight: float = 0.0
    retrieval_percentage: float = 1.0  # share of the tokens that a retrieval loss inside fine-tuning decodes

    # Departures (design section 4, in its order). None: as `compat` says.
    compat: str | None = None  # None | "princeton"
    shared_demultiplexer: bool | None = None  # 1: one trunk with layer norms and residuals for all heads
    mask_padding: bool | None = None  # 2: padding adds nothing to the mux and is not attended
    segment_ids: bool | None = None  # 3: segment ids of sentence pairs are embedded
    exact_replacement: bool | None = None  # 4: replaced tokens: 15 %, never the original or a special token
    uncorrupted_retrieval: bool | None = None  # 5: retrieval decodes the tokens as they were before masking
    deterministic_fillers: bool | None = None  # 6: leftover slots hold the batch's first rows, not random ones
    own_special_ids: bool | None = None  # 7: position 0 stays; prefix markers are new rows of the vocabulary
    plain_single: bool | None = None  # N = 1 is the plain encoder: no key, no second embedding, no demultiplexer
    discriminator_weight: float | None = None  # of the whole ELECTRA loss: 1; published 50
    padded_length: int | None = None  # where padding is attended: of the rows in training; None: 128, as published

    vocab_size: int = 30_522
    embedding_size: int | None = None  # ELECTRA may embed narrower than it encodes; None: hidden_size
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    classifier_dropout: float | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.compat not in (None, PRINCETON):
            raise ValueError(f"compat is None or {PRINCETON!r}, not {self.compat!r}")
        for name in DEPARTURES:
            if getattr(self, name) is None:
                setattr(self, name, self.compat is None)
        if self.discriminator_weight is None:
            self.discriminator_weight = 1.0 if self.compat is None else 50.0
        if self.embedding_size is None:
            self.embedding_size = self.hidden_size
        self._check()
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family is {' or '.join(FAMILIES)}, not {self.family!r}")
        if self.num_instances < 1:
            raise ValueError(f"num_instances is at least 1, not {self.num_instances}")
        if not 0 <= self.retrieval_percentage <= 1:
            raise ValueError(f"retrieval_percentage is a share, 0 to 1, not {self.retrieval_percentage}")
        if self.family == "bert" and self.embedding_size != self.hidden_size:
            raise ValueError(f"BERT embeds as wide as it encodes: embedding_size = {self.embedding_size}, "
                             f"hidden_size = {self.hidden_size}")
        if self.demultiplexer_layers < (1 if self.shared_demultiplexer else 2):
            raise ValueError(f"demultiplexer_layers = {self.demultiplexer_layers} are too few; the published "
                             "demultiplexer has 2 or more")

    @classmethod
    def from_size(cls, size: str, **fields: Any) -> MuxConfig:
        """The configuration of a named size (paper Table 7), e.g. `from_size("BASE", num_instances=5)`.

        Raises ValueError for a size that Table 7 does not have.
        """
        if size not in SIZES:
            raise ValueError(f"no size {size!r}; there are {', '.join(SIZES)}")
        shape = SIZES[size]
        return cls(**{
            "num_hidden_layers": shape["layers"],
            "hidden_size": shape["hidden"],
            "num_attention_heads": shape["heads"],
            "intermediate_size": shape["intermediate"],
        } | fields)

    @property
    def multiplexed(self) -> bool:
        """Whether there is a multiplexer and a demultiplexer around the encoder."""
        return self.num_instances > 1 or not self.plain_single

    @property
    def prefix_length(self) -> int:
        """Tokens in front of every row: N markers, under published ids a [CLS] behind them (numerics 1.4)."""
        if not self.multiplexed or self.demultiplexer != "prefix":
            return 0
        return self.num_instances + (0 if self.own_special_ids else 1)

    @property
    def marker_ids(self) -> int:
        """Rows that prefix markers add to the vocabulary: one a slot, and the one between markers."""
        return self.num_instances + 1 if self.prefix_length and self.own_special_ids else 0

    def backbone(self) -> BertConfig | ElectraConfig:
        """The configuration of the encoder inside."""
        config = self._like(FAMILIES[self.family], {})
        config.vocab_size += self.marker_ids
        return config

    def layer(self) -> BertConfig:
        """Of an encoder layer as wide as the embeddings, for multiplexers that have some."""
        return self._like(BertConfig, {"hidden_size": self.embedding_size})

    def _like(self, kind: type, other: dict[str, Any]) -> Any:
        shared = {name: getattr(self, name) for name in BACKBONE_FIELDS if hasattr(kind, name)}
        config = kind(**shared | other)
        config.num_labels = self.num_labels
        config.output_hidden_states = self.output_hidden_states
        config._attn_implementation = self._attn_implementation
        return config


FAMILIES: dict[str, type] = {"bert": BertConfig, "electra": ElectraConfig}

DEPARTURES = (
    "shared_demultiplexer", "mask_padding", "segment_ids", "exact_replacement", "uncorrupted_retrieval",
    "deterministic_fillers", "own_special_ids", "plain_single",
)

BACKBONE_FIELDS = (
    "vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
    "initializer_range", "layer_norm_eps", "pad_token_id", "classifier_dropout",
)
