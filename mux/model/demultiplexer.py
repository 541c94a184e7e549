"""Demultiplexers: one hidden state in, the states of the instances that share it out (paper section 3.3).

B groups, N slots, L positions, D width; P hidden states (any muxed positions), M wanted (hidden state, row) pairs; K
keys, N or B*N; row r = b * N + i is instance i of group b. A demultiplexer is a class with
`keys_for(hidden_BLD) -> keys_KD`, `key_numbers(rows_M) -> keys_M` and `forward(keys_KD, wanted) -> demuxed_MD`, where
what is wanted may be rows and positions in place of M, and a line in a table below. Only what a head reads is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from mux.model.config import MuxConfig


class Wanted(Protocol):
    """States to be computed: hidden states, and which key reads which of them."""

    @property
    def hidden(self) -> Tensor:
        """The hidden states [..., D] that are read."""

    def joined(self, hidden_terms: Tensor, key_terms_KD: Tensor) -> Tensor:
        """The sum of what is made of each wanted hidden state and of its key."""


@dataclass(frozen=True)
class Pairs:
    """M states: hidden state `states_M` of `hidden` [P, D] as the row with key `keys_M` sees it."""

    hidden: Tensor
    states_M: Tensor
    keys_M: Tensor

    def joined(self, hidden_terms: Tensor, key_terms_KD: Tensor) -> Tensor:
        return picked(hidden_terms, self.states_M) + picked(key_terms_KD, self.keys_M)


@dataclass(frozen=True)
class EveryRow:
    """The first R rows of whole groups, each at every position of `hidden` [B, L, D]: states [R, L, D]."""

    hidden: Tensor
    N: int
    rows: int  # R

    def joined(self, hidden_terms: Tensor, key_terms_KD: Tensor) -> Tensor:
        key_terms_BN1D = key_terms_KD.unflatten(0, (-1, self.N))[:, :, None]  # B = 1 where all groups share their keys
        return (hidden_terms[:, None] + key_terms_BN1D).flatten(0, 1)[: self.rows]


def picked(rows_PD: Tensor, numbers_M: Tensor) -> Tensor:
    """rows_PD[numbers_M]. The gradient of indexing is added up in any order, so that no two trainings are equal to the
    last bit; that of an embedding in one order, and several times faster on a CPU."""
    return F.embedding(numbers_M, rows_PD)


class KeyedLinear(nn.Module):
    """W [k ; h] + b = W_k k + (W_h h + b): W_h h once per hidden state, W_k k once per key (performance trick 5)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.from_key = nn.Linear(width, width, bias=False)
        self.from_hidden = nn.Linear(width, width)

    def forward(self, keys_KD: Tensor, wanted: Wanted) -> Tensor:
        return wanted.joined(self.from_hidden(wanted.hidden), self.from_key(keys_KD))


class LearnedKeys:
    """RSA's keys: one learned vector k_i per slot (paper eq. 6)."""

    keys: nn.Parameter

    @torch.no_grad()
    def initialize(self) -> None:
        init.normal_(self.keys)

    def keys_for(self, hidden_BLD: Tensor) -> Tensor:
        return self.keys

    def key_numbers(self, rows_M: Tensor) -> Tensor:
        return rows_M.remainder(len(self.keys))


class PrefixKeys:
    """T-MUX's keys: the hidden states of a group at its prefix markers (numerics section 1.4)."""

    N: int

    def keys_for(self, hidden_BLD: Tensor) -> Tensor:
        return hidden_BLD[:, : self.N].flatten(0, 1)

    def key_numbers(self, rows_M: Tensor) -> Tensor:
        return rows_M


