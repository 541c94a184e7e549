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

import psutil
import torch
from torch import nn

from mux.event import Notice
from mux.plan import MeasuredMicroBatch, StagePlan
from mux.recipe.stages import TrainingStage
from mux.recipe.wording import reason
from mux.run import write_text
from mux.stages.context import Context
from mux.train.engine import Engine
from mux.train.interval import Interval
from mux.train.loop import Training, agree, optimizer_step, ready
from mux.train.objective import Batch, Objective
from mux.train.schedule import Schedule

PART = 0.9  # of the free memory: the rest is for what allocators waste, and for what others come to need
SLOW = 20.0  # seconds of a pass; beyond it more groups at a time make nothing faster


@dataclass(frozen=True)
class Workload:
    """What a training stage does to a device: a model, what it is asked, and `batch(groups)`, rows of full length."""

    model: nn.Module
    objective: Objective
    batch: Callable[[int], Batch]


@dataclass(frozen=True)
class Try:
    groups: int
    bytes: int  # of this rank, at the peak
    seconds: float  # of forward and backward pass and optimizer step


def measure(context: Context, stage: TrainingStage, workload: Workload) -> None:
    """Leave `<stage>/micro_batch.*.json`. Raises ValueError if not even one group fits."""
    plan, ranks = context.plan.stage(stage.id), context.ranks
    assert plan.deepspeed is not None
    what, share = f"measuring how many groups of {stage.id} fit", share_of(plan)
    memory = Memory(ranks.device, max(host.slots for host in context.plan.cluster.hosts))
    engine = Engine(workload.model, plan.deepspeed, weight_decay=stage.weight_decay, betas=stage.adam_betas,
                    epsilon=stage.adam_epsilon)
    engine.model.train()

    def attempt(groups: int) -> Try:
        context.progress_together(what, groups, share, "groups")
        memory.reset()
        try:
            seconds = steps(context, stage, engine, workload, groups)
        except torch.OutOfMemoryError as error:  # others may be inside a collective by now: there is no going back
            raise ValueError(f"{groups} groups did not fit, though fewer left room for them: {reason(error)}; set "
                             "engine.micro_batch to a number") from None
        return Try(groups, memory.peak(), round(seconds, 4))

    attempt(1)  # the optimizer's state is made
    tries, why = largest(divisors(share), attempt, memory, lambda one: ranks.sum([one])[0] > 0)
    engine.close()
    chosen = tries[-1]
    if chosen.groups == 0:
        raise ValueError(f"not even one group of {stage.id} fits on a device: {why}; set "
                         "engine.activation_checkpointing = true, a higher engine.zero_stage or shorter rows")
    if ranks.first:
        found = MeasuredMicroBatch(micro_batch=chosen.groups, limit=memory.limit,
                                   tries=tuple(asdict(one) for one in tries))
        write_text(context.run.micro_batch(stage.id, context.measures), found.model_dump_json(indent=1))
    context.say(Notice(text=f"{stage.id}: {chosen.groups} of a device's {share} groups at a time ({why})"))
    ranks.barrier()


def share_of(plan: StagePlan) -> int:
    """A device's groups of an optimizer step, at most."""
    assert plan.batch is not None
    return max((point.batch for point in plan.points), default=plan.batch) // plan.devices


def divisors(number: int) -> list[int]:
    """In ascending order: no other micro batch divides a share."""
    small = [i for i in range(1, isqrt(number) + 1) if number % i == 0]
    return sorted({*small, *(number // i for i in small)})


def steps(context: Context, stage: TrainingStage, engine: Engine, workload: Workload, groups: int) -> float:
    """Two optimizer steps of one micro-batch; the seconds of the second one. The first one may have to warm up."""
    ranks, batch = context.ranks, workload.batch(groups)
    training = Training(stage=stage.id, steps=2, batches=lambda index: [batch], objective=workload.objective,
                        schedule=Schedule(0.0, 0, 2), groups=groups * ranks.size, N=context.recipe.model.N, seed=0,
                        log_every=1, save_every=1)
    begun = 0.0
    for step in range(2):
        begun, micro_batches = time.monotonic(), ready(training, ranks, step)
        _, totals = agree(micro_batches, ranks, False)
        optimizer_step(training, engine, ranks, micro_batches, totals, step, 0, Interval())
        if ranks.device.type == "cuda":
            torch.cuda.synchronize(ranks.device)
    return time.monotonic() - begun


def largest(sizes: list[int], attempt: Callable[[int], Try], memory: Memory,
            any_rank: Callable[[bool], bool]) -> tuple[list[Try], str]:
    """The tries that fit, the first of them that of no group at all, and in words why there are no more. `any_rank`:
    whether something is so on any of them."""
    fitting = [Try(0, memory.held(), 0.0)]
    limit = gigabytes(memory.limit)
    for groups, following in zip(sizes, [*sizes[1:], None], strict=True):
        one = attempt(groups)
        if any_rank(one.bytes > memory.limit):
            return fitting, f"{groups} take {gigabytes(one.bytes)} of {limit}"
        fitting.append(one)
        if following is None:
            break
        expected = extrapolated(fitting[-2], one, following)
        if any_rank(expected > memory.limit):
            return fitting, f"{following} would take {gigabytes(expected)} of {limit}"
        if any_rank(one.seconds > SLOW):
            return fitting, f"a pass takes {one.seconds:.0f} s: more at a time would make nothing faster"
    return fitting, f"all: they take {gigabytes(fitting[-1].bytes)} of {limit}"


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


def free_memory() -> int:
    """Bytes of this host's memory that are free, or of the share of it that a container has."""
    free = psutil.virtual_memory().available
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return free
