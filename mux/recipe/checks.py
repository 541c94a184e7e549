"""What must hold between the keys of a recipe, beyond the type of each: numbers fit, names exist."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from mux.recipe import grammar, limits, model_checks, slurm_checks, task_checks
from mux.recipe.positions import Path
from mux.recipe.refusal import Finding
from mux.recipe.schema import ModelSection, Recipe
from mux.recipe.stages import (
    EnsembleStage,
    EvaluateStage,
    FinetuneStage,
    MuxologyStage,
    PretrainStage,
    RetrievalStage,
    Stage,
    ThroughputModels,
    ThroughputStage,
)
from mux.recipe.tasks import definition_of, known
from mux.recipe.wording import did_you_mean, listed, shown

_TAKEN_IDS = ("lock", "logs", "report", "stop")  # names that a run directory has for other things


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Everything that does not hold in a recipe of valid types; of one that asks for too much, that alone."""
    if beyond := list(limits.findings(recipe)):  # the other checks would take long
        yield from beyond
        return
    yield from model_checks.findings(recipe)
    yield from _engine(recipe)
    yield from _sources(recipe)
    yield from slurm_checks.findings(recipe.slurm)
    yield from task_checks.findings(recipe.tasks)
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
        yield from _list((*key, "copies"), stage.copies) if stage.copies is not None else ()
        for index, copies in enumerate(stage.copies or ()):
            if copies > recipe.model.N:
                message = f"{copies} copies do not fit in groups of N = {recipe.model.N}"
                yield Finding((*key, "copies", index), message, cause=("model", "N"))
    elif isinstance(stage, EvaluateStage):
        yield from _list((*key, "compositions"), stage.compositions)
    elif isinstance(stage, ThroughputStage):
        yield from _throughput(recipe, stage, key)
    elif isinstance(stage, MuxologyStage):
        yield from grammar.misspelt((*key, "corpus"), stage.corpus, grammar.corpus)
        for index, source in enumerate(stage.models):
            yield from grammar.misspelt((*key, "models", index), source, grammar.start)


def _origin(model: ModelSection, stage: Stage, key: Path, earlier: Sequence[Stage]) -> Iterator[Finding]:
    """`from`, and what stands for it where a stage does not say."""
    finetuned = [other.id for other in earlier if isinstance(other, FinetuneStage)]
    needs_finetuned = isinstance(stage, EvaluateStage | EnsembleStage)
    trains = any(isinstance(other, RetrievalStage | PretrainStage) for other in earlier)
    source, key = stage.from_, (*key, "from")
    if isinstance(stage, ThroughputStage) and source is not None:
        yield Finding(key, "has no meaning here: speed does not depend on the weights", "leave it out")
    elif source is None:
        if needs_finetuned and not finetuned:
            yield Finding(key[:-1], f"needs a finetune stage before it: {stage.kind} has no model to work on")
        if isinstance(stage, MuxologyStage) and not (trains or stage.models or model.source):
            yield Finding(key[:-1], "has no model to look into: no stage before it pre-trains one",
                          'name some, as in models = ["run:runs/NAME"]')
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
    elif isinstance(named, EvaluateStage | EnsembleStage | ThroughputStage | MuxologyStage):
        yield Finding(key, f"{shown(source)} trains no model: it is of kind {named.kind}")
    elif isinstance(named, FinetuneStage) and isinstance(stage, RetrievalStage | PretrainStage):
        yield Finding(key, f"{shown(source)} leaves a model with a task's head in place of the one that {stage.kind} "
                      "trains", "name a stage before it that pre-trains")
    elif isinstance(named, FinetuneStage) and len(named.tasks) > 1:
        yield Finding(key, f"{shown(source)} makes a model for each of its {len(named.tasks)} tasks",
                      "give the task that is to go on a finetune stage of its own")


def _throughput(recipe: Recipe, stage: ThroughputStage, key: Path) -> Iterator[Finding]:
    """The lists say nothing twice, and every model of the grid can be made."""
    for name in ("heads", "batches_of", "modes"):
        yield from _list((*key, name), getattr(stage, name))
    if "ragged" in stage.batches_of and "eager" not in stage.modes:
        yield Finding((*key, "modes"), "has no eager, and ragged batches are not compiled: each has a shape of its own",
                      'modes = ["eager", "compiled"], or leave "ragged" out of batches_of')
    models = stage.models
    for name in ThroughputModels.model_fields:
        if name in models.model_fields_set:
            yield from _list((*key, "models", name), getattr(models, name))
    for index, source in enumerate(models.hub):
        yield from grammar.misspelt((*key, "models", "hub", index), source, grammar.encoder)
    grid = {name: values for name, values in models if name != "hub" and values}
    told = {finding.message for finding in model_checks.findings(recipe)}
    for combination in product(*grid.values()) if grid else ():
        changes = dict(zip(grid, combination, strict=True))
        own = {} if changes.get("family", "hub") == "hub" else {"source": None}  # which only family "hub" has
        model = recipe.model.model_copy(update=changes | own)
        timed = recipe.model_copy(update={"model": model, "stages": (stage,)})
        for finding in model_checks.findings(timed):
            if finding.message not in told:
                told.add(finding.message)
                what = listed(f"{name} = {shown(value)}" for name, value in changes.items())
                yield Finding((*key, "models"), f"with {what}: {finding.message}", finding.hint, finding.key)


def _finetune(recipe: Recipe, stage: FinetuneStage, key: Path) -> Iterator[Finding]:
    names = known(recipe.tasks)
    yield from _list((*key, "tasks"), stage.tasks)
    yield from _list((*key, "seeds"), stage.seeds)
    for index, task in enumerate(stage.tasks):
        if task not in names:
            yield Finding((*key, "tasks", index), f"{shown(task)} is no known task",
                          did_you_mean(task, names, "tasks") + "; define others with [tasks.define.NAME]")
        elif definition_of(task, recipe.tasks).steps is None and not _has_steps(stage, task):
            yield Finding((*key, "steps"), f"are needed: task {shown(task)} says none of its own",
                          "write steps = 1_000, say, or a table of them by task", (*key, "tasks", index))
    for task in stage.steps if isinstance(stage.steps, dict) else ():
        if task not in names:  # a recipe that trains fewer of its parent's tasks need not say the steps anew
            yield Finding((*key, "steps", task), "is no known task", did_you_mean(task, names, "tasks"))
    if stage.teacher is not None:
        yield from grammar.misspelt((*key, "teacher"), stage.teacher, grammar.teacher)
    for name in ("teacher_rate", "temperature"):
        if stage.teacher is None and name in stage.model_fields_set:
            yield Finding((*key, name), "has no meaning without a teacher",
                          'write teacher = "run:PATH", or leave it out')
    for name in ("batch", "learning_rate"):
        if name in stage.search.model_fields_set:
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
