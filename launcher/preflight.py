"""What is checked between the plan and the first process, so that a run does not fail at hour 24 for what was
wrong at second 0: the hardware, the files that the recipe names, the disk, the run directory.

`check` is for a real launch and parses what it can; `warnings` is for the dry run, which must answer at once
and also where none of the hardware is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from launcher import gpu
from mux.recipe import (
    TASKS,
    FinetuneStage,
    PretrainStage,
    Problem,
    Recipe,
    Refusal,
    RetrievalStage,
    TaskDefinition,
    files,
)
from mux.recipe.wording import listed, shown
from mux.run import Plan, RunDirectory, pretrained_model, read_json

PARSED_BYTES = 64_000_000  # a larger file is parsed only so far as its first rows; the workers read the rest
FIRST_ROWS = 1000
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer.model", "spiece.model", "vocab.json")
SAFE = ("model.safetensors",)  # of MUX models and of runs nothing else is read
WEIGHTS = (*SAFE, "pytorch_model.bin")
BF16_CAPABILITY = (8, 0)
ELSEWHERE = "--run-dir DIR chooses another place"
GB = 1e9


def check(plan: Plan, run: RunDirectory) -> list[Problem]:
    """Everything that would keep the run from starting or finishing; empty if it may start."""
    recipe = Recipe.model_validate(plan.recipe)
    return [
        *hardware(plan, recipe),
        *_texts(plan, recipe, parse=True),
        *_tasks(plan, recipe, parse=True),
        *_tokenizer(plan, recipe),
        *_models(plan, recipe),
        *_place(plan, run),
    ]


def warnings(plan: Plan) -> list[str]:
    """The same about hardware and missing files, and what deserves a second look, for the dry run."""
    recipe = Recipe.model_validate(plan.recipe)
    problems = [
        *hardware(plan, recipe),
        *_texts(plan, recipe, parse=False),
        *_tasks(plan, recipe, parse=False),
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
def hardware(plan: Plan, recipe: Recipe) -> Iterator[Problem]:
    """What this machine, if it is one of the hosts, cannot do. Other hosts are asked when the job starts."""
    precision, key = recipe.engine.precision, "engine.precision"
    if plan.cluster.device == "cpu":
        if precision == "fp16":
            yield _problem(plan, key, "fp16 cannot be trained on a CPU", hint='--set engine.precision="bf16"')
        return
    host = next((host for host in plan.cluster.hosts if host.local), None)
    if host is None:
        return
    gpus = gpu.visible()
    if len(gpus) < host.slots:
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        within = "" if chosen is None else f" with CUDA_VISIBLE_DEVICES={chosen[:80]!a}"
        yield Problem(f"{host.name} has slots={host.slots}, but this machine has {len(gpus)} GPUs{within}",
                      where=plan.cluster.source, hint="correct the slots, or start where the GPUs are")
    old = [one for one in gpus[:host.slots] if one.capability and one.capability < BF16_CAPABILITY]
    if precision == "bf16" and old:
        yield _problem(plan, key, f"{old[0].name} has no bf16: its compute capability is below 8.0",
                       hint='--set engine.precision="fp16"')


# --- files that the recipe names ------------------------------------------------------------------
def _texts(plan: Plan, recipe: Recipe, parse: bool) -> Iterator[Problem]:
    """The corpus, where a stage or the tokenizer reads it: there, readable, well-formed, not empty."""
    reads = any(isinstance(stage, RetrievalStage | PretrainStage) for stage in recipe.stages)
    if not reads and recipe.tokenizer.source != "sentencepiece":
        return
    key, documents, remote = "corpus.sources", 0, False
    problems: list[Problem] = []
    for source in recipe.corpus.sources:
        if source.startswith("hub:"):
            remote = True
            continue
        try:
            for path in files.expand(source):
                rows = files.read_documents(path)
                documents += sum(1 for _ in _some(rows, path)) if parse else 1
        except (Refusal, OSError) as error:
            problems += _problems(plan, key, error)
    if not documents and not problems and not remote:
        problems.append(_problem(plan, key, "the corpus has no text in it", hint="name files with text"))
    yield from problems


def _tasks(plan: Plan, recipe: Recipe, parse: bool) -> Iterator[Problem]:
    """The files of every task that is fine-tuned: there, well-formed, with the columns the task names."""
    stages = [stage for stage in recipe.stages if isinstance(stage, FinetuneStage)]
    for name in dict.fromkeys(task for stage in stages for task in stage.tasks):
        task = recipe.tasks.define.get(name) or TASKS[name]
        train: set[str] = set()
        test: set[str] = set()
        wrong = [*_task_file(plan, f"tasks.define.{name}.train", task, task.train, parse, train),
                 *_task_file(plan, f"tasks.define.{name}.test", task, task.test, parse, test)]
        yield from wrong
        if train and not wrong and not task.regression:
            yield from _classes(plan, name, task, train, test)


def _classes(plan: Plan, name: str, task: TaskDefinition, train: set[str], test: set[str]) -> Iterator[Problem]:
    known = _names(sorted(train)[:20])
    if len(train) == 1:
        yield _problem(plan, f"tasks.define.{name}.train", f"all rows have the label {known}",
                       hint="a classification needs two classes or more")
    if unknown := sorted(test - train):
        yield _problem(plan, f"tasks.define.{name}.test", f"no row of {task.train} has the label {_names(unknown[:3])}",
                       hint=f"it has {known}")


def _task_file(plan: Plan, key: str, task: TaskDefinition, source: str, parse: bool,
               labels: set[str]) -> Iterator[Problem]:
    """What is wrong with the rows of one file; `labels` takes in the classes of the rows that were parsed."""
    if source.startswith("hub:"):
        return
    texts = [column for column in (task.text, task.text_pair) if column] if task.tokens is None else [task.tokens]
    wanted = [*texts, task.label, *([task.label_name] if task.label_name else [])]
    wrong_row = _wrong_row if task.tokens is None else _wrong_words
    try:
        for path in files.expand(source):
            rows = files.read_rows(path)
            number = 0
            for number, row in enumerate(_some(rows, path) if parse else islice(rows, 1), start=1):
                lacking = [column for column in wanted if column not in row]
                if lacking:
                    yield _problem(plan, key, f"row {number:,} of {path} has no column {_names(lacking)}",
                                   hint=f"it has {_names(row)}")
                    break
                if wrong := wrong_row(row, texts, task.label):
                    yield _problem(plan, key, f"row {number:,} of {path} {wrong}")
                    break
                if parse:
                    labels.update(map(str, row[task.label] if task.tokens else [row[task.label]]))
            if number == 0:
                yield _problem(plan, key, f"{path} has no rows")
    except (Refusal, OSError) as error:
        yield from _problems(plan, key, error)


def _wrong_row(row: dict[str, Any], texts: Sequence[str], label: str) -> str | None:
    empty = [column for column in texts if not isinstance(row[column], str) or not row[column].strip()]
    if empty:
        return f"has no text in column {_names(empty)}"
    return "has no label" if row[label] is None or row[label] == "" else None


def _wrong_words(row: dict[str, Any], columns: Sequence[str], label: str) -> str | None:
    words, tags = row[columns[0]], row[label]
    for column, values in ((columns[0], words), (label, tags)):
        if not isinstance(values, list) or not values:
            return f"has no list in column {_names([column])}"
    if len(words) != len(tags):
        return f"has {_names(columns)} of {len(words)} and {_names([label])} of {len(tags)}: a class for each word"
    if not all(isinstance(word, str) and word.strip() for word in words):
        return f"has something else than words in column {_names(columns)}"
    return None if all(isinstance(tag, str | int) and tag != "" for tag in tags) else "has words without a label"


def _some(rows: Iterator[Any], path: Path) -> Iterator[Any]:
    """All rows of a file of moderate size, the first ones of a large one."""
    return rows if path.stat().st_size <= PARSED_BYTES else islice(rows, FIRST_ROWS)


def _tokenizer(plan: Plan, recipe: Recipe) -> Iterator[Problem]:
    kind, _, rest = recipe.tokenizer.source.partition(":")
    if kind != "path":
        return
    folder = Path(rest)
    if not folder.is_dir():
        yield _problem(plan, "tokenizer.source", f"there is no folder {folder.absolute()}")
    elif not any((folder / name).is_file() for name in TOKENIZER_FILES):
        yield _problem(plan, "tokenizer.source", f"{folder.absolute()} holds no tokenizer",
                       hint=f"expected one of {', '.join(TOKENIZER_FILES)}")


def _models(plan: Plan, recipe: Recipe) -> Iterator[Problem]:
    """Folders that stages start from by `from = "path:..."` or `"run:..."`, and a [model] that is in one."""
    named = {f"stages.{stage.id}.from": stage.from_ for stage in recipe.stages}
    for key, source in ({"model.source": recipe.model.source} | named).items():
        kind, _, rest = (source or "").partition(":")
        if kind in ("path", "run") and (wrong := _no_folder(Path(rest)) if kind == "path" else _no_run(Path(rest))):
            yield _problem(plan, key, wrong)


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


def _no_run(folder: Path) -> str | None:
    """Why a stage cannot start from a run: it has pre-trained no model, or it is gone."""
    results = folder / "results.json"
    if not folder.is_dir():
        return f"there is no run directory {folder.absolute()}"
    if not results.is_file():
        return f"{folder.absolute()} has no results.json: no stage of that run has finished"
    try:
        model = pretrained_model(read_json(results))
    except (ValueError, OSError, KeyError, TypeError, AttributeError):
        return f"{results.absolute()} cannot be read"
    if model is None:
        return f"no finished stage of the run in {folder.absolute()} has pre-trained a model"
    return _no_model(folder / model, SAFE)


# --- the place of the run -------------------------------------------------------------------------
def _place(plan: Plan, run: RunDirectory) -> Iterator[Problem]:
    try:
        yield from _directory(run)
        yield from _cache(run)
        yield from _disk(plan, run)
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


def _disk(plan: Plan, run: RunDirectory) -> Iterator[Problem]:
    """Room for what the run still has to write: an earlier start's checkpoints are there already."""
    free = shutil.disk_usage(_nearest(run.path)).free
    needed = plan.disk_bytes - _size(run.path)
    if free < needed:
        yield Problem(f"the run may need {needed / GB:,.2f} GB, and its disk has {free / GB:,.2f} GB free",
                      where=str(run.path), hint=f"{ELSEWHERE}; smaller keep_checkpoints need less")


def _nearest(path: Path) -> Path:
    """The path itself or its nearest parent that exists."""
    return next(one for one in (path, *path.parents) if one.exists())


def _size(folder: Path) -> int:
    found = (Path(where) / name for where, _, names in os.walk(folder) for name in names)
    return sum(path.lstat().st_size for path in found)


# --- words ----------------------------------------------------------------------------------------
def _problem(plan: Plan, key: str, message: str, hint: str | None = None) -> Problem:
    where = plan.provenance.get(key)
    return Problem(message, key, None if where == "default" else where, hint)


def _problems(plan: Plan, key: str, error: Refusal | OSError) -> Iterator[Problem]:
    """What a reader of files refused, with the recipe's key where the file itself is not named."""
    if isinstance(error, OSError):
        yield _problem(plan, key, f"{error.filename}: {error.strerror}")
        return
    for problem in error.problems:
        yield problem if problem.where else _problem(plan, key, problem.message, problem.hint)


def _names(columns: Iterable[str]) -> str:
    return listed(shown(column) for column in columns)
