"""What must hold between the keys of a recipe, beyond the type of each: numbers fit, names exist."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from mux.recipe import files, grammar, model_checks
from mux.recipe.positions import Path
from mux.recipe.refusal import Finding
from mux.recipe.schema import (
    EnsembleStage,
    EvaluateStage,
    FinetuneStage,
    Metric,
    ModelSection,
    PretrainStage,
    Recipe,
    RetrievalStage,
    Stage,
    TaskDefinition,
    ThroughputStage,
)
from mux.recipe.tasks import TASKS
from mux.recipe.wording import did_you_mean, listed, shown

# Names of files and folders that a run directory and a stage's folder have for other things.
_TAKEN_IDS = ("lock", "logs", "report", "stop")
_TAKEN_TASKS = ("checkpoints", "model")
_OF_CLASSES: tuple[Metric, ...] = ("accuracy", "f1", "matthews")
_OF_WORDS: tuple[Metric, ...] = ("accuracy", "f1")
_OF_NUMBERS: tuple[Metric, ...] = ("spearman", "pearson")
_TASK_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Everything that does not hold in a recipe of valid types."""
    yield from model_checks.findings(recipe)
    yield from _engine(recipe)
    yield from _sources(recipe)
    yield from _definitions(recipe)
    for index, stage in enumerate(recipe.stages):
        yield from _stage(recipe, stage, recipe.stages[:index])


# --- sections -----------------------------------------------------------------------------------------------
def _engine(recipe: Recipe) -> Iterator[Finding]:
    engine = recipe.engine
    if engine.precision == "fp16" and engine.zero_stage == 0:
        # Measured with DeepSpeed 0.19.8: it divides the gradients by a loss scale that it never applied.
        yield Finding(("engine", "zero_stage"),
                      "fp16 is not trained at ZeRO 0: DeepSpeed does not scale the loss there",
                      "--set engine.zero_stage=1", ("engine", "precision"))


def _sources(recipe: Recipe) -> Iterator[Finding]:
    yield from grammar.misspelt(("tokenizer", "source"), recipe.tokenizer.source, grammar.tokenizer)
    sources = recipe.corpus.sources
    yield from _list(("corpus", "sources"), sources)
    for index, source in enumerate(sources):
        yield from grammar.misspelt(("corpus", "sources", index), source, grammar.corpus)
    if recipe.tasks.root != "hub":
        yield Finding(("tasks", "root"), f"{shown(recipe.tasks.root)}: original files are not read yet",
                      "define the task with [tasks.define.NAME]")


def _definitions(recipe: Recipe) -> Iterator[Finding]:
    for name, task in recipe.tasks.define.items():
        key: Path = ("tasks", "define", name)
        if not _TASK_NAME.fullmatch(name) or name in _TAKEN_TASKS:
            yield Finding(key, "cannot be the name of a task: its folder bears it",
                          f"use small letters, digits and _ -; {listed(_TAKEN_TASKS)} are taken")
        suffixes = files.ROW_SUFFIXES if task.tokens is None else (".jsonl",)  # no other holds lists
        for part in ("train", "test"):
            yield from grammar.misspelt((*key, part), getattr(task, part), partial(grammar.rows, suffixes=suffixes))
        yield from _words(key, task)
        yield from _metrics(key, task)


def _words(key: Path, task: TaskDefinition) -> Iterator[Finding]:
    """A task about the words of a text has classes, one column of words and one of their classes."""
    if task.tokens is None:
        return
    if task.regression:
        yield Finding((*key, "regression"), "words have classes, not numbers", "leave out one of the two",
                      (*key, "tokens"))
    for other in ("text_pair", "label_name"):
        if getattr(task, other) is not None:
            yield Finding((*key, other), "has no meaning beside tokens", "leave it out", (*key, "tokens"))


def _metrics(key: Path, task: TaskDefinition) -> Iterator[Finding]:
    what, fits, cause = "classes", _OF_CLASSES, "regression"
    if task.tokens is not None:
        what, fits, cause = "the classes of words", _OF_WORDS, "tokens"
    elif task.regression:
        what, fits = "a regression", _OF_NUMBERS
    for metric in (task.metric, *task.others):
        if metric not in fits:
            yield Finding((*key, "metric" if metric == task.metric else "others"),
                          f"{metric} does not measure {what}", f"{listed(fits)} do", (*key, cause))


