"""Which devices a stage takes, and which jobs that makes of a plan's stages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import count, groupby

from mux.plan import Cluster, Host, JobPlan, StagePlan, TrainingPlan
from mux.recipe import Recipe, Stage, digest


def placement(stage: Stage, cluster: Cluster) -> tuple[Host, ...]:
    """Every device for a stage that runs everywhere, else the first slot of the first host."""
    return cluster.hosts if stage.everywhere else (cluster.hosts[0].model_copy(update={"slots": 1}),)


def jobs_of(recipe: Recipe, cluster: Cluster, plans: Sequence[StagePlan]) -> Iterator[JobPlan]:
    """Consecutive stages with one placement share the start of their processes, one phase after the other. Micro
    batches that are not known are measured before everything else.

    Trainings of a fine-tuning stage are a phase before it, on a device each; the stage itself then chooses among them.
    """
    numbers, phases = count(), count()
    devices = list(_devices(cluster))
    unmeasured = [stage for stage, plan in zip(recipe.stages, plans, strict=True)
                  if plan.batch is not None and plan.micro_batch is None]
    for hosts, stages in groupby(unmeasured, key=lambda stage: placement(stage, cluster)):
        yield JobPlan(id=next(numbers), phase=next(phases), stages=tuple(stage.id for stage in stages), hosts=hosts,
                      measurement=measured_for(recipe, hosts, cluster))
    for hosts, stages in groupby(recipe.stages, key=lambda stage: placement(stage, cluster)):
        together: list[str] = []
        for stage in stages:
            shares = _shares(next(plan for plan in plans if plan.id == stage.id).trainings, len(devices))
            if len(shares) > 1:
                if together:
                    yield JobPlan(id=next(numbers), phase=next(phases), stages=tuple(together), hosts=hosts)
                    together = []
                phase = next(phases)
                for rank, share in enumerate(shares):
                    yield JobPlan(id=next(numbers), phase=phase, stages=(stage.id,), hosts=(devices[rank],),
                                  trainings=share, first_rank=rank)
            together.append(stage.id)
        yield JobPlan(id=next(numbers), phase=next(phases), stages=tuple(together), hosts=hosts)


def measured_for(recipe: Recipe, hosts: Sequence[Host], cluster: Cluster) -> str:
    """What a micro batch measured on these hosts of a cluster holds for, as a short name. Others' ranks are beside a
    rank on its host."""
    beside = max(host.slots for host in cluster.hosts)
    decisive = digest(recipe), sum(host.slots for host in hosts), beside, cluster.device, recipe.engine.zero_stage
    return hashlib.sha256(repr(decisive).encode()).hexdigest()[:12]


def _devices(cluster: Cluster) -> Iterator[Host]:
    """Each device by itself, in rank order."""
    for host in cluster.hosts:
        for slot in range(host.first_slot, host.first_slot + host.slots):
            yield host.model_copy(update={"slots": 1, "first_slot": slot})


def _shares(trainings: Sequence[TrainingPlan], devices: int) -> list[tuple[str, ...]]:
    """The trainings' names packed over at most so many devices: the longest first, each on the device that is free
    first; within a share as they stand in the stage, so that a task's rows are read once."""
    shares: list[list[int]] = [[] for _ in range(min(devices, len(trainings)))]
    free = [(0, device) for device in range(len(shares))]  # a heap of (its groups so far, device)
    for index in sorted(range(len(trainings)), key=lambda index: -_work(trainings[index])):
        groups, device = heappop(free)
        shares[device].append(index)
        heappush(free, (groups + _work(trainings[index]), device))
    return [tuple(trainings[index].name for index in sorted(share)) for share in shares]


def _work(training: TrainingPlan) -> int:
    """Groups that a training reads."""
    return training.steps * training.point.batch
