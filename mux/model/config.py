"""The configuration of a MUX model, and how it describes its backbone to transformers."""

from __future__ import annotations

from typing import Any

from transformers import BertConfig, PreTrainedConfig

from mux.size import SIZES


class MuxConfig(PreTrainedConfig):
    """A BERT encoder that reads `num_instances` texts in one forward pass.

    `num_instances` = 1 is the plain encoder: no multiplexer, no demultiplexer, one embedding pass. The names of the
    encoder's own fields are those of `transformers.BertConfig`.
    """

    model_type = "mux"

    family: str = "bert"
    num_instances: int = 2  # N
    multiplexer: str = "gaussian"
    demultiplexer: str = "rsa"
    demultiplexer_layers: int = 3
    multiplexer_norm: float = 1.0  # L2 norm of each key vector v_i, as published (numerics D1)
    retrieval_rate: float = 0.0  # r: loss = (1 - r) task + r retrieval

    vocab_size: int = 30_522
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

    def backbone(self) -> BertConfig:
        """The configuration of the encoder inside: every field that BertConfig has too."""
        shared = {name: getattr(self, name) for name in BACKBONE_FIELDS}
        config = BertConfig(**shared)
        config._attn_implementation = self._attn_implementation
        return config


BACKBONE_FIELDS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
    "initializer_range", "layer_norm_eps", "pad_token_id",
)
