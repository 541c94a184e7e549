"""The fused multiplexer on a GPU: embed all tokens of a position and mix them, in one Triton kernel each way.

sum_i k_i * drop(LN(word_i + place + segment_i)) over the slots i of a position, k_i = v_i / N. A program holds one
position's vector and goes over its slots: what is read is a row of words per token, what is written is [B, L, E], and
nothing of size [B, N, L, E] is ever there in the forward pass. The backward pass computes the normalised tokens again
and writes the gradient of each token's sum once, for torch to add up by word, position and segment. No sum depends on
the order in which programs end (there are no atomics), so a resumed training repeats itself bit by bit.

Sums are in fp32, or fp64 for a model in fp64. Dropout's draws come from a counter (seed, token, column), the seed from
torch's generator: torch.manual_seed decides, but the values that are dropped are not those of the plain path, which
drops by nn.Dropout. mux.model.multiplexer has the plain path, and says when this one is taken.

B groups, N slots, L positions, E embedding width, V words, T segment types, K programs of the backward pass.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEmbeddings

from mux.model import multiplexer

POSITIONS = 16  # of a program of the backward pass: each leaves a partial sum of the gradients of gain, bias and keys


@triton.jit
def normalized(words, types, ids, segments, token, place, column, inside, V, T, E: tl.constexpr,
               EPSILON: tl.constexpr):
    """A token's sum, normalised over its width, and 1 / its standard deviation: NaN for an id that no table has."""
    word = tl.load(ids + token).to(tl.int64)
    known = (word >= 0) & (word < V)
    summed = place + tl.load(words + word * E + column, mask=inside & known, other=0.0).to(place.dtype)
    if segments is not None:
        segment = tl.load(segments + token).to(tl.int64)
        known = known & (segment >= 0) & (segment < T)
        summed += tl.load(types + segment * E + column, mask=inside & known, other=0.0).to(place.dtype)
    centred = tl.where(inside, summed - tl.sum(summed) / E, 0.0)
    scale = tl.where(known, tl.rsqrt(tl.sum(centred * centred) / E + EPSILON), float("nan"))
    return centred * scale, scale


@triton.jit
def counts(counted, seed, token, column, DROPPED: tl.constexpr, WIDE: tl.constexpr):
    """What each value of a token counts in the sum over slots: 0 if dropped, or of padding that does not count."""
    share = tl.full(column.shape, 1.0, WIDE)
    if counted is not None:
        share *= tl.load(counted + token).to(WIDE)
    if DROPPED > 0:
        none = tl.zeros_like(column)
        drawn, _, _, _ = tl.philox(seed, column, none + token.to(tl.int32), none, none)
        share = tl.where(tl.uint_to_uniform_float(drawn) >= DROPPED, share / (1 - DROPPED), 0.0)
    return share


