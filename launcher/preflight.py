"""What is checked between the plan and the first process, so that a run does not fail at hour 24 for what was
wrong at second 0: the hardware, the files that the recipe names, the disk, the run directory.

`check` is for a real launch and parses what it can; `warnings` is for the dry run, which must answer at once
and also where none of the hardware is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from launcher import gpu, hostfile, named_files
from launcher.named_files import problem_of
from mux.plan import Plan
from mux.recipe import FinetuneStage, Problem, Recipe
from mux.recipe.wording import listed
from mux.run import RunDirectory, fine_tuned_model, pretrained_model, read_json

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer.model", "spiece.model", "vocab.json")
SAFE = ("model.safetensors",)  # of MUX models and of runs nothing else is read
WEIGHTS = (*SAFE, "pytorch_model.bin")
BF16_CAPABILITY = (8, 0)
ELSEWHERE = "--run-dir DIR chooses another place"
GB = 1e9


def check(plan: Plan, run: RunDirectory, begun: bool = True) -> list[Problem]:
    """Everything that would keep the run from starting or finishing; empty if it may start. `begun`: it goes on with
    what is in its directory, if anything is."""
    recipe = Recipe.model_validate(plan.recipe)
    return [
        *(_devices(plan) if hostfile.alone(plan.cluster) else ()),  # else the hosts themselves were asked
        *_precision(plan, recipe),
        *named_files.texts(plan, recipe, parse=True),
        *named_files.tasks(plan, recipe, parse=True),
        *_tokenizer(plan, recipe),
        *_models(plan, recipe),
        *_place(plan, run, begun),
    ]


def warnings(plan: Plan) -> list[str]:
    """The same about hardware and missing files, and what deserves a second look, for the dry run."""
    recipe = Recipe.model_validate(plan.recipe)
    problems = [
        *_devices(plan),
        *_precision(plan, recipe),
        *named_files.texts(plan, recipe, parse=False),
        *named_files.tasks(plan, recipe, parse=False),
        *_tokenizer(plan, recipe),
        *_models(plan, recipe),
    ]
    return [*map(str, problems), *_second_looks(plan)]


def _second_looks(plan: Plan) -> Iterator[str]:
    if plan.cluster.device == "cpu" and plan.cluster.source != "this host":
        ranks = plan.cluster.devices
        yield f"this machine has no GPU: {plan.cluster.source} would start {ranks} ranks on its CPU"
    for stage in plan.stages:
        if stage.kind == "finetune" and stage.source is None:
            yield f"stages.{stage.id}: no stage before it pre-trains a model, so it starts from new weights"


# --- hardware -------------------------------------------------------------------------------------
def _devices(plan: Plan) -> Iterator[Problem]:
    """Whether this machine, if it is one of the hosts, has what the hostfile says. Others are asked before a run."""
    host = next((host for host in plan.cluster.hosts if host.local), None)
    if plan.cluster.device == "cuda" and host and len(gpus := gpu.visible()) < host.slots:
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        within = "" if chosen is None else f" with CUDA_VISIBLE_DEVICES={chosen[:80]!a}"
        yield Problem(f"{host.name} has slots={host.slots}, but this machine has {len(gpus)} GPUs{within}",
                      where=plan.cluster.source, hint="correct the slots, or start where the GPUs are")


def _precision(plan: Plan, recipe: Recipe) -> Iterator[Problem]:
    """Whether this machine's devices can compute in the recipe's precision."""
    precision, key = recipe.engine.precision, "engine.precision"
    if plan.cluster.device == "cpu":
        if precision == "fp16":
            yield problem_of(plan, key, "fp16 cannot be trained on a CPU", hint='--set engine.precision="bf16"')
        return
    host = next((host for host in plan.cluster.hosts if host.local), None)
    used = gpu.visible()[: host.slots] if host else []
    old = [one for one in used if one.capability and one.capability < BF16_CAPABILITY]
    if precision == "bf16" and old:
        yield problem_of(plan, key, f"{old[0].name} has no bf16: its compute capability is below 8.0",
                         hint='--set engine.precision="fp16"')


# --- folders that the recipe names ----------------------------------------------------------------
def _tokenizer(plan: Plan, recipe: Recipe) -> Iterator[Problem]:
    kind, _, rest = recipe.tokenizer.source.partition(":")
    if kind != "path":
        return
    folder = Path(rest)
    if not folder.is_dir():
        yield problem_of(plan, "tokenizer.source", f"there is no folder {folder.absolute()}")
    elif not any((folder / name).is_file() for name in TOKENIZER_FILES):
        yield problem_of(plan, "tokenizer.source", f"{folder.absolute()} holds no tokenizer",
                         hint=f"expected one of {', '.join(TOKENIZER_FILES)}")


def _models(plan: Plan, recipe: Recipe) -> Iterator[Problem]:
    """Folders that stages start from by `from = "path:..."` or `"run:..."`, a [model] that is in one, and teachers."""
    named = {f"stages.{stage.id}.from": stage.from_ for stage in recipe.stages}
    for key, source in ({"model.source": recipe.model.source} | named).items():
        kind, _, rest = (source or "").partition(":")
        if kind in ("path", "run") and (wrong := _no_folder(Path(rest)) if kind == "path" else _no_run(Path(rest))):
            yield problem_of(plan, key, wrong)
    for stage in recipe.stages:
        if isinstance(stage, FinetuneStage) and stage.teacher and (wrong := _no_teacher(stage, stage.teacher)):
            yield problem_of(plan, f"stages.{stage.id}.teacher", wrong)


def _no_folder(folder: Path) -> str | None:
    """Why a stage cannot start from a folder: no model of its kind is in it."""
    config = folder / "config.json"
    try:
        kind = read_json(config).get("model_type") if config.is_file() else None
    except (ValueError, OSError, AttributeError):
        return f"{config.absolute()} cannot be read"
    return _no_model(folder, SAFE if kind == "mux" else WEIGHTS)


def _no_model(folder: Path, weights: Sequence[str]) -> str | None:
    """Why a folder is not one that a model can be loaded from; its weights must be in one of these files."""
    if not folder.is_dir():
        return f"there is no folder {folder.absolute()}"
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in weights):
        lacking.append(f"weights ({listed(weights, 'or')})")
    return f"{folder.absolute()} has no {' and no '.join(lacking)}" if lacking else None


def _no_teacher(stage: FinetuneStage, teacher: str) -> str | None:
    """Why a run cannot teach a stage's tasks: of the first one that it has no model of."""
    run = Path(teacher.removeprefix("run:"))
    return next(filter(None, (_no_run(run, partial(fine_tuned_model, task=task), f"fine-tuned a model of {task}")
                              for task in stage.tasks)), None)


