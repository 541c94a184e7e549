"""Peers for scale: smaller encoders, compilers and runtimes with the same weights, int8, and our own plain form.

Sequence classification, full rows; everyone in one race per size, against transformers' BERT of that size, eager.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.contestants import OTHERS, Conditions, bert, fed, ours, rows
from benchmarks.inference import BERT, conditions
from benchmarks.protocol import Contestant, race
from benchmarks.records import Record, record
from mux.hub.onnx import export_onnx, quantize_onnx

N = 10


def measure(device: str, short: bool) -> Iterator[Record]:
    eager = conditions(device, short)
    compiled = Conditions(**{**vars(eager), "compiled": True})
    for size in ("SMALL",) if short else ("SMALL", "BASE"):
        torch.compiler.reset()
        make: dict[str, Callable[[], nn.Module]] = {"BERT": partial(bert, "sequence", size),
                                                    f"N = {N}": partial(ours, "sequence", size, N)}
        contestants = {BERT: fed(make["BERT"](), eager.groups, eager),
                       f"N = {N}": fed(make[f"N = {N}"](), eager.groups * N, eager),
                       f"N = {N}, plain form": fed(make[f"N = {N}"](), eager.groups * N, eager,
                                                   output_hidden_states=True)}
        contestants |= {f"{name}, compiled": fed(model(), count(name, eager), compiled) for name, model in make.items()}
        contestants |= {name: fed(model(), eager.groups, eager) for name, model in OTHERS.items()
                        if size not in name} if size == "SMALL" else {}
        with tempfile.TemporaryDirectory() as folder:
            contestants |= elsewhere(make, Path(folder), eager)
            found = race(contestants, eager.rounds, device, eager.runs)
        for name in list(contestants)[1:]:
            yield record("peers", f"{size}: {name}" if name not in OTHERS else name, f"{size} BERT (SDPA, eager)",
                         found.ratio(name, BERT), None, str(eager))


def count(name: str, under: Conditions) -> int:
    return under.groups * (1 if name == "BERT" else N)


def elsewhere(models: Mapping[str, Callable[[], nn.Module]], folder: Path, under: Conditions) -> dict[str, Contestant]:
    """The same weights under other runtimes, and with int8 linear layers."""
    made = {}
    for name, model in models.items():
        path = folder / f"{name}.onnx"
        export_onnx(model().eval(), path)  # type: ignore[arg-type]
        instances = count(name, under)
        made[f"{name}, onnxruntime"] = fed_arrays(onnxruntime_session(path), instances, under)
        quantized = path.with_suffix(".int8.onnx")
        quantize_onnx(path, quantized)
        made[f"{name}, onnxruntime int8"] = fed_arrays(onnxruntime_session(quantized), instances, under)
        if find_spec("openvino"):
            made[f"{name}, OpenVINO"] = fed_arrays(openvino_model(path), instances, under)
    return made


def fed_arrays(call: Callable[[dict[str, Any]], Any], instances: int, under: Conditions) -> Contestant:
    generator = torch.Generator().manual_seed(0)

    def run() -> Any:
        batch = rows(instances, under.length, generator)
        ids_RL = batch["input_ids"]
        batch |= {"attention_mask": torch.ones_like(ids_RL), "token_type_ids": torch.zeros_like(ids_RL)}
        return call({name: tensor.numpy() for name, tensor in batch.items()})

    return Contestant(run, instances)


def onnxruntime_session(path: Path) -> Callable[[dict[str, Any]], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = {entry.name for entry in session.get_inputs()}
    return lambda feed: session.run(None, {name: array for name, array in feed.items() if name in names})


def openvino_model(path: Path) -> Callable[[dict[str, Any]], Any]:
    import openvino

    model = openvino.compile_model(str(path), "CPU", {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"})  # it would take bf16
    names = {entry.any_name for entry in model.inputs}
    return lambda feed: model({name: array for name, array in feed.items() if name in names})
