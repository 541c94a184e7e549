"""Recipe x Cluster -> Plan: which stages run where, in which order, with which batch arithmetic.

Everything that can be known before the first process is derived here, once; a rank derives nothing again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import accumulate, product
from math import isqrt
from pathlib import Path
from typing import Any

from launcher import footprint
from launcher.placement import jobs_of, placement
from mux.plan import Cluster, Host, Plan, Point, StagePlan, TrainingPlan
from mux.recipe import (
    EngineSection,
    FinetuneStage,
    Loaded,
    ModelSection,
    MuxologyStage,
    PretrainStage,
    Problem,
    Recipe,
    Refusal,
    RetrievalStage,
    Stage,
    ThroughputStage,
    TrainingStage,
    definition_of,
    digest,
)
from mux.recipe.digest import resolved

MAX_DEVICES = 2**14  # of a cluster; beyond it a plan takes long to make and to read
MAX_BATCH = 10**9  # groups; beyond it lies a slip of the keyboard
NEVER = 10**9  # DeepSpeed's own progress lines; ours are events

# The kinds of stages whose model a stage can start from.
PRETRAINING = ("retrieval", "pretrain")
TAKES: dict[str, tuple[str, ...]] = {
    "retrieval": PRETRAINING,
    "pretrain": PRETRAINING,
    "finetune": PRETRAINING,
    "evaluate": ("finetune",),
    "ensemble": ("finetune",),
    "throughput": (),  # random weights are as fast as any
    "muxology": PRETRAINING,
}


def make(loaded: Loaded, cluster: Cluster, directory: Path, micro_batches: Mapping[str, int] | None = None) -> Plan:
    """The plan of a recipe that the loader has checked. `micro_batches` are known already, of stages that go on or have
    been measured; other divisors of their shares may take their place. Raises Refusal with all that does not fit."""
    recipe = loaded.recipe
    problems = Problems(loaded)
    if cluster.devices > MAX_DEVICES:
        raise Refusal(Problem(f"{cluster.devices:,} ranks are more than {MAX_DEVICES:,}", where=cluster.source))
    if len(cluster.everyone) < (recipe.cluster.min_hosts or 1):
        problems.add("cluster.min_hosts", f"{recipe.cluster.min_hosts} hosts are needed, {_hosts(cluster)}",
                     f"--set cluster.min_hosts={len(cluster.hosts)}, or a hostfile with more hosts")
    stages: list[StagePlan] = []
    for stage in recipe.stages:
        most = _most(recipe.engine, (micro_batches or {}).get(stage.id))
        stages.append(_stage(recipe, stage, stages, cluster, most, problems))
    if problems:
        raise Refusal(problems)
    size = footprint.parameters(recipe)
    return Plan(
        name=recipe.name,
        directory=os.path.abspath(directory),
        recipe=resolved(recipe),
        recipe_digest=digest(recipe),
        provenance=dict(loaded.provenance),
        cluster=cluster,
        stages=tuple(stages),
        jobs=tuple(jobs_of(recipe, cluster, stages)),
        model=_model(recipe.model, size.total if size else None),
        parameters=size.total if size else None,
        memory=footprint.memory_rows(recipe, stages),
        disk_bytes=sum(footprint.disk(recipe, stages, cluster.devices).values()),
    )


class Problems(list[Problem]):
    """What is wrong, each with the place in the recipe that its key came from."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.loaded = loaded

    def add(self, key: str, message: str, hint: str | None = None) -> None:
        where = self.loaded.provenance.get(key, "default")
        self.append(Problem(message, key, str(self.loaded.path) if where == "default" else where, hint))


def _model(model: ModelSection, parameters: int | None) -> dict[str, Any]:
    """What results.json says about the model."""
    own = model.family != "hub"  # else all but its source is the encoder's own
    return {
        "family": model.family, "source": model.source, "N": model.N, "parameters": parameters,
        "size": model.size_name if own else None, "layers": model.shape.layers if own else None,
        "hidden": model.shape.hidden if own else None,
        "multiplexer": model.multiplexer if own and model.multiplexed else None,
        "demultiplexer": model.demultiplexer if own and model.multiplexed else None, "compat": model.compat,
    }


# --- one stage ------------------------------------------------------------------------------------
def _most(engine: EngineSection, known: int | None) -> int | None:
    """Groups of a micro batch of a stage, at most; None: to be measured. `known`: what it has had until now."""
    if engine.micro_batch == "auto":
        return known
    return min(engine.micro_batch, known or MAX_BATCH)


def _stage(recipe: Recipe, stage: Stage, earlier: Sequence[StagePlan], cluster: Cluster, most: int | None,
           problems: Problems) -> StagePlan:
    """`most`: as `_most` has it."""
    hosts = placement(stage, cluster)
    devices = sum(host.slots for host in hosts)
    source = _source(recipe, stage, earlier)
    plan = StagePlan(id=stage.id, kind=stage.kind, source=source, devices=devices,
                     sequence_length=_sequence_length(recipe, stage, source, earlier))
    if not isinstance(stage, TrainingStage):
        return plan
    micro_batch, accumulation = _fit(f"stages.{stage.id}.batch", stage.batch, most, hosts, problems)
    update: dict[str, Any] = {
        "batch": stage.batch,
        "micro_batch": micro_batch,
        "accumulation": accumulation,
        "deepspeed": deepspeed_config(recipe.engine, micro_batch or 1, accumulation or 1),
    }
    if isinstance(stage, FinetuneStage):
        points = _points(most, stage, hosts, problems)
        steps = _task_steps(recipe, stage)
        trainings = tuple(TrainingPlan(task=task, seed=seed, point=point, steps=steps[task])
                          for task, point, seed in product(steps, points, stage.seeds))
        update |= {"points": points, "task_steps": steps, "trainings": trainings,
                   "steps": trainings[0].steps if len(trainings) == 1 else None}
    else:
        update["steps"] = stage.steps
    return plan.model_copy(update=update)


