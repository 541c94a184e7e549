"""What must hold in [tasks.define.NAME]: sources are spelt right, columns and metrics fit what the task is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from mux.recipe import grammar, rows
from mux.recipe.positions import Path
from mux.recipe.refusal import Finding
from mux.recipe.schema import Metric, TaskDefinition, TasksSection
from mux.recipe.wording import did_you_mean, listed, shown

_TAKEN = ("checkpoints", "model")  # names of files and folders that a stage's folder has for other things
_TAKEN_PARTS = ("test", "dev")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_OF_CLASSES: tuple[Metric, ...] = ("accuracy", "f1", "matthews")
_OF_WORDS: tuple[Metric, ...] = ("accuracy", "f1", "entity_f1")
_OF_NUMBERS: tuple[Metric, ...] = ("spearman", "pearson")


def findings(tasks: TasksSection) -> Iterator[Finding]:
    yield from grammar.misspelt(("tasks", "root"), tasks.root, grammar.original_files)
    for name, task in tasks.define.items():
        key: Path = ("tasks", "define", name)
        if not _NAME.fullmatch(name) or name in _TAKEN:
            yield Finding(key, "cannot be the name of a task: its folder bears it",
                          f"use small letters, digits and _ -; {listed(_TAKEN)} are taken")
        yield from _sources(key, task)
        yield from _columns(key, task)
        yield from _words(key, task)
        yield from _labels(key, task)
        yield from _metrics(key, task)


def _fitting(task: TaskDefinition) -> tuple[str, ...]:
    """Formats that can hold such rows."""
    return rows.TABLES if task.tokens is None else rows.OF_WORDS


def _sources(key: Path, task: TaskDefinition) -> Iterator[Finding]:
    kinds = _fitting(task)
    parts = {(*key, part): source for part in ("train", "test", "dev") if (source := getattr(task, part)) is not None}
    for name in task.also:
        if not _NAME.fullmatch(name) or name in _TAKEN_PARTS:
            yield Finding((*key, "also", name), "cannot be the name of further rows",
                          f"use small letters, digits and _ -; {listed(_TAKEN_PARTS)} are taken")
    parts |= {(*key, "also", name): source for name, source in task.also.items()}
    for part, source in parts.items():
        yield from grammar.misspelt(part, source, partial(grammar.rows, kinds=kinds, said=task.format is not None))
    if task.format is not None and task.format not in kinds:
        about = "texts; rows of words name a column of them in tokens" if task.tokens is None else "words"
        yield Finding((*key, "format"), f"{task.format} holds no rows of {about}", f"{listed(kinds, 'or')} do",
                      (*key, "tokens"))


def _columns(key: Path, task: TaskDefinition) -> Iterator[Finding]:
    """Columns are named once, and only where the files do not name them; the task's own are among them."""
    kinds = {task.format or rows.format_of(source) for source in (task.train, task.test) if source.startswith("path:")}
    if task.columns and not kinds <= {"tsv", "csv"}:
        yield Finding((*key, "columns"), "are for tsv and csv files whose first line names none", "leave them out",
                      (*key, "format"))
        return
    if len(set(task.columns)) < len(task.columns):
        yield Finding((*key, "columns"), "name a column twice")
    known = task.columns or (rows.COLUMNS.get(next(iter(kinds))) if len(kinds) == 1 else None)
    if not known or not kinds <= set(_fitting(task)):
        return
    texts = ("text", "text_pair") if task.tokens is None else ("tokens",)
    for name in (*texts, "label", "label_name"):
        column = getattr(task, name)
        if column is not None and column not in known:
            yield Finding((*key, name), f"{shown(column)} is no column of these files",
                          did_you_mean(column, known, "columns"))


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


def _labels(key: Path, task: TaskDefinition) -> Iterator[Finding]:
    if not task.labels:
        return
    for other in ("regression", "label_name"):
        if getattr(task, other):
            yield Finding((*key, "labels"), f"have no meaning beside {other}", "leave out one of the two",
                          (*key, other))
    if len(task.labels) < 2 or len(set(task.labels)) < len(task.labels):
        yield Finding((*key, "labels"), "must be two classes or more, each there once")


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
