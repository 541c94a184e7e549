"""`engine.micro_batch = "auto"`: how many groups fit on a device at a time, measured by the ranks of the stage itself.

Steps of the stage's own kind are taken on full rows with new weights, under the stage's ZeRO stage and precision, with
more and more groups, as long as memory lasts by what the last two took. The launcher then makes the plan anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from mux.event import Notice
from mux.plan import MeasuredMicroBatch, StagePlan
from mux.recipe.stages import TrainingStage
from mux.recipe.wording import reason
from mux.run import write_text
from mux.stages.context import Context
from mux.stages.host_memory import free_memory
from mux.train.engine import Engine
from mux.train.interval import Interval
from mux.train.loop import Training, agree, optimizer_step, ready
from mux.train.objective import Batch, Objective
from mux.train.schedule import Schedule

PART = 0.9  # of the free memory: the rest is for what allocators waste, and for what others come to need
SLOW = 60.0  # seconds that a pass may be expected to take; beyond it more groups at a time make nothing faster
ACCUMULATION = 2  # micro-batches of a step: gradients are kept from one to the next, as in a training that accumulates


REMEDY = "set engine.activation_checkpointing = true, a higher engine.zero_stage or shorter rows"


@dataclass(frozen=True)
class Workload:
    """What a training stage does to a device: a model, what it is asked, and `batch(groups)`, rows of full length."""

    model: nn.Module
    objective: Objective
    batch: Callable[[int], Batch]


@dataclass(frozen=True)
class Try:
    groups: int
    bytes: int  # at the peak, of the rank that has taken most
    seconds: float  # of a forward and backward pass


def measure(context: Context, stage: TrainingStage, workload: Workload) -> None:
    """Leave `<stage>/micro_batch.*.json`. Raises ValueError if not even one group fits."""
    plan, ranks = context.plan.stage(stage.id), context.ranks
    what, share = f"measuring how many groups of {stage.id} fit", share_of(plan)
    memory = Memory(ranks.device, max(host.slots for host in context.plan.cluster.hosts))
    limit = min(ranks.gather(memory.limit))
    context.voice.stage = stage.id  # what a stop meanwhile would name
    try:
        engine = Engine(workload.model, config_of(plan), weight_decay=stage.weight_decay, betas=stage.adam_betas,
                        epsilon=stage.adam_epsilon)
        engine.model.train()

        def attempt(groups: int) -> Try:
            context.progress_together(what, groups, share, "groups")
            memory.reset()
            seconds = steps(context, stage, engine, workload, groups)
            return Try(groups, max(ranks.gather(memory.peak())), round(max(ranks.gather(seconds)), 4))

        attempt(1)  # the optimizer's state is made
        if ranks.device.type == "cpu":
            engine.snapshot()  # and what is saved is copied to memory, which stays
        tries, why = largest(divisors(share), attempt, max(ranks.gather(memory.held())), limit)
        engine.close()
    except torch.OutOfMemoryError as error:  # others may be inside a collective by now: there is no going back
        raise ValueError(f"{stage.id} does not fit on a device: {reason(error)}; {REMEDY}") from None
    chosen = tries[-1]
    if chosen.groups == 0:
        raise ValueError(f"not even one group of {stage.id} fits on a device: {why}; {REMEDY}")
    if ranks.first:
        found = MeasuredMicroBatch(micro_batch=chosen.groups, limit=limit, tries=tuple(asdict(one) for one in tries))
        write_text(context.run.micro_batch(stage.id, context.measurement), found.model_dump_json(indent=1))
    context.say(Notice(text=f"{stage.id}: {chosen.groups} of a device's {share} groups at a time ({why})"))
    ranks.barrier()


def config_of(plan: StagePlan) -> dict[str, Any]:
    """The stage's DeepSpeed config, to measure with: no step is skipped, or the optimizer's state might not be made."""
    assert plan.deepspeed is not None
    config = plan.deepspeed | {"gradient_accumulation_steps": ACCUMULATION}
    return config | ({"fp16": config["fp16"] | {"initial_scale_power": 0}} if "fp16" in config else {})


def share_of(plan: StagePlan) -> int:
    """A device's groups of an optimizer step, at most."""
    assert plan.batch is not None
    return max((point.batch for point in plan.points), default=plan.batch) // plan.devices


def divisors(number: int) -> list[int]:
    """In ascending order: no other micro batch divides a share."""
    small = [i for i in range(1, isqrt(number) + 1) if number % i == 0]
    return sorted({*small, *(number // i for i in small)})


def steps(context: Context, stage: TrainingStage, engine: Engine, workload: Workload, groups: int) -> float:
    """Two optimizer steps; the seconds of a micro-batch of the second one. The first one may have to warm up."""
    ranks, batch = context.ranks, workload.batch(groups)
    training = Training(stage=stage.id, steps=2, batches=lambda index: [batch] * ACCUMULATION,
                        objective=workload.objective, schedule=Schedule(0.0, 0, 2),
                        groups=groups * ACCUMULATION * ranks.size, N=context.recipe.model.N, seed=0, log_every=1,
                        save_every=1)
    begun = 0.0
    for step in range(2):
        begun, micro_batches = time.monotonic(), ready(training, ranks, step)
        _, totals = agree(micro_batches, ranks, False)
        optimizer_step(training, engine, ranks, micro_batches, totals, step, 0, Interval())
        if ranks.device.type == "cuda":
            torch.cuda.synchronize(ranks.device)
    return (time.monotonic() - begun) / ACCUMULATION


def largest(sizes: list[int], attempt: Callable[[int], Try], held: int, limit: int) -> tuple[list[Try], str]:
    """The tries that fit, the first of them that of no group at all, for which `held` bytes are taken, and in words why
    there are no more."""
    fitting, most = [Try(0, held, 0.0)], gigabytes(limit)
    for groups, following in zip(sizes, [*sizes[1:], None], strict=True):
        one = attempt(groups)
        if one.bytes > limit:
            return fitting, f"{groups} take {gigabytes(one.bytes)} of {most}"
        fitting.append(one)
        if following is None:
            break
        if (expected := extrapolated(fitting[-2], one, following)) > limit:
            return fitting, f"{following} would take {gigabytes(expected)} of {most}"
        if (seconds := one.seconds * following / groups) > SLOW:
            return fitting, f"a pass of {following} would take {seconds:.0f} s: more at a time make nothing faster"
    return fitting, f"all: they take {gigabytes(fitting[-1].bytes)} of {most}"


def extrapolated(before: Try, last: Try, groups: int) -> int:
    """Bytes that so many groups will take: activations grow with them, the rest does not."""
    each = max(0, last.bytes - before.bytes) / (last.groups - before.groups)
    return round(last.bytes + each * (groups - last.groups))


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


class Memory:
    """What this rank may use of its device, and what it does use."""

    def __init__(self, device: torch.device, ranks: int) -> None:
        """`ranks`: how many share a host's memory."""
        self.device = device
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            self.limit = int(PART * (free + torch.cuda.memory_reserved(device)))
        else:
            self.limit = int(self.held() + PART * free_memory() / ranks)

    def held(self) -> int:
        """Bytes that are in use now."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return int(psutil.Process().memory_info().rss)

    def reset(self) -> None:
        """The peak is counted from here on."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak of the resident set

    def peak(self) -> int:
        """The most bytes that have been in use since then."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
