"""A model's head as an ONNX file, checked against the model itself under onnxruntime.

R rows (whole groups), L positions, N slots.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mux.model.pipelines import longest_row

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TOLERANCE = 1e-4
CHECKED = ((1, 8), (2, 17), (5, 32))  # (groups, length): what is compared, beside the longest row


class OnnxFailure(Exception):
    """The exporter cannot translate the model, or what it made computes something else."""


class Logits(nn.Module):
    """The model from its input tensors to its logits, and nothing else."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(name for name in INPUTS if name in inspect.signature(model.forward).parameters)

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, tensors, strict=True))).logits


def export_onnx(model: PreTrainedModel, path: Path) -> None:
    """Write `path`, for any number of groups and any length, and compare. Raises OnnxFailure; leaves no file then."""
    network = Logits(model).eval()
    N = getattr(model.config, "num_instances", 1)
    groups = torch.export.Dim("groups", min=1)
    length = torch.export.Dim("length", min=2, max=longest_row(model.config))
    rows = N * groups if N > 1 else groups
    example = inputs(model, network.names, 3 * N, 12, seed=0)
    try:
        program = torch.export.export(
            network, example, dynamic_shapes=(tuple({0: rows, 1: length} for _ in network.names),),
            prefer_deferred_runtime_asserts_over_guards=True)  # it cannot prove min(2 + L, 4 + 2 L) = 2 + L
        with quiet():
            exported = torch.onnx.export(program, dynamo=True, input_names=list(network.names),
                                         output_names=["logits"], verbose=False)
        assert exported is not None
        exported.save(str(path))
        check(network, path, N)
    except OnnxFailure:
        path.unlink()
        raise
    except Exception as error:  # torch.export, torch.onnx and onnxruntime raise many kinds
        path.unlink(missing_ok=True)
        raise OnnxFailure(f"the model cannot be exported to ONNX: {str(error).splitlines()[0]}") from error


def quantize_onnx(path: Path, to: Path) -> None:
    """Write `path` again with its products of weights in int8; what they are multiplied with is quantized as it comes.
    Its numbers are a little off, so they are not compared."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet(None):
        quantize_dynamic(path, to, weight_type=QuantType.QInt8)


@contextmanager
def quiet(logs: str | None = "torch.onnx") -> Iterator[None]:
    """Without an exporter's remarks about its own progress."""
    logger = logging.getLogger(logs)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def require() -> None:
    """Raise ValueError if a package is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"--onnx needs the package {error.name}: pip install 'mux-plm[onnx]'") from None


def check(network: Logits, path: Path, N: int) -> None:
    """Compare the file with the model on several numbers of groups and lengths, padding included."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    longest = longest_row(network.model.config) or 64
    for groups, length in (*CHECKED, (1, longest)):
        tensors = inputs(network.model, network.names, groups * N, min(length, longest), seed=groups)
        with torch.no_grad():
            expected = network(*tensors).numpy()
        fed = {name: tensor.numpy() for name, tensor in zip(network.names, tensors, strict=True)}
        found: Any = session.run(["logits"], fed)[0]
        apart = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
        if not apart <= TOLERANCE:
            raise OnnxFailure(f"the ONNX file does not compute what the model does: logits of {groups} groups of "
                              f"length {length} are {apart:.1e} apart")


def inputs(model: PreTrainedModel, names: tuple[str, ...], rows: int, length: int, seed: int) -> tuple[Tensor, ...]:
    """Random rows [R, L] of different lengths, padded; the first one is full."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (rows, 1), generator=generator)
    lengths[0] = length
    mask = (torch.arange(length) < lengths).long()
    ids = torch.randint(5, model.config.vocab_size, (rows, length), generator=generator)
    pad = model.config.pad_token_id or 0
    segments = (torch.arange(length) >= length // 2).long() * mask
    values = {"input_ids": torch.where(mask.bool(), ids, pad), "attention_mask": mask, "token_type_ids": segments}
    return tuple(values[name] for name in names)
