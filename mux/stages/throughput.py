"""Throughput: instances per second of this model, of N = 1 of the same size and of BERT BASE, in one process.

The paper's protocol (appendix C): batches of `batch` instances of full length, `trials` x `batches` of them, here
interleaved batch by batch so that a busy machine slows all models alike; a ratio is the median of per-round ratios.
Random tokens and, for the baselines, random weights: speed does not depend on them.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from mux.recipe import ThroughputStage
from mux.stages.context import Context

WARM_UP = 2  # batches of each model, not counted
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Contestant:
    name: str
    model: nn.Module
    N: int
    seconds: list[float]  # of each batch

    def instances(self, batch: int) -> int:
        """Instances of one batch: whole groups, all fed instances counted."""
        return -(-batch // self.N) * self.N

    def rate(self, batch: int) -> float:
        return self.instances(batch) * len(self.seconds) / sum(self.seconds)


def run(context: Context, stage: ThroughputStage) -> None:
    started = time.monotonic()
    context.start(context.plan.stage(stage.id))
    contestants = build(context, stage)
    measure(context, stage, contestants)
    own, *_ = contestants
    alone, base = contestants[-2], contestants[-1]
    rows = [row(context, stage, contestant, alone, base) for contestant in contestants]
    context.finish(stage.id, {"rows": rows, "ratio": ratio(own, alone, stage.batch)}, started)


def build(context: Context, stage: ThroughputStage) -> list[Contestant]:
    """This recipe's model, its own N = 1 (if it is not that itself) and transformers' BERT BASE."""
    device, dtype = context.ranks.device, DTYPES[context.recipe.engine.precision]
    base = BertForSequenceClassification(BertConfig(vocab_size=len(context.tokenizer)))
    models = [*context.encoder.timed(stage.sequence_length), ("bert BASE (transformers)", 1, base)]
    return [Contestant(name, model.to(device, dtype).eval(), N, []) for name, N, model in models]


@torch.inference_mode()
def measure(context: Context, stage: ThroughputStage, contestants: list[Contestant]) -> None:
    device, vocabulary = context.ranks.device, len(context.tokenizer)
    generator = torch.Generator().manual_seed(0)
    rounds = stage.trials * stage.batches
    for index in range(-WARM_UP, rounds):
        context.progress("timing", max(index, 0), rounds, "rounds")
        for contestant in contestants:
            shape = (contestant.instances(stage.batch), stage.sequence_length)
            ids = torch.randint(5, vocabulary, shape, generator=generator).to(device)
            mask = torch.ones_like(ids)
            synchronize(device)
            begun = time.perf_counter()
            contestant.model(input_ids=ids, attention_mask=mask)
            synchronize(device)
            if index >= 0:
                contestant.seconds.append(time.perf_counter() - begun)
    context.progress("timing", rounds, rounds, "rounds")


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(one: Contestant, other: Contestant, batch: int) -> float:
    """How many times as many instances a second: the median over rounds."""
    per_instance = [(b / other.instances(batch)) / (a / one.instances(batch))
                    for a, b in zip(one.seconds, other.seconds, strict=True)]
    return statistics.median(per_instance)


def row(context: Context, stage: ThroughputStage, contestant: Contestant, alone: Contestant,
        base: Contestant) -> dict[str, Any]:
    trials = [Contestant(contestant.name, contestant.model, contestant.N,
                         contestant.seconds[trial * stage.batches : (trial + 1) * stage.batches]).rate(stage.batch)
              for trial in range(stage.trials)]
    return {
        "model": contestant.name, "N": contestant.N, "head": "sequence",
        "instances_per_second": statistics.fmean(trials), "trials_instances_per_second": trials,
        "ratio_to_n1": ratio(contestant, alone, stage.batch),
        "ratio_to_bert_base": ratio(contestant, base, stage.batch),
        "batch": contestant.instances(stage.batch), "sequence_length": stage.sequence_length,
        "trials": stage.trials, "batches": stage.batches, "device": context.ranks.device_name,
        "dtype": context.recipe.engine.precision, "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(), "compiled": False, "torch": torch.__version__,
    }
