"""Multiplexers: N embedded instances in, one sequence out (paper section 3.1; numerics section 1.2).

B groups, N slots, L positions, E embedding width. A multiplexer is a class with `draw_keys() -> keys` and
`forward(embedded_BNLE, padding) -> muxed_BLE`, and a line in MULTIPLEXERS.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertLayer

from mux.model.config import MuxConfig


@dataclass(frozen=True)
class Padding:
    """Which tokens of the groups are real, as the places that may ask shall see it: bool [B, N, L].

    All three are the same by default. The published models count padding in the mix, and only their sequence
    classifiers hide it where instances attend to each other (numerics sections 1.1 and 1.2).
    """

    counted_BNL: Tensor  # enters the sum over slots
    within_BNL: Tensor  # is seen by attention between the positions of an instance
    across_BNL: Tensor  # is seen by attention between the slots of a position


class Multiplexer(nn.Module):
    """Keys of the slots: a buffer, saved with the weights and never trained, unless `config.learn_keys`."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__()
        self.config = config
        self.N, self.width = config.num_instances, int(config.embedding_size or config.hidden_size)
        drawn = torch.empty(self.shape)
        self.keys = nn.Parameter(drawn) if config.learn_keys else nn.Buffer(drawn)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.N, self.width

    @torch.no_grad()
    def initialize(self) -> None:
        init.copy_(self.keys, self.draw_keys())

    def draw_keys(self) -> Tensor:
        raise NotImplementedError

    def block(self) -> int:
        """The width that a slot has for itself. Raises ValueError if there is none."""
        if self.width < self.N:
            raise ValueError(f"{self.config.multiplexer} keys share the width out: {self.width} is too little for "
                             f"N = {self.N}")
        return self.width // self.N


def weighted(embedded_BNLE: Tensor, padding: Padding, divisor: float) -> Tensor:
    """The weight [B, N, L, 1] of each token in a sum over slots: 1 / divisor, 0 for padding that does not count.

    The divisor does not shrink with padding, so a group's result does not depend on the length to which its rows
    were padded (design section 4, departure 2).
    """
    return (padding.counted_BNL.to(embedded_BNLE.dtype) / divisor)[..., None]


class Gaussian(Multiplexer):
    """x = 1/N sum_i e_i * v_i with random key vectors v_i (paper eq. 1)."""

    def draw_keys(self) -> Tensor:
        """v_i from N(0, I), each scaled to its L2 norm."""
        drawn = torch.randn_like(self.keys)
        return drawn * (self.config.multiplexer_norm / drawn.norm(dim=-1, keepdim=True))

    def forward(self, embedded_BNLE: Tensor, padding: Padding) -> Tensor:
        # Not as one einsum, which copies its operands for a matrix product that this is none: 8 times slower on a CPU.
        # In this order the backward pass keeps the keys and the weights, and nothing of size [B, N, L, E].
        keys_N1E = self.keys.to(embedded_BNLE.dtype)[:, None]  # half precision training leaves buffers in fp32
        return (embedded_BNLE * keys_N1E * weighted(embedded_BNLE, padding, self.N)).sum(1)


class Binary(Gaussian):
    """As Gaussian with keys of ones and zeros: each slot has its own block of the width (T-MUX's binary masks).

    Every block reaches over its right neighbour by `multiplexer_overlap` of its width.
    """

    def draw_keys(self) -> Tensor:
        block = self.block()
        first_N1 = torch.arange(self.N, device=self.keys.device)[:, None] * block
        place_E = torch.arange(self.width, device=self.keys.device)
        last_N1 = first_N1 + block * (1 + self.config.multiplexer_overlap)
        return ((place_E >= first_N1) & (place_E < last_N1)).to(self.keys.dtype)