def _sequence_length(recipe: Recipe, stage: Stage, source: str | None,
                     earlier: Sequence[StagePlan]) -> int | None:
    """Positions of the backbone; a stage that evaluates has that of the stage which trained its model."""
    if isinstance(stage, RetrievalStage | PretrainStage):
        return recipe.corpus.sequence_length
    if isinstance(stage, FinetuneStage | ThroughputStage):
        return stage.sequence_length
    if isinstance(stage, MuxologyStage):
        return stage.sequence_length or recipe.corpus.sequence_length
    return next((plan.sequence_length for plan in earlier if plan.id == source), None)


def _source(recipe: Recipe, stage: Stage, earlier: Sequence[StagePlan]) -> str | None:
    """Where the stage's model comes from: `from` as given, else the nearest earlier stage with one it takes, else,
    for fine-tuning and muxology, the encoder that [model] names as its source.

    None: new weights.
    """
    if stage.from_ is not None:
        return stage.from_
    encoder = recipe.model.source if isinstance(stage, FinetuneStage | MuxologyStage) else None
    return next((plan.id for plan in reversed(earlier) if plan.kind in TAKES[stage.kind]), encoder)


# --- batch arithmetic: batch = devices x micro batch x accumulation -------------------------------
def split(batch: int, devices: int, most: int) -> tuple[int, int]:
    """(micro batch, accumulation): the micro batch is the largest divisor of batch / devices up to `most`.

    `batch` is a multiple of `devices`. 64 devices at batch 256 and at most 32: (4, 1); 8 devices: (32, 1).
    """
    share = batch // devices
    if share <= most:
        return share, 1
    small = [i for i in range(1, min(isqrt(share), most) + 1) if share % i == 0]
    micro_batch = max(i for pair in ((i, share // i) for i in small) for i in pair if i <= most)
    return micro_batch, share // micro_batch


def _fit(key: str, batch: int, most: int | None, hosts: tuple[Host, ...],
         problems: Problems) -> tuple[int, int] | tuple[None, None]:
    """`split`, or a problem that names the batches and numbers of hosts that fit. `most`: as `_most` has it."""
    devices = sum(host.slots for host in hosts)
    if batch > MAX_BATCH:
        problems.add(key, f"{batch:,} groups a step are more than {MAX_BATCH:,}")
        return 1, 1
    if batch % devices == 0:
        return (None, None) if most is None else split(batch, devices, most)
    below = batch // devices * devices
    fitting = [number for number in (below, below + devices) if number]
    nearest = min(fitting, key=lambda number: abs(number - batch))
    hint = f"--set {key}={nearest}"
    fewer = _fewer_hosts(batch, hosts)
    if fewer:
        whole = sum(host.slots for host in hosts[:fewer])
        hint += f", or the first {fewer} of the {len(hosts)} hosts: {whole} devices divide {batch}"
    problems.add(key, f"batch {batch} is not a multiple of {devices} devices; "
                      f"{' or '.join(map(str, fitting))} would be", hint)
    return 1, 1


def _fewer_hosts(batch: int, hosts: tuple[Host, ...]) -> int | None:
    """The largest number of whole hosts, from the top of the hostfile, whose devices divide the batch."""
    devices = list(accumulate(host.slots for host in hosts))
    return next((n for n in range(len(hosts) - 1, 0, -1) if batch % devices[n - 1] == 0), None)


def _points(most: int | None, stage: FinetuneStage, hosts: tuple[Host, ...],
            problems: Problems) -> tuple[Point, ...]:
    """The grid of the search; a dimension that it leaves out has the stage's own value."""
    rates = stage.search.learning_rate or (stage.learning_rate,)
    batches = {batch: _fit(f"stages.{stage.id}.search.batch", batch, most, hosts, problems)
               for batch in stage.search.batch or (stage.batch,)}
    return tuple(
        Point(learning_rate=rate, batch=batch, micro_batch=micro_batch, accumulation=accumulation)
        for rate, (batch, (micro_batch, accumulation)) in product(rates, batches.items())
    )


def _task_steps(recipe: Recipe, stage: FinetuneStage) -> dict[str, int]:
    """Optimizer steps of each task: the stage's own word, else the task's default (paper Table 8)."""
    found: dict[str, int] = {}
    for task in stage.tasks:
        own = stage.steps.get(task) if isinstance(stage.steps, dict) else stage.steps
        steps = own or definition_of(task, recipe.tasks).steps
        assert steps is not None, f"mux.recipe.checks let task {task} pass without steps"
        found[task] = steps
    return found


def deepspeed_config(engine: EngineSection, micro_batch: int, accumulation: int) -> dict[str, Any]:
    """What `deepspeed.initialize` is handed, beside a torch AdamW of our own, which needs no compiler."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": engine.gradient_clipping,
        "zero_optimization": {"stage": engine.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": NEVER,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # it waits for the GPU twice per micro-batch, and nobody reads it
    }
    if engine.precision == "fp16":  # loss_scale 0: dynamic
        power = engine.initial_loss_scale_power
        config["fp16"] = {"enabled": True, "loss_scale": 0, "initial_scale_power": power}
    elif engine.precision == "bf16":
        config["bf16"] = {"enabled": True}
    return config


def _hosts(cluster: Cluster) -> str:
    count = len(cluster.hosts)
    return f"{cluster.source} has {count}" if cluster.source != "this host" else "there is only this one"