@triton.jit(do_not_specialize=["seed", "L"])
def forward_kernel(words, types, ids, segments, counted, places, gains, biases, keys, muxed, seed, V, T, L,
                   N: tl.constexpr, E: tl.constexpr, EPSILON: tl.constexpr, DROPPED: tl.constexpr, WIDE: tl.constexpr,
                   BLOCK: tl.constexpr):
    position = tl.program_id(0).to(tl.int64)  # of all B * L
    column = tl.arange(0, BLOCK)
    inside = column < E
    place = tl.load(places + position % L * E + column, mask=inside, other=0.0).to(WIDE)
    gain = tl.load(gains + column, mask=inside, other=0.0).to(WIDE)
    bias = tl.load(biases + column, mask=inside, other=0.0).to(WIDE)
    total = tl.zeros([BLOCK], WIDE)
    for slot in range(N):
        token = (position // L * N + slot) * L + position % L
        normal, _ = normalized(words, types, ids, segments, token, place, column, inside, V, T, E, EPSILON)
        key = tl.load(keys + slot * E + column, mask=inside, other=0.0).to(WIDE)
        total += (normal * gain + bias) * key * counts(counted, seed, token, column, DROPPED, WIDE)
    tl.store(muxed + position * E + column, total.to(muxed.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["seed", "L", "P"])
def backward_kernel(words, types, ids, segments, counted, places, gains, biases, keys, d_muxed, d_summed, d_gains,
                    d_biases, d_keys, seed, V, T, L, P,
                    N: tl.constexpr, E: tl.constexpr, EPSILON: tl.constexpr, DROPPED: tl.constexpr, WIDE: tl.constexpr,
                    BLOCK: tl.constexpr, POSITIONS: tl.constexpr):
    """Of POSITIONS of the P = B * L positions, slot by slot: the gradients of the tokens' sums, and partial ones."""
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < E
    gain = tl.load(gains + column, mask=inside, other=0.0).to(WIDE)
    bias = tl.load(biases + column, mask=inside, other=0.0).to(WIDE)
    d_gain = tl.zeros([BLOCK], WIDE)
    d_bias = tl.zeros([BLOCK], WIDE)
    for slot in range(N):
        key = tl.load(keys + slot * E + column, mask=inside, other=0.0).to(WIDE)
        d_key = tl.zeros([BLOCK], WIDE)
        for position in range(program * POSITIONS, tl.minimum(program * POSITIONS + POSITIONS, P)):
            token = (position // L * N + slot) * L + position % L
            place = tl.load(places + position % L * E + column, mask=inside, other=0.0).to(WIDE)
            normal, scale = normalized(words, types, ids, segments, token, place, column, inside, V, T, E, EPSILON)
            d_keyed = tl.load(d_muxed + position * E + column, mask=inside, other=0.0).to(WIDE)
            d_keyed *= counts(counted, seed, token, column, DROPPED, WIDE)
            d_key += d_keyed * (normal * gain + bias)
            d_embedded = d_keyed * key
            d_gain += d_embedded * normal
            d_bias += d_embedded
            d_normal = d_embedded * gain
            along = tl.sum(d_normal * normal) / E
            d_sum = (d_normal - tl.sum(d_normal) / E - normal * along) * scale
            tl.store(d_summed + token * E + column, d_sum.to(d_summed.dtype.element_ty), mask=inside)
        if d_keys is not None:
            tl.store(d_keys + (program * N + slot) * E + column, d_key, mask=inside)
    tl.store(d_gains + program * E + column, d_gain, mask=inside)
    tl.store(d_biases + program * E + column, d_bias, mask=inside)


WIDE = {torch.float32: tl.float32, torch.float64: tl.float64}  # what is summed in


@dataclass(frozen=True)
class Tokens:
    """What is embedded, and how; all that has no gradient."""

    ids_BNL: Tensor
    segments_BNL: Tensor | None  # None: what all share is in the places
    counted_BNL: Tensor | None  # None: all count
    epsilon: float
    padding: int | None  # the word whose vector is never trained
    dropped: float  # share of the values, 0 <= p < 1
    seed: int

    @property
    def positions(self) -> int:
        return self.ids_BNL.shape[0] * self.ids_BNL.shape[2]

    def launch(self, kernel: Any, programs: int, parameters: tuple[Tensor, ...], results: tuple[Tensor | None, ...],
               wide: torch.dtype, *numbers: int, **constants: int) -> None:
        words_VE, places_LE, types_TE, gains_E, biases_E, keys_NE = parameters
        (V, E), T, L = words_VE.shape, len(types_TE), self.ids_BNL.shape[2]
        block = triton.next_power_of_2(E)
        with torch.cuda.device_of(words_VE):  # Triton launches on the current device; on a CPU this does nothing
            kernel[(programs,)](
                words_VE, types_TE, self.ids_BNL, self.segments_BNL, self.counted_BNL, places_LE, gains_E, biases_E,
                keys_NE, *results, self.seed, V, T, L, *numbers, N=len(keys_NE), E=E,
                EPSILON=self.epsilon, DROPPED=self.dropped, WIDE=WIDE[wide], BLOCK=block, **constants,
                num_warps=min(max(block // 256, 1), 8))


class EmbeddedAndMixed(torch.autograd.Function):
    """[B, L, E] in the layer norm's type. Differentiable once in all parameters; keys cost where they are trained."""

    @staticmethod
    def forward(ctx: Any, tokens: Tokens, *parameters: Tensor) -> Tensor:
        parameters = tuple(parameter.contiguous() for parameter in parameters)
        gains_E = parameters[3]
        ctx.tokens, ctx.wide = tokens, torch.promote_types(gains_E.dtype, torch.float32)
        ctx.save_for_backward(*parameters)
        groups, _, length = tokens.ids_BNL.shape
        muxed_BLE = gains_E.new_empty(groups, length, len(gains_E))
        tokens.launch(forward_kernel, tokens.positions, parameters, (muxed_BLE,), ctx.wide)
        return muxed_BLE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_muxed_BLE: Tensor) -> tuple[Tensor | None, ...]:
        tokens, wide = ctx.tokens, ctx.wide
        words_VE, places_LE, types_TE, gains_E, biases_E, keys_NE = parameters = ctx.saved_tensors
        E, programs = len(gains_E), triton.cdiv(tokens.positions, POSITIONS)
        d_summed_BNLE = words_VE.new_empty(*tokens.ids_BNL.shape, E)
        d_gains_KE, d_biases_KE = (gains_E.new_empty(programs, E, dtype=wide) for _ in range(2))
        d_keys_KNE = keys_NE.new_empty(programs, *keys_NE.shape, dtype=wide) if ctx.needs_input_grad[6] else None
        tokens.launch(backward_kernel, programs, parameters,
                      (d_muxed_BLE.contiguous(), d_summed_BNLE, d_gains_KE, d_biases_KE, d_keys_KNE), wide,
                      tokens.positions, POSITIONS=POSITIONS)

        def of_table(table: Tensor, ids_BNL: Tensor, padding: int | None) -> Tensor:
            inside_BNL = ids_BNL.clamp(0, len(table) - 1)  # of others the forward pass made NaN, so this is NaN, too
            return torch.ops.aten.embedding_dense_backward(
                d_summed_BNLE.to(table.dtype), inside_BNL, len(table), -1 if padding is None else padding, False)

        return (
            None,
            of_table(words_VE, tokens.ids_BNL, tokens.padding) if ctx.needs_input_grad[1] else None,
            d_summed_BNLE.sum((0, 1), dtype=wide).to(places_LE.dtype),
            None if tokens.segments_BNL is None else of_table(types_TE, tokens.segments_BNL, None),
            d_gains_KE.sum(0).to(gains_E.dtype),
            d_biases_KE.sum(0).to(biases_E.dtype),
            None if d_keys_KNE is None else d_keys_KNE.sum(0).to(keys_NE.dtype),
        )


def embedded_and_mixed(embeddings: Any, places_LE: Tensor, ids_BNL: Tensor, segments_BNL: Tensor | None,
                       keys_NE: Tensor, counted_BNL: Tensor | None) -> Tensor:
    """As the plain path's, with the dropout of `embeddings`. `places_LE`: what all tokens of a position have alike."""
    words, norm, dropout = embeddings.word_embeddings, embeddings.LayerNorm, embeddings.dropout
    dropped = dropout.p if dropout.training else 0.0
    seed = int(torch.randint(2**62, ())) if dropped else 0  # of the CPU's generator: nothing waits for the device
    tokens = Tokens(ids_BNL.contiguous(), None if segments_BNL is None else segments_BNL.contiguous(),
                    None if counted_BNL is None else counted_BNL.contiguous(), norm.eps, words.padding_idx, dropped,
                    seed)
    muxed_BLE: Tensor = EmbeddedAndMixed.apply(
        tokens, words.weight, places_LE, embeddings.token_type_embeddings.weight, norm.weight, norm.bias, keys_NE)
    return muxed_BLE


# How far answers and gradients may be off, as a share of the largest.
NEAR = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}


@cache
def fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels are not to be used there: a small case is computed both ways, once. None: they agree."""
    with torch.random.fork_rng([]), torch.inference_mode(False), torch.enable_grad():
        torch.default_generator.manual_seed(0)  # all is drawn on the CPU; those of GPUs are the training's
        plain = BertEmbeddings(BertConfig(vocab_size=50, hidden_size=96, max_position_embeddings=8))
        plain = plain.eval().to(device, dtype)
        ids_BNL, keys_NE = torch.randint(50, (2, 3, 8)).to(device), torch.randn(3, 96).to(device)
        try:
            ours, theirs = (_computed(mixed, copy.deepcopy(plain), ids_BNL, keys_NE)
                            for mixed in (embedded_and_mixed, multiplexer.embedded_and_mixed))
        except Exception as error:  # whatever a compiler or a driver says
            return f"{type(error).__name__}: {error}".splitlines()[0]
        off = max(float((one - other).abs().max() / other.abs().max()) for one, other in zip(ours, theirs, strict=True))
        return None if off <= NEAR[dtype] else f"the two differ by {off:.1%}"


def _computed(mixed: Any, embeddings: Any, ids_BNL: Tensor, keys_NE: Tensor) -> list[Tensor]:
    """What comes out, and the gradients of what is trained."""
    parameters = list(embeddings.parameters())
    muxed_BLE = mixed(embeddings, multiplexer.places(embeddings, ids_BNL.shape[2], None), ids_BNL, None, keys_NE, None)
    return [tensor.detach().double()
            for tensor in (muxed_BLE, *torch.autograd.grad(muxed_BLE.float().square().sum(), parameters))]