class Orthogonal(Multiplexer):
    """x = 1/sqrt(N) sum_i Q_i e_i with independent random orthogonal matrices Q_i."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.N, self.width, self.width

    def draw_keys(self) -> Tensor:
        return torch.stack([self.rotation() for _ in range(self.N)])

    def rotation(self) -> Tensor:
        """[E, E], of the Haar measure."""
        return nn.init.orthogonal_(torch.empty(self.width, self.width)).to(self.keys.device)

    def forward(self, embedded_BNLE: Tensor, padding: Padding) -> Tensor:
        weighted_BNLE = embedded_BNLE * weighted(embedded_BNLE, padding, self.N**0.5)
        return torch.einsum("nde,bnle->bld", self.keys.to(embedded_BNLE.dtype), weighted_BNLE)


class OrthogonalLowRank(Orthogonal):
    """Orthogonal with Q_i = U H_i^T of rank E // N: H_i is H with all but its i-th block of columns set to 0."""

    def draw_keys(self) -> Tensor:
        block = self.block()
        first, second = self.rotation(), self.rotation()
        keys_NEE = torch.zeros(self.shape, device=self.keys.device)
        for slot in range(self.N):
            columns = slice(slot * block, (slot + 1) * block)
            keys_NEE[slot] = first[:, columns] @ second[:, columns].T
        return keys_NEE


class Attending(Gaussian):
    """Gaussian keys, and an encoder layer in which the tokens of an instance see each other."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config)
        self.layer_config = config.layer()
        self.instance_layer = BertLayer(self.layer_config)

    def attend(self, layer: BertLayer, states_KQE: Tensor, real_KQ: Tensor) -> Tensor:
        """One encoder layer over K sequences. One that is padding throughout attends as if it were not: its result
        does not count, and a softmax over nothing would be NaN."""
        real_KQ = real_KQ | ~real_KQ.any(-1, keepdim=True)
        return layer(states_KQE, create_bidirectional_mask(self.layer_config, states_KQE, real_KQ))


class Contextual(Attending):
    """a = T1(e) + e in each instance, g = a * v_i, z = T2(g) + g over the slots of each position; x = 1/N sum_i z_i.

    T1 and T2 are encoder layers (paper eq. 4 and 5); the residuals around them are the published code's (numerics D3).
    """

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config)
        self.slot_layer = BertLayer(self.layer_config)

    def forward(self, embedded_BNLE: Tensor, padding: Padding) -> Tensor:
        groups, _, length, _ = embedded_BNLE.shape
        rows_RLE = embedded_BNLE.flatten(0, 1)
        context_RLE = self.attend(self.instance_layer, rows_RLE, padding.within_BNL.flatten(0, 1)) + rows_RLE
        keyed_BNLE = context_RLE.unflatten(0, (groups, self.N)) * self.keys.to(embedded_BNLE.dtype)[:, None]
        keyed_PNE = keyed_BNLE.transpose(1, 2).flatten(0, 1)
        mixed_PNE = self.attend(self.slot_layer, keyed_PNE, padding.across_BNL.transpose(1, 2).flatten(0, 1))
        mixed_BNLE = (mixed_PNE + keyed_PNE).unflatten(0, (groups, length)).transpose(1, 2)
        return (mixed_BNLE * weighted(embedded_BNLE, padding, self.N)).sum(1)


class ContextualV1(Attending):
    """The older contextual multiplexer: g = e * v_i, x = 1/N sum_i T(g_i) + LN(gelu(W 1/N sum_i g_i)).

    Published for replaced-token detection only, where T sees padding (numerics section 1.2): it sees what counts.
    """

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config)
        self.mean_dense = nn.Linear(self.width, self.width)
        self.mean_norm = nn.LayerNorm(self.width, eps=1e-5)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, embedded_BNLE: Tensor, padding: Padding) -> Tensor:
        weights_BNL1 = weighted(embedded_BNLE, padding, self.N)
        keyed_BNLE = embedded_BNLE * self.keys.to(embedded_BNLE.dtype)[:, None]
        context_RLE = self.attend(
            self.instance_layer, keyed_BNLE.flatten(0, 1), padding.counted_BNL.flatten(0, 1))
        context_BLE = (context_RLE.unflatten(0, keyed_BNLE.shape[:2]) * weights_BNL1).sum(1)
        mean_BLE = (keyed_BNLE * weights_BNL1).sum(1)
        return context_BLE + self.mean_norm(self.activation(self.mean_dense(mean_BLE)))


MULTIPLEXERS: dict[str, type[Multiplexer]] = {
    "gaussian": Gaussian,
    "contextual": Contextual,
    "contextual_v1": ContextualV1,
    "orthogonal": Orthogonal,
    "orthogonal_low_rank": OrthogonalLowRank,
    "binary": Binary,
}
