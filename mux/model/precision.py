"""A model in another precision, for inference: multiplexing and compression add up (design section 1)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.ao.quantization import default_dynamic_qconfig, quantize_dynamic
from transformers import PreTrainedModel

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# fp32 weights, and how precisely torch multiplies them: "medium" is TF32 on a GPU, and on a CPU that multiplies in bf16
# each number is the sum of several such.
MULTIPLIED = {"fp32-medium": "medium"}
PRECISIONS = ("fp32", *MULTIPLIED, *HALVES, "int8")
# Of the last layer: read by the fast path as they are (mux.model.backbone), not applied to all positions.
FOLDED = ("attention.self.key", "attention.self.value")


def to_precision(model: PreTrainedModel, precision: str, device: torch.device) -> PreTrainedModel:
    """The model on its device. bf16, fp16: all of it. int8: the weights of its linear layers, and per row what they
    are multiplied with (on a CPU). fp32-medium: fp32 to be run under `multiplied`. Raises ValueError for another word,
    and for int8 on a GPU."""
    if precision not in PRECISIONS:
        raise ValueError(f"there is no precision {precision!r}: {', '.join(PRECISIONS)}")
    if precision == "int8":
        if device.type != "cpu":
            raise ValueError(f"int8 is for CPUs; on {device} take bf16 or fp16")
        return quantized(model)
    moved: PreTrainedModel = nn.Module.to(model, device=device, dtype=HALVES.get(precision, torch.float32))
    return moved


@contextmanager
def multiplied(precision: str) -> Iterator[None]:
    """Inside, matrices of fp32 are multiplied as `precision` says: torch has one setting for the whole process."""
    if precision not in MULTIPLIED:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(MULTIPLIED[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def quantized(model: PreTrainedModel) -> PreTrainedModel:
    last = f".layer.{getattr(model.config, 'num_hidden_layers', 0) - 1}."
    layers = {name: default_dynamic_qconfig for name, module in model.named_modules()
              if isinstance(module, nn.Linear) and not (last in name and name.endswith(FOLDED))}
    with warnings.catch_warnings(action="ignore"):  # its successor needs a package of its own
        return quantize_dynamic(model, layers, dtype=torch.qint8)
