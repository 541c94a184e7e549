"""Goals 5 and 8: a pre-training step per instance against our own N = 1, and on a GPU the share of its peak.

The step is that of a run: rows masked, gathered and decoded where they are asked about. On a CPU forward and backward
pass in bf16 of the same instances at every N; on a GPU whole steps of DeepSpeed with rows of 512 tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contestants import VOCABULARY
from benchmarks.inference import SINGLE
from benchmarks.protocol import Contestant, Race, race
from benchmarks.records import Record, record
from mux.data.masking import CORRUPTIONS, Vocabulary
from mux.model import MuxConfig, MuxForPreTraining
from mux.model.muxed import LOOKED_AT

MASKED, DIFFERENT = 0.15, 4  # batches, which are fed in turn
PEAK = 989e12  # bf16, of an H100 or H200, without sparsity
NS = (5, 10)
RATIOS = {"BASE": (4.1, 6.8), "SMALL": (2.7, 3.5)}
UTILISATION = {"LARGE": 0.50, "BASE": 0.45, "SMALL": 0.30}
NEAR = 0.05  # N = 5 and 10 are to be within so much of N = 1
GROUPS = {"LARGE": 32, "BASE": 64, "SMALL": 128}
CPU_LENGTH, GPU_LENGTH = 128, 512


def measure(device: str, short: bool) -> Iterator[Record]:
    sizes = ("SMALL",) if short else ("SMALL", "BASE")
    yield from of_peak(short) if device == "cuda" else per_instance(sizes, short)


def per_instance(sizes: tuple[str, ...], short: bool) -> Iterator[Record]:
    instances, rounds = (40, 5) if short else (80, 9)
    for size in sizes:
        models = {N: model_of(size, N).to(torch.bfloat16)  # type: ignore[arg-type]
                  for N in (1, *NS)}
        found = race({name(N): Contestant(passes(model, batches(instances, N, CPU_LENGTH)), instances)
                      for N, model in models.items()}, rounds)
        under = f"{instances} instances, {CPU_LENGTH} tokens, bf16, {torch.get_num_threads()} threads, {rounds} rounds"
        for N, goal in zip(NS, RATIOS[size], strict=True):
            yield record("training", f"{size}, N = {N}, masked LM forward and backward", SINGLE,
                         found.ratio(name(N), name(1)), goal, under)


def of_peak(short: bool) -> Iterator[Record]:
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": "29517"}
    from mux.train.engine import Engine, Ranks

    ranks, rounds = Ranks(600), 5 if short else 10
    for size in UTILISATION:
        shares: dict[int, float] = {}
        for N in (1, *NS):
            groups = GROUPS[size]
            config = {"train_micro_batch_size_per_gpu": groups, "gradient_accumulation_steps": 1,
                      "bf16": {"enabled": True}, "zero_optimization": {"stage": 1}, "gradient_clipping": 1.0,
                      "zero_allow_untested_optimizer": True, "timers": {"throughput": {"enabled": False}}}
            fed = batches(groups * N, N, GPU_LENGTH, str(ranks.device))
            engine = Engine(model_of(size, N), config, weight_decay=0.01, betas=(0.9, 0.999), epsilon=1e-6)
            found: Race = race({name(N): Contestant(steps(engine, fed), groups * N)}, rounds, "cuda", runs=10)
            shares[N] = 3 * forward_flops(size, N, fed[0]) / (groups * N) * found.per_second(name(N)) / PEAK
            engine.close()
            goal = UTILISATION[size] if N == 1 else max(0.0, shares[1] - NEAR)
            yield Record("training", f"{size}, N = {N}, optimizer step", "989 TFLOP/s", round(shares[N], 4),
                         round(goal, 4), unit="of peak",
                         conditions=f"{groups} groups, {GPU_LENGTH} tokens, bf16, ZeRO 1, {rounds} x 10 steps",
                         more={"instances_per_second": round(found.per_second(name(N)), 1)})


def name(N: int) -> str:
    return f"N = {N}"


def model_of(size: str, N: int) -> MuxForPreTraining:
    torch.manual_seed(0)
    return MuxForPreTraining(MuxConfig.from_size(size, num_instances=N, vocab_size=VOCABULARY)).train()


def batches(instances: int, N: int, length: int, device: str = "cpu") -> list[dict[str, Tensor]]:
    """Masked rows of random tokens."""
    vocabulary = Vocabulary(VOCABULARY, (0, 100, 101, 102, 103), 103, 0)
    made = []
    for step in range(DIFFERENT):
        ids = np.random.default_rng(step).integers(1000, VOCABULARY, (instances // N, N, length))
        corrupted, labels = CORRUPTIONS["bert", True](ids, vocabulary, MASKED, 0, step, 0)
        rows = {"input_ids": corrupted, "attention_mask": np.ones_like(ids), "labels": labels}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array.reshape(-1, length)))
                   for name, array in rows.items()}
        made.append({name: tensor if name in LOOKED_AT else tensor.to(device) for name, tensor in tensors.items()})
    return made


def passes(model: MuxForPreTraining, fed: list[dict[str, Tensor]]) -> Callable[[], Any]:
    endless = cycle(fed)

    def run() -> None:
        model(**next(endless)).loss.backward()
        model.zero_grad(set_to_none=True)

    return run


def steps(engine: Any, fed: list[dict[str, Tensor]]) -> Callable[[], Any]:
    endless = cycle(fed)

    def run() -> None:
        engine.backward(engine.forward(**next(endless)).loss)
        engine.step(1e-4)

    return run


def forward_flops(size: str, N: int, batch: dict[str, Tensor]) -> int:
    """Of one pass over a batch; a training step is taken for three of them, recomputation not counted."""
    on_cpu = {name: tensor[: 2 * N].cpu() for name, tensor in batch.items()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model_of(size, N)(**on_cpu)
    return counter.get_total_flops() * len(batch["input_ids"]) // (2 * N)
