"""What `--dry-run` prints: the whole plan for people, plain text, the same on a terminal and in a pipe.

Of the environment, which may hold secrets, only what crosses to other hosts is printed (`reach.FORWARDED`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from launcher import process
from launcher.footprint import disk, parameters
from mux.plan import Plan, StagePlan
from mux.recipe import (
    HUB_KEYS,
    FinetuneStage,
    Loaded,
    ModelSection,
    PretrainStage,
    Recipe,
    RetrievalStage,
    TrainingStage,
)
from mux.recipe.digest import leaves
from mux.recipe.positions import Path
from mux.recipe.wording import dotted, printable
from mux.run import RunDirectory

VALUE_COLUMNS = 22  # what most values need
LIST_COLUMNS = 24  # a longer list goes on more lines than one


def render(plan: Plan, loaded: Loaded, warnings: Sequence[str] = ()) -> str:
    """The text of a dry run; `warnings` are what preflight says of this plan on this machine."""
    sections = [
        ("", _header(plan, loaded, warnings)),
        ("Values, and where each comes from", _values(plan)),
        ("Jobs and placement", _jobs(plan)),
        ("Batches and schedules", _training(plan, loaded.recipe)),
        ("DeepSpeed configuration", _deepspeed(plan)),
        ("Commands", _commands(plan)),
        ("Memory per device, an estimate", _memory(plan)),
        ("Disk", _disk(plan, loaded.recipe)),
        ("Run directory", _layout(plan, loaded.recipe)),
    ]
    lines: list[str] = []
    for title, body in sections:
        lines += [title, "-" * len(title)] if title else []
        lines += [*body, ""]
    return "\n".join(printable(line.rstrip()) for line in lines)  # names come from files


def model_name(model: ModelSection) -> str:
    """For people: "bert TINY, N = 2"."""
    if model.family == "hub":
        return f"{model.source}, N = {model.N}"
    return f"{model.family} {model.size_name}, N = {model.N}"


def number(value: float) -> str:
    """1e-4 rather than 0.0001, 256 rather than 256.0."""
    text = f"{value:.12g}" if 0.001 <= abs(value) < 1e6 or value == 0 else f"{value:e}"
    if "e" not in text:
        return text
    digits, _, exponent = text.partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


# --- sections -------------------------------------------------------------------------------------
def _header(plan: Plan, loaded: Loaded, warnings: Sequence[str]) -> Iterator[str]:
    yield f"{plan.name}: dry run, nothing was started"
    yield ""
    yield f"recipe      {loaded.path}"
    yield f"model       {model_name(loaded.recipe.model)}"
    yield from (f"            {line}" for line in _shape(loaded.recipe.model))
    size = parameters(loaded.recipe)
    frozen = f" ({size.frozen:,} of them frozen keys)" if size and size.frozen else ""
    yield f"parameters  {f'{size.total:,}' if size else 'not known before the encoder is fetched'}{frozen}"
    cluster = plan.cluster
    yield f"cluster     {_hosts(cluster.hosts)} = {_count(cluster.devices, 'device')} ({cluster.device})"
    yield f"            from {cluster.source}"
    yield f"directory   {plan.directory}"
    for warning in warnings:
        first, *rest = warning.splitlines()
        yield f"warning     {first}"
        yield from (f"            {line.strip()}" for line in rest)


def _shape(model: ModelSection) -> Iterator[str]:
    if model.family == "hub":
        yield "a plain encoder: its shape, dropout and positions are its own"
        return
    shape = model.shape
    narrow = f" from embeddings of {model.embedding_width}" if model.embedding_width != shape.hidden else ""
    yield f"{shape.layers} layers x {shape.hidden}{narrow}, {shape.heads} heads, intermediate {shape.intermediate}"
    if model.multiplexed:
        published_prefix = model.demultiplexer == "prefix" and not model.departs("shared_demultiplexer")
        layers = _count(1 if published_prefix else model.demultiplexer_layers, "layer")
        yield f"{model.multiplexer} multiplexer, {model.demultiplexer} demultiplexer of {layers}"
    if model.compat:
        yield "numerics of the published models"


def _values(plan: Plan) -> Iterator[str]:
    values = {key: value for key, value in leaves(plan.recipe).items() if value is not None and value != {}}
    if plan.recipe["model"]["family"] == "hub":
        values = {key: value for key, value in values.items() if key[0] != "model" or key[1] in HUB_KEYS}
    tables: dict[Path, list[Path]] = {}
    for key in values:
        tables.setdefault(key[:-1], []).append(key)
    wide = max(len(dotted(key[-1:])) for key in values)
    for table, rows in tables.items():
        if table:
            yield f"[{dotted(table)}]"
        for row in sorted(rows, key=lambda key: key[-1] not in ("id", "kind")):
            *above, last = _value(values[row])
            name = f"  {dotted(row[-1:]):<{wide}}  "
            for line in above:
                yield name + line
                name = " " * len(name)
            yield f"{name}{last:<{VALUE_COLUMNS}}  {plan.provenance[dotted(row)]}"


def _jobs(plan: Plan) -> Iterator[str]:
    for job in plan.jobs:
        yield f"job {job.id}: {_hosts(job.hosts)} = {_count(job.world_size, 'rank')}"
        wide = max(len(host.name) for host in job.hosts)
        for host in job.ranks():
            ranks = host["ranks"]
            span = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}-{ranks[-1]}"
            yield f"|- {host['name']:<{wide}}  {span}"
        for name in job.trainings:
            yield f"|- training {name}"
        for position, stage_id in enumerate(job.stages):
            stage = plan.stage(stage_id)
            branch = "`-" if position == len(job.stages) - 1 else "|-"
            kind = "" if stage.kind == stage.id else f" ({stage.kind})"
            yield (f"{branch} measures how many groups of stage {stage.id} fit" if job.measurement else
                   f"{branch} stage {stage.id}{kind}, from {stage.source or 'new weights'}")


def _training(plan: Plan, recipe: Recipe) -> Iterator[str]:
    for stage, planned in zip(recipe.stages, plan.stages, strict=True):
        if isinstance(stage, TrainingStage):
            yield stage.id
            yield from (f"  {line}" for line in _arithmetic(stage, planned, recipe.model.N))
            yield from (f"  {line}" for line in _schedule(stage, planned, recipe.model.N))


def _arithmetic(stage: TrainingStage, planned: StagePlan, N: int) -> Iterator[str]:
    """batch = devices x micro batch x accumulation, in words, for each batch that the stage uses."""
    batches = {(point.batch, point.micro_batch, point.accumulation): None for point in planned.points} or {
        (planned.batch or 0, planned.micro_batch, planned.accumulation): None}
    length = planned.sequence_length or 0
    for batch, micro_batch, accumulation in batches:
        devices = _count(planned.devices, "device")
        factors = (f"{devices} x {micro_batch:,} micro batch x {accumulation:,} accumulation"
                   if micro_batch and accumulation else
                   f"{devices} x micro batch x accumulation, of which as many groups as fit are to be measured")
        yield f"{_count(batch, 'group')} = {factors}"
        instances = f"= {batch * N:,} instances of N = {N}"
        if isinstance(stage, FinetuneStage):
            yield f"{instances}, at most {length} tokens each"
        else:
            yield f"{instances}, {batch * N * length:,} tokens a step"


def _schedule(stage: TrainingStage, planned: StagePlan, N: int) -> Iterator[str]:
    if isinstance(stage, RetrievalStage | PretrainStage):
        yield f"{stage.steps:,} steps = {stage.steps * stage.batch * N:,} instances"
        peak = number(stage.learning_rate)
        rise = f"0 to {peak} in {stage.warmup_steps:,} steps," if stage.warmup_steps else f"{peak},"
        yield f"learning rate {rise} then linearly to 0 at {stage.steps:,}"
    elif isinstance(stage, FinetuneStage):
        rates = " or ".join(dict.fromkeys(number(point.learning_rate) for point in planned.points))
        runs = len(stage.seeds) * len(planned.points)
        for steps in dict.fromkeys(planned.task_steps.values()):
            tasks = [task for task in stage.tasks if planned.task_steps[task] == steps]
            yield f"{steps:,} steps for {', '.join(tasks)}"
        yield (f"x {_count(len(stage.seeds), 'seed')} x {_count(len(planned.points), 'point')} of the search "
               f"= {sum(planned.task_steps.values()) * runs:,} steps in all")
        rise = f"0 to {rates} in the first {number(100 * stage.warmup_fraction)} % of the steps"
        yield f"learning rate {rise}, then linearly to 0"
        yield f"reported over {_count(stage.tickets, 'ticket')}"
    yield f"checkpoint every {_count(stage.save_every, 'step')}, the last {stage.keep_checkpoints:,} kept"


def _deepspeed(plan: Plan) -> Iterator[str]:
    configs: dict[str, list[str]] = {}
    for stage in plan.stages:
        if stage.deepspeed is not None:
            note = (" (to measure its micro batch with)" if stage.micro_batch is None
                    else " (the search sets the batch keys)" if len(stage.points) > 1 else "")
            configs.setdefault(json.dumps(stage.deepspeed, indent=2), []).append(stage.id + note)
    for config, stages in configs.items():
        yield f"{', '.join(stages)}:"
        yield from config.splitlines()


def _commands(plan: Plan) -> Iterator[str]:
    """One line a host, as the launcher starts it; PORT is chosen at the start."""
    for job in plan.jobs:
        yield f"job {job.id}:"
        argvs, by_host = process.host_commands(plan, job, port=None), process.variables_by_host(plan, job)
        for host, argv in zip(job.hosts, argvs, strict=True):
            variables = by_host[host.name] if host.local else {}  # else they are in it already
            settings = ["env", *(f"{name}={value}" for name, value in variables.items())] if variables else []
            yield shlex.join([*settings, *argv])


def _memory(plan: Plan) -> Iterator[str]:
    if not plan.memory:
        yield "not known: the encoder's shape is its own, and so is what ZeRO divides"
    columns = ("weights", "gradients", "optimizer", "activations", "total")
    for stage_id, rows in groupby(plan.memory, key=lambda row: row["stage"]):
        one = "" if plan.stage(stage_id).micro_batch else ", with the activations of one group"
        yield f"{stage_id}, on {_count(plan.stage(stage_id).devices, 'device')}{one}"
        yield "  ZeRO" + "".join(f"{name:>12}" for name in columns)
        for row in rows:
            mark = "  <- recipe" if row["recipe"] else ""
            sizes = "".join(f"{_bytes(row[name]):>12}" for name in columns)
            yield f"  {row['zero_stage']:<4}{sizes}{mark}"


def _disk(plan: Plan, recipe: Recipe) -> Iterator[str]:
    if parameters(recipe) is None:
        yield "checkpoints and models: not known before the encoder is fetched"
        return
    rows = disk(recipe, plan.stages, plan.cluster.devices) | {"at most": plan.disk_bytes}
    wide = max(map(len, rows))
    yield from (f"{what:<{wide}}  {_bytes(size):>12}" for what, size in rows.items())


def _layout(plan: Plan, recipe: Recipe) -> Iterator[str]:
    run = RunDirectory(plan.directory)
    yield f"{run.path}/"
    rows = [
        ("recipe.toml plan.json environment.json", "what was asked, planned, and installed"),
        ("events.jsonl", "what happened, one event a line"),
        ("results.json", "the results of every stage"),
        ("logs/", "what each rank printed"),
    ]
    for stage in recipe.stages:
        several = isinstance(stage, FinetuneStage) and len(stage.tasks) > 1
        tasks = stage.tasks if isinstance(stage, FinetuneStage) else ()
        if isinstance(stage, RetrievalStage | PretrainStage):
            rows.append((f"{stage.id}/checkpoints/", "to resume from"))
        rows += [(f"{stage.id}/{task}/trainings/", "each: result, predictions") for task in tasks]
        rows += [(f"{stage.id}/{task}/model/", "for AutoModel.from_pretrained") for task in tasks if several]
        if isinstance(stage, TrainingStage) and not several:
            rows.append((f"{stage.id}/model/", "for AutoModel.from_pretrained"))
    wide = max(len(name) for name, _ in rows)
    yield from (f"  {name:<{wide}}  {meaning}" for name, meaning in rows)


# --- words ----------------------------------------------------------------------------------------
def _value(value: Any) -> list[str]:
    """A value as TOML writes it, in lines: a long list has several."""
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and not isinstance(value, bool):
        text = f"{value:_}"
    elif isinstance(value, float):
        text = number(value)
    elif isinstance(value, list):
        lines = ["["]
        for position, item in enumerate(value):
            word = _value(item)[-1] + ("," if position < len(value) - 1 else "]")
            if len(lines[-1]) > 1 and len(lines[-1]) + 1 + len(word) > LIST_COLUMNS:
                lines.append("")
            lines[-1] += f" {word}" if lines[-1] != "[" else word
        return lines if value else ["[]"]
    return [text]


def _hosts(hosts: Sequence[Any]) -> str:
    """"8 hosts x 8 slots", or "2 hosts x 8 slots + 1 host x 4 slots"."""
    runs = [(slots, len(list(group))) for slots, group in groupby(hosts, key=lambda host: host.slots)]
    return " + ".join(f"{_count(count, 'host')} x {_count(slots, 'slot')}" for slots, count in runs)


def _count(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _bytes(size: int) -> str:
    """Decimal units, as disks and `plan.disk_bytes` count."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"
