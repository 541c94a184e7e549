"""Multiplexers: N embedded instances in, one sequence out (paper section 3.1; numerics section 1.2).

B groups, N slots, L positions, E embedding width. A multiplexer is a class with `draw_keys() -> keys` and
`mix(embedded_BNLE, padding) -> muxed_BLE`, and a line in MULTIPLEXERS.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.models.bert.modeling_bert import BertLayer
from transformers.utils import logging
from transformers.utils.import_utils import is_tracing

from mux.model.backbone import attention_mask
from mux.model.config import MuxConfig

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Padding:
    """Which tokens of the groups are real, as the places that may ask shall see it: bool [B, N, L], or None for all.

    All three are the same by default. The published models count padding in the mix, and only their sequence
    classifiers hide it where instances attend to each other (numerics sections 1.1 and 1.2).
    """

    counted_BNL: Tensor | None = None  # enters the sum over slots
    within_BNL: Tensor | None = None  # is seen by attention between the positions of an instance
    across_BNL: Tensor | None = None  # is seen by attention between the slots of a position


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

    def forward(self, embeddings: nn.Module, ids_BNL: Tensor, segments_BNL: Tensor | None, padding: Padding) -> Tensor:
        """[B, L, E]: the tokens `ids_BNL`, embedded by the encoder's `embeddings` and mixed."""
        segments_RL = None if segments_BNL is None else segments_BNL.flatten(0, 1)
        embedded_RLE = embeddings(input_ids=ids_BNL.flatten(0, 1), token_type_ids=segments_RL)
        return self.mix(embedded_RLE.unflatten(0, (-1, self.N)), padding)

    def mix(self, embedded_BNLE: Tensor, padding: Padding) -> Tensor:
        raise NotImplementedError

    def block(self) -> int:
        """The width that a slot has for itself. Raises ValueError if there is none."""
        if self.width < self.N:
            raise ValueError(f"{self.config.multiplexer} keys share the width out: {self.width} is too little for "
                             f"N = {self.N}")
        return self.width // self.N


def weighted(terms_BNLE: Tensor, padding: Padding, divisor: float) -> Tensor:
    """The terms of a sum over slots, each divided; 0 for padding that does not count.

    The divisor does not shrink with padding, so a group's result does not depend on the length to which its rows
    were padded (design section 4, departure 2).
    """
    if padding.counted_BNL is None:
        return terms_BNLE / divisor
    return terms_BNLE * (padding.counted_BNL.to(terms_BNLE.dtype) / divisor)[..., None]


class VectorKeys(Multiplexer):
    """A random key vector v_i per slot."""

    def draw_keys(self) -> Tensor:
        """v_i from N(0, I), each scaled to its L2 norm."""
        drawn = torch.randn_like(self.keys)
        return drawn * (self.config.multiplexer_norm / drawn.norm(dim=-1, keepdim=True))

    def keyed(self, embedded_BNLE: Tensor) -> Tensor:
        """e_i * v_i."""
        return embedded_BNLE * self.keys.to(embedded_BNLE.dtype)[:, None]  # half precision may leave buffers in fp32


class Gaussian(VectorKeys):
    """x = 1/N sum_i e_i * v_i (paper eq. 1)."""

    def forward(self, embeddings: nn.Module, ids_BNL: Tensor, segments_BNL: Tensor | None, padding: Padding) -> Tensor:
        kernels = fused(embeddings, ids_BNL)
        if self.training and kernels is None:  # one gather of words has one gradient of the size of the vocabulary
            return super().forward(embeddings, ids_BNL, segments_BNL, padding)
        mixed = embedded_and_mixed if kernels is None else kernels.embedded_and_mixed
        muxed_BLE: Tensor = mixed(embeddings, places(embeddings, ids_BNL.shape[2], segments_BNL), ids_BNL, segments_BNL,
                                  self.keys / self.N, padding.counted_BNL)
        return muxed_BLE

    def mix(self, embedded_BNLE: Tensor, padding: Padding) -> Tensor:
        # Not as one einsum, which copies its operands for a matrix product that this is none: 8 times slower on a CPU.
        # In this order the backward pass keeps the keys and the weights, and nothing of size [B, N, L, E].
        return weighted(self.keyed(embedded_BNLE), padding, self.N).sum(1)