# --- one trunk for all heads ----------------------------------------------------------------------------------
class Trunk(KeyedLinear):
    """An MLP over [k_i ; h], each layer with layer norm and all but the first with a residual; every head reads it
    (design section 4, departure 1)."""

    def __init__(self, config: MuxConfig) -> None:
        width, layers = config.hidden_size, config.demultiplexer_layers
        super().__init__(width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=config.layer_norm_eps) for _ in range(layers))
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, keys_KD: Tensor, wanted: Wanted) -> Tensor:
        x_MD = self.norms[0](self.activation(super().forward(keys_KD, wanted)))
        for dense, norm in zip(self.layers, self.norms[1:], strict=True):
            x_MD = norm(x_MD + self.activation(dense(x_MD)))
        return x_MD

    def for_vocabulary(self, keys_KD: Tensor, wanted: Wanted) -> Tensor:
        """What the vocabulary head reads; here the same."""
        return self.forward(keys_KD, wanted)


class RSA(LearnedKeys, Trunk):
    """The paper's RSA demultiplexer (section 3.3)."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config)
        self.keys = nn.Parameter(torch.empty(config.num_instances, config.hidden_size))


class Prefix(PrefixKeys, Trunk):
    """T-MUX's demultiplexer: RSA with keys that the encoder computes from a prefix."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config)
        self.N = config.num_instances


# --- the published heads, each with a rule of its own (numerics sections 1.3, 1.4, D4) -------------------------
class PublishedRSA(LearnedKeys, KeyedLinear):
    """Task heads: dropout after each layer, residuals, one more layer with layer norm. The vocabulary head: BERT reads
    two layers with layer norms and no residuals, ELECTRA all n with both; then a last layer of its own."""

    def __init__(self, config: MuxConfig) -> None:
        width, electra = config.hidden_size, config.family == "electra"
        super().__init__(width)
        self.keys = nn.Parameter(torch.empty(config.num_instances, width))
        self.task_layers = config.demultiplexer_layers - 1  # layers of the task heads before the last
        self.vocabulary_layers = config.demultiplexer_layers if electra else 2
        self.residual = electra  # of the vocabulary head
        count = max(self.task_layers, self.vocabulary_layers)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(count - 1))
        self.norms = nn.ModuleList(_norm(config) for _ in range(self.vocabulary_layers))
        self.task_layer, self.task_norm = nn.Linear(width, width), _norm(config)
        self.vocabulary_layer, self.vocabulary_norm = nn.Linear(width, width), _norm(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, keys_KD: Tensor, wanted: Wanted) -> Tensor:
        x_MD = self.dropout(self.activation(super().forward(keys_KD, wanted)))
        for dense in self.layers[: self.task_layers - 1]:
            x_MD = self.dropout(self.activation(dense(x_MD))) + x_MD
        return self.task_norm(self.activation(self.task_layer(x_MD))) + x_MD

    def for_vocabulary(self, keys_KD: Tensor, wanted: Wanted) -> Tensor:
        x_MD = self.norms[0](self.activation(super().forward(keys_KD, wanted)))
        denses, norms = self.layers[: self.vocabulary_layers - 1], self.norms[1:]
        for dense, norm in zip([*denses, self.vocabulary_layer], [*norms, self.vocabulary_norm], strict=True):
            y_MD = norm(self.activation(dense(x_MD)))
            x_MD = y_MD + x_MD if self.residual else y_MD
        return x_MD


class PublishedPrefix(PrefixKeys, nn.Module):
    """One layer with layer norm, another for the vocabulary head."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__()
        self.N = config.num_instances
        self.task, self.vocabulary = PrefixLayer(config), PrefixLayer(config)

    def forward(self, keys_KD: Tensor, wanted: Wanted) -> Tensor:
        return self.task(keys_KD, wanted)

    def for_vocabulary(self, keys_KD: Tensor, wanted: Wanted) -> Tensor:
        return self.vocabulary(keys_KD, wanted)


class PrefixLayer(KeyedLinear):
    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config.hidden_size)
        self.norm = _norm(config)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, keys_KD: Tensor, wanted: Wanted) -> Tensor:
        return self.norm(self.activation(super().forward(keys_KD, wanted)))


def _norm(config: MuxConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


SHARED: dict[str, Any] = {"rsa": RSA, "prefix": Prefix}
PUBLISHED: dict[str, Any] = {"rsa": PublishedRSA, "prefix": PublishedPrefix}