# --- stages -------------------------------------------------------------------------------------------------
def _stage(recipe: Recipe, stage: Stage, earlier: Sequence[Stage]) -> Iterator[Finding]:
    key: Path = ("stages", stage.id)
    if stage.id in _TAKEN_IDS:
        yield Finding((*key, "id"), f"{shown(stage.id)} is taken: a run directory has something else there")
    yield from _origin(recipe.model, stage, key, earlier)
    if isinstance(stage, RetrievalStage | PretrainStage) and stage.warmup_steps > stage.steps:
        yield Finding((*key, "warmup_steps"), f"{stage.warmup_steps} is more than steps = {stage.steps}",
                      cause=(*key, "steps"))
    elif isinstance(stage, FinetuneStage):
        yield from _finetune(recipe, stage, key)
    elif isinstance(stage, EnsembleStage):
        yield from _list((*key, "copies"), stage.copies)
        for index, copies in enumerate(stage.copies):
            if copies > recipe.model.N:
                message = f"{copies} copies do not fit in groups of N = {recipe.model.N}"
                yield Finding((*key, "copies", index), message, cause=("model", "N"))


def _origin(model: ModelSection, stage: Stage, key: Path, earlier: Sequence[Stage]) -> Iterator[Finding]:
    """`from`, and what stands for it where a stage does not say."""
    finetuned = [other.id for other in earlier if isinstance(other, FinetuneStage)]
    needs_finetuned = isinstance(stage, EvaluateStage | EnsembleStage)
    source, key = stage.from_, (*key, "from")
    if isinstance(stage, ThroughputStage) and source is not None:
        yield Finding(key, "has no meaning here: speed does not depend on the weights", "leave it out")
    elif source is None:
        if needs_finetuned and not finetuned:
            yield Finding(key[:-1], f"needs a finetune stage before it: {stage.kind} has no model to work on")
    elif needs_finetuned:
        if source not in finetuned:
            yield Finding(key, f"{shown(source)} is no finetune stage before this one",
                          did_you_mean(source, finetuned, "finetune stages"))
    elif source.startswith(grammar.ELSEWHERE):
        yield from grammar.misspelt(key, source, grammar.start)
        if source.startswith("princeton:") and model.multiplexed and model.compat is None:
            yield Finding(key, f"{shown(source)} is a model of the published numerics",
                          'write compat = "princeton" in [model]', ("model", "compat"))
    else:
        yield from _origin_stage(key, stage, source, earlier)


def _origin_stage(key: Path, stage: Stage, source: str, earlier: Sequence[Stage]) -> Iterator[Finding]:
    named = next((other for other in earlier if other.id == source), None)
    if named is None:
        yield Finding(key, f"{shown(source)} is no stage before this one",
                      did_you_mean(source, [other.id for other in earlier], "stages before it")
                      + "; or run:PATH, path:DIR, hub:ID, princeton:NAME")
    elif isinstance(named, EvaluateStage | EnsembleStage | ThroughputStage):
        yield Finding(key, f"{shown(source)} trains no model: it is of kind {named.kind}")
    elif isinstance(named, FinetuneStage) and isinstance(stage, RetrievalStage | PretrainStage):
        yield Finding(key, f"{shown(source)} leaves a model with a task's head in place of the one that {stage.kind} "
                      "trains", "name a stage before it that pre-trains")
    elif isinstance(named, FinetuneStage) and len(named.tasks) > 1:
        yield Finding(key, f"{shown(source)} makes a model for each of its {len(named.tasks)} tasks",
                      "give the task that is to go on a finetune stage of its own")


def _finetune(recipe: Recipe, stage: FinetuneStage, key: Path) -> Iterator[Finding]:
    known: dict[str, TaskDefinition] = TASKS | recipe.tasks.define
    yield from _list((*key, "tasks"), stage.tasks)
    yield from _list((*key, "seeds"), stage.seeds)
    for index, task in enumerate(stage.tasks):
        if task not in known:
            yield Finding((*key, "tasks", index), f"{shown(task)} is no known task",
                          did_you_mean(task, known, "tasks") + "; define others with [tasks.define.NAME]")
        elif known[task].steps is None and not _has_steps(stage, task):
            yield Finding((*key, "steps"), f"are needed: task {shown(task)} says none of its own",
                          "write steps = 1_000, say, or a table of them by task", (*key, "tasks", index))
    for task in stage.steps if isinstance(stage.steps, dict) else ():
        if task not in stage.tasks:
            yield Finding((*key, "steps", task), "is no task of this stage",
                          did_you_mean(task, stage.tasks, "its tasks"))
    for name in sorted(stage.search.model_fields_set):
        yield from _list((*key, "search", name), getattr(stage.search, name))


def _has_steps(stage: FinetuneStage, task: str) -> bool:
    return task in stage.steps if isinstance(stage.steps, dict) else stage.steps is not None


def _list(key: Path, values: Sequence[Any]) -> Iterator[Finding]:
    """Lists here name things to do: none of them is empty, and none says a thing twice."""
    if not values:
        yield Finding(key, "is empty", "leave it out to search nothing" if "search" in key else None)
    seen = set()
    for index, value in enumerate(values):
        if value in seen:
            yield Finding((*key, index), f"{shown(value)} is there twice")
        seen.add(value)
