"""Multiplexers: N embedded instances in, one sequence out (paper section 3.1).

B groups, N slots, L positions, D width. A multiplexer is a module with
`forward(embedded_BNLD, real_BNL) -> muxed_BLD`; `real` is False where an instance is padding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init

from mux.model.config import MuxConfig


class Gaussian(nn.Module):
    """x = 1/N sum_i e_i * v_i with fixed random key vectors v_i (paper eq. 1; numerics section 1.2).

    Padding adds nothing to the sum while the divisor stays N, so a group's result does not depend on the length
    to which its rows were padded (design section 4, departure 2).
    """

    def __init__(self, config: MuxConfig) -> None:
        super().__init__()
        self.norm = config.multiplexer_norm
        # A buffer: saved with the weights, never trained.
        self.keys = nn.Buffer(torch.empty(config.num_instances, config.hidden_size))

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw v_i from N(0, I), then scale each to its L2 norm."""
        init.normal_(self.keys)
        if not getattr(self.keys, "_is_hf_initialized", False):
            self.keys.mul_(self.norm / self.keys.norm(dim=-1, keepdim=True))

    def forward(self, embedded_BNLD: Tensor, real_BNL: Tensor) -> Tensor:
        dtype = embedded_BNLD.dtype  # half precision training leaves buffers in fp32
        weights_BNL = real_BNL.to(dtype) / embedded_BNLD.shape[1]
        # Not as one einsum, which copies its operands for a matrix product that this is none: 8 times slower on a CPU.
        # In this order the backward pass keeps the keys and the weights, and nothing of size [B, N, L, D].
        return (embedded_BNLD * self.keys.to(dtype)[:, None] * weights_BNL[..., None]).sum(1)


MULTIPLEXERS = {"gaussian": Gaussian}
