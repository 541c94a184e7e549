"""transformers' encoder, with the last layer computed only at the positions that a head reads.

B sequences, F positions, P of them wanted, H heads of width W, D = H * W.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput


def encode(backbone: Any, real_BF: Tensor | None, first: int | None = None, *,
           asked: dict[str, Any], **inputs: Tensor | None) -> Any:
    """`backbone(**inputs, **asked)`, of whose last hidden state only the `first` P positions may be wanted (None: all).

    `real_BF`: the positions to be attended (bool), None for all. Where more is `asked` for than the last hidden state,
    all of it is computed.
    """
    config = backbone.config
    recorded = config.output_hidden_states or config.output_attentions
    if first is None or recorded or any(value is not None and value is not False for value in asked.values()) \
            or not foldable(backbone.encoder.layer[-1].attention.self):
        embedded = next(tensor for tensor in inputs.values() if tensor is not None)
        mask = attention_mask(config, embedded.shape[:2], backbone.dtype, real_BF)
        return backbone(**inputs, attention_mask=mask, **asked)
    states_BFD = backbone.embeddings(**inputs)
    if hasattr(backbone, "embeddings_project"):
        states_BFD = backbone.embeddings_project(states_BFD)
    mask = attention_mask(config, states_BFD.shape[:2], states_BFD.dtype, real_BF)
    *layers, last = backbone.encoder.layer
    for layer in layers:
        states_BFD = layer(states_BFD, mask)
    return BaseModelOutput(last_hidden_state=first_of_layer(last, states_BFD, real_BF, first))


def foldable(attention: Any) -> bool:
    """Whether keys and values are plain products with their weights, which may then be taken apart. What others have
    put in their place (adapters, int8, offloaded or partitioned weights) is called as it is."""
    return all(type(layer) is nn.Linear and not (layer._forward_pre_hooks or layer._forward_hooks)
               and not hasattr(layer, "_hf_hook") for layer in (attention.key, attention.value))


def attended(real_BF: Tensor) -> Tensor:
    """Where a sequence attends: to what is real. One of padding alone attends to all of it: its result does not count,
    and a softmax over nothing would be NaN."""
    return real_BF | ~real_BF.any(-1, keepdim=True)


def attention_mask(config: PreTrainedConfig, shape: torch.Size, dtype: torch.dtype,
                   real_BF: Tensor | None) -> Any:
    """The mask as layers take it; none where all is real, so that attention takes its fastest kernel.

    transformers would look whether a mask hides anything: a GPU is waited for then.
    """
    if real_BF is None:
        return None
    described = torch.empty((), dtype=dtype, device=real_BF.device).expand(*shape, 1)  # only its description is read
    return create_bidirectional_mask(config, described, attended(real_BF), allow_is_bidirectional_skip=False)


def first_of_layer(layer: Any, states_BFD: Tensor, real_BF: Tensor | None, first: int) -> Tensor:
    """The layer's output [B, P, D] at the first P positions, which attend to all."""
    read_BPD = states_BFD[:, :first]
    mixed_BPD = attend(layer.attention.self, read_BPD, states_BFD, real_BF)
    output_BPD: Tensor = layer.feed_forward_chunk(layer.attention.output(mixed_BPD, read_BPD))
    return output_BPD


def attend(attention: Any, read_BPD: Tensor, states_BFD: Tensor, real_BF: Tensor | None) -> Tensor:
    """Self-attention of a few positions [B, P, D] without computing keys and values.

    q (W_k x + b_k) = (W_k^T q) x + q b_k, and sum_f a_f (W_v x_f + b_v) = W_v sum_f a_f x_f + b_v sum_f a_f: each head
    works on the states themselves, 2 H F D a position read in place of 2 F D^2 for the keys and values of all.
    """
    heads = attention.num_attention_heads
    query_BPHW = attention.query(read_BPD).unflatten(-1, (heads, -1)) * attention.scaling
    key_HWD = attention.key.weight.unflatten(0, (heads, -1))
    # The same for each position attended, so no softmax sees it; yet b_k has its gradient, as in the plain layer.
    constant_BPH = (query_BPHW * attention.key.bias.unflatten(0, (heads, -1))).sum(-1)
    query_BXD = torch.einsum("bphw,hwd->bphd", query_BPHW, key_HWD).flatten(1, 2)  # X = P * H
    scores_BXF = query_BXD @ states_BFD.mT + constant_BPH.flatten(1, 2)[..., None]
    if real_BF is not None:
        scores_BXF = scores_BXF.masked_fill(~attended(real_BF)[:, None], torch.finfo(scores_BXF.dtype).min)
    weights_BXF = attention.dropout(F.softmax(scores_BXF, dim=-1, dtype=softmax_dtype(scores_BXF)).to(states_BFD.dtype))
    mixed_BPHD = (weights_BXF @ states_BFD).unflatten(1, (-1, heads))
    total_BPH1 = weights_BXF.sum(-1).unflatten(1, (-1, heads))[..., None]  # not 1 where there is dropout
    value_HWD = attention.value.weight.unflatten(0, (heads, -1))
    values_BPHW = torch.einsum("bphd,hwd->bphw", mixed_BPHD, value_HWD)
    return (values_BPHW + total_BPH1 * attention.value.bias.unflatten(0, (heads, -1))).flatten(2)


def softmax_dtype(scores: Tensor) -> torch.dtype:
    """fp32 for half precision."""
    return torch.promote_types(scores.dtype, torch.float32)