def _no_run(folder: Path, model_of: Callable[[Any], str | None] = pretrained_model,
            did: str = "pre-trained a model") -> str | None:
    """Why a stage cannot take its model from a run: none of its stages `did` what makes one, or it is gone."""
    results = folder / "results.json"
    if not folder.is_dir():
        return f"there is no run directory {folder.absolute()}"
    if not results.is_file():
        return f"{folder.absolute()} has no results.json: no stage of that run has finished"
    try:
        model = model_of(read_json(results))
    except (ValueError, OSError, KeyError, TypeError, AttributeError):
        return f"{results.absolute()} cannot be read"
    if model is None:
        return f"no finished stage of the run in {folder.absolute()} has {did}"
    return _no_model(folder / model, SAFE)


# --- the place of the run -------------------------------------------------------------------------
def _place(plan: Plan, run: RunDirectory, begun: bool) -> Iterator[Problem]:
    try:
        yield from _directory(run)
        yield from _cache(run)
        yield from _disk(plan, run, begun)
    except OSError as error:  # a name that is too long, a disk that does not answer
        yield Problem(f"cannot be used: {error.strerror}", where=str(run.path), hint=ELSEWHERE)


def _cache(run: RunDirectory) -> Iterator[Problem]:
    """Tokenizers and token stores have a place of their own, which $MUX_CACHE may name."""
    there = _nearest(run.cache)
    if there != _nearest(run.path.parent) and not (there.is_dir() and os.access(there, os.W_OK)):
        yield Problem("cannot be written to, and tokenizers and token stores go there", where=str(run.cache),
                      hint="MUX_CACHE=DIR chooses another place")


def _directory(run: RunDirectory) -> Iterator[Problem]:
    where, there = str(run.path), _nearest(run.path)
    if not there.is_dir():
        what = "is not a directory" if there == run.path else f"cannot be made: {there} is not a directory"
        yield Problem(what, where=where, hint=ELSEWHERE)
    elif there == run.path and there.stat().st_uid != os.geteuid():
        yield Problem("belongs to another user: do not trust its checkpoints", where=where, hint=ELSEWHERE)
    elif not os.access(there, os.W_OK | os.X_OK):
        yield Problem(f"cannot be written: {there} is not writable", where=where, hint=ELSEWHERE)


def _disk(plan: Plan, run: RunDirectory, begun: bool) -> Iterator[Problem]:
    free = shutil.disk_usage(_nearest(run.path)).free
    needed = room_needed(plan.disk_bytes, run, begun)
    if free < needed:
        yield Problem(f"the run may need {needed / GB:,.2f} GB, and its disk has {free / GB:,.2f} GB free",
                      where=str(run.path), hint=f"{ELSEWHERE}; smaller keep_checkpoints need less")


def room_needed(in_all: int, run: RunDirectory, begun: bool) -> int:
    """Bytes that a run still has to write, of so many in all: if it has begun, an earlier start's checkpoints are there
    already; if it has not, what is in its directory is kept aside."""
    return in_all - size_of(run.path) if begun else in_all


def _nearest(path: Path) -> Path:
    """The path itself or its nearest parent that exists."""
    return next(one for one in (path, *path.parents) if one.exists())


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder; what goes away in the meantime counts for nothing."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(where) / name).lstat().st_size
    return total