def fused(embeddings: Any, ids_BNL: Tensor) -> ModuleType | None:
    """mux.model.kernels, where they are for these embeddings; None where the plain path is.

    They are for a GPU, and for Triton's interpreter (its TRITON_INTERPRET=1), and read weights alone: what others
    replaced or have hooked (adapters, ZeRO stage 3) is called as ever. A compiler makes kernels of the plain path.
    """
    if is_tracing(ids_BNL) or not (ids_BNL.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        return None
    kinds = {"word_embeddings": nn.Embedding, "token_type_embeddings": nn.Embedding, "LayerNorm": nn.LayerNorm,
             "dropout": nn.Dropout}
    if not all(type(getattr(embeddings, name)) is kind for name, kind in kinds.items()) or any(
            part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
            or hasattr(part, "_hf_hook") for part in embeddings.modules()):
        return None
    try:
        from mux.model import kernels
    except ImportError as error:
        logger.warning_once(f"The multiplexer's kernel for GPUs needs Triton ({error}): pip install triton. Without "
                            "it the plain path is taken, which computes the same with more traffic of memory.")
        return None
    if wrong := kernels.fault(ids_BNL.device, embeddings.LayerNorm.weight.dtype):
        logger.warning_once(f"The multiplexer's kernel does not work on {ids_BNL.device} ({wrong}); the plain path is "
                            "taken, which computes the same with more traffic of memory.")
        return None
    return kernels


def places(embeddings: Any, length: int, segments_BNL: Tensor | None) -> Tensor:
    """What all tokens of a position have alike [L, E]: its vector, and the first segment's where no other is given."""
    places_LE: Tensor = embeddings.position_embeddings(embeddings.position_ids[0, :length])
    if segments_BNL is None:
        places_LE = places_LE + embeddings.token_type_embeddings(embeddings.position_ids.new_zeros(1))
    return places_LE


def embedded_and_mixed(embeddings: Any, places_LE: Tensor, ids_BNL: Tensor, segments_BNL: Tensor | None,
                       keys_NE: Tensor, counted_BNL: Tensor | None) -> Tensor:
    """sum_i v_i * LN(word_i + place + segment_i) over the slots [B, L, E], without dropout (performance trick 6).

    Slot by slot, with v_i in the gain and bias of the layer norm: nothing of size [B, N, L, E] is ever written. On a
    CPU a slot stays in the cache, 11 times faster for N = 10; torch.compile makes few kernels of it all.
    """
    norm = embeddings.LayerNorm
    gains_NE, biases_NE = ((keys_NE * part).to(part.dtype) for part in (norm.weight, norm.bias))
    muxed_BLE = torch.zeros((), dtype=torch.promote_types(norm.weight.dtype, torch.float32), device=ids_BNL.device)
    for slot, ids_BL in enumerate(ids_BNL.unbind(1)):
        summed_BLE = embeddings.word_embeddings(ids_BL) + places_LE
        if segments_BNL is not None:
            summed_BLE = summed_BLE + embeddings.token_type_embeddings(segments_BNL[:, slot])
        keyed_BLE = F.layer_norm(summed_BLE, norm.normalized_shape, gains_NE[slot], biases_NE[slot], norm.eps)
        if counted_BNL is not None:
            keyed_BLE = keyed_BLE * counted_BNL[:, slot, :, None]
        muxed_BLE = muxed_BLE + keyed_BLE
    return muxed_BLE.to(norm.weight.dtype)


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

    def mix(self, embedded_BNLE: Tensor, padding: Padding) -> Tensor:
        weighted_BNLE = weighted(embedded_BNLE, padding, self.N**0.5)
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


class Attending(VectorKeys):
    """Keys as Gaussian's, and an encoder layer in which the tokens of an instance see each other."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config)
        self.layer_config = config.layer()
        self.instance_layer = BertLayer(self.layer_config)

    def attend(self, layer: BertLayer, states_KQE: Tensor, real_KQ: Tensor | None) -> Tensor:
        """One encoder layer over K sequences."""
        return layer(states_KQE, attention_mask(self.layer_config, states_KQE.shape[:2], states_KQE.dtype, real_KQ))


class Contextual(Attending):
    """a = T1(e) + e in each instance, g = a * v_i, z = T2(g) + g over the slots of each position; x = 1/N sum_i z_i.

    T1 and T2 are encoder layers (paper eq. 4 and 5); the residuals around them are the published code's (numerics D3).
    """

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config)
        self.slot_layer = BertLayer(self.layer_config)

    def mix(self, embedded_BNLE: Tensor, padding: Padding) -> Tensor:
        groups, _, length, _ = embedded_BNLE.shape
        within_RL = None if padding.within_BNL is None else padding.within_BNL.flatten(0, 1)
        across_PN = None if padding.across_BNL is None else padding.across_BNL.transpose(1, 2).flatten(0, 1)
        rows_RLE = embedded_BNLE.flatten(0, 1)
        context_RLE = self.attend(self.instance_layer, rows_RLE, within_RL) + rows_RLE
        keyed_PNE = self.keyed(context_RLE.unflatten(0, (groups, self.N))).transpose(1, 2).flatten(0, 1)
        mixed_PNE = self.attend(self.slot_layer, keyed_PNE, across_PN) + keyed_PNE
        return weighted(mixed_PNE.unflatten(0, (groups, length)).transpose(1, 2), padding, self.N).sum(1)


class ContextualV1(Attending):
    """The older contextual multiplexer: g = e * v_i, x = 1/N sum_i T(g_i) + LN(gelu(W 1/N sum_i g_i)).

    Published for replaced-token detection only, where T sees padding (numerics section 1.2): it sees what counts.
    """

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config)
        self.mean_dense = nn.Linear(self.width, self.width)
        self.mean_norm = nn.LayerNorm(self.width, eps=1e-5)
        self.activation = ACT2FN[config.hidden_act]

    def mix(self, embedded_BNLE: Tensor, padding: Padding) -> Tensor:
        counted_RL = None if padding.counted_BNL is None else padding.counted_BNL.flatten(0, 1)
        keyed_BNLE = self.keyed(embedded_BNLE)
        context_RLE = self.attend(self.instance_layer, keyed_BNLE.flatten(0, 1), counted_RL)
        context_BLE = weighted(context_RLE.unflatten(0, keyed_BNLE.shape[:2]), padding, self.N).sum(1)
        mean_BLE = weighted(keyed_BNLE, padding, self.N).sum(1)
        return context_BLE + self.mean_norm(self.activation(self.mean_dense(mean_BLE)))


MULTIPLEXERS: dict[str, type[Multiplexer]] = {
    "gaussian": Gaussian,
    "contextual": Contextual,
    "contextual_v1": ContextualV1,
    "orthogonal": Orthogonal,
    "orthogonal_low_rank": OrthogonalLowRank,
    "binary": Binary,
}
