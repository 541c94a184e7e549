"""Demultiplexers: one hidden state in, the states of the instances that share it out (paper section 3.3).

P hidden states (any muxed positions), M wanted (state, slot) pairs, N slots, D width. A demultiplexer is a module with
`forward(hidden_PD, states_M, slots_M) -> demuxed_MD`: only what a head reads is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from mux.model.config import MuxConfig


class RSA(nn.Module):
    """The paper's RSA demultiplexer: an MLP over [k_i ; h] with a learned key k_i per slot (paper eq. 6).

    One trunk serves every head, each layer with layer norm and all but the first with a residual (design section 4,
    departure 1). The first layer is split, W [k_i ; h] = W_k k_i + W_h h, so that W_h h is computed once per muxed
    position and W_k k_i once per slot (performance section 2, trick 5).
    """

    def __init__(self, config: MuxConfig) -> None:
        super().__init__()
        width, layers = config.hidden_size, config.demultiplexer_layers
        self.keys = nn.Parameter(torch.empty(config.num_instances, width))
        self.from_key = nn.Linear(width, width, bias=False)
        self.from_hidden = nn.Linear(width, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=config.layer_norm_eps) for _ in range(layers))
        self.activation = ACT2FN[config.hidden_act]

    @torch.no_grad()
    def initialize(self) -> None:
        init.normal_(self.keys)

    def forward(self, hidden_PD: Tensor, states_M: Tensor, slots_M: Tensor) -> Tensor:
        key_terms_ND = self.from_key(self.keys)
        hidden_terms_PD = self.from_hidden(hidden_PD)
        x_MD = self.norms[0](self.activation(hidden_terms_PD[states_M] + key_terms_ND[slots_M]))
        for dense, norm in zip(self.layers, self.norms[1:], strict=True):
            x_MD = norm(x_MD + self.activation(dense(x_MD)))
        return x_MD


DEMULTIPLEXERS = {"rsa": RSA}
