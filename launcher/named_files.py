"""What is wrong with the files of texts and of tasks' rows that a recipe names, before the first process reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any

from mux.plan import Plan
from mux.recipe import (
    FinetuneStage,
    MuxologyStage,
    PretrainStage,
    Problem,
    Recipe,
    Refusal,
    RetrievalStage,
    TaskDefinition,
    definition_of,
    files,
)
from mux.recipe.labels import label_of, numbers_of
from mux.recipe.rows import LeftOut, read_rows
from mux.recipe.tasks import folder_of, missing
from mux.recipe.wording import listed, shown

PARSED_BYTES = 64_000_000  # a larger file is parsed only so far as its first rows; the workers read the rest
FIRST_ROWS = 1000


def texts(plan: Plan, recipe: Recipe, parse: bool) -> Iterator[Problem]:
    """The corpus, where a stage or the tokenizer reads it, and those of muxology: there, well-formed, not empty."""
    reads = any(isinstance(stage, RetrievalStage | PretrainStage) for stage in recipe.stages)
    if reads or recipe.tokenizer.source == "sentencepiece":
        group = recipe.model.N * (recipe.corpus.sequence_length - 2) if reads else 0
        yield from _documents(plan, "corpus.sources", recipe.corpus.sources, parse, group)
    for stage in recipe.stages:
        if isinstance(stage, MuxologyStage):
            yield from _documents(plan, f"stages.{stage.id}.corpus", (stage.corpus,), parse)


def _documents(plan: Plan, key: str, sources: Sequence[str], parse: bool, group: int = 0) -> Iterator[Problem]:
    """`group`: the tokens that must be there. No token is less than a byte, and a document ends in one of its own."""
    documents, tokens, remote = 0, 0.0, False
    problems: list[Problem] = []
    for source in sources:
        if source.startswith("hub:"):
            remote = True
            continue
        try:
            for path in files.expand(source):
                for text in _some(files.read_documents(path), path) if parse else ("",):
                    documents, tokens = documents + 1, tokens + len(text.encode()) + 1
                tokens = tokens if parse and _small(path) else inf  # nobody has counted
        except (Refusal, OSError) as error:
            problems += _problems(plan, key, error)
    if not documents and not problems and not remote:
        problems.append(problem_of(plan, key, "the corpus has no text in it", hint="name files with text"))
    elif tokens < group and not problems and not remote:
        problems.append(problem_of(plan, key, f"{tokens:.0f} bytes of text do not fill a group of rows: {group} tokens",
                                   hint="give it more text or shorter rows"))
    yield from problems


def tasks(plan: Plan, recipe: Recipe, parse: bool) -> Iterator[Problem]:
    """The files of every task that is fine-tuned: there, well-formed, with the columns the task names."""
    stages = [stage for stage in recipe.stages if isinstance(stage, FinetuneStage)]
    names = list(dict.fromkeys(task for stage in stages for task in stage.tasks))
    if (root := folder_of(recipe.tasks)) is not None and not root.is_dir():
        yield problem_of(plan, "tasks.root", f"there is no folder {root.absolute()}")
        names = [name for name in names if name in recipe.tasks.define]
    for name in names:
        if lacking := [*missing(name, recipe.tasks)]:
            for places in lacking:
                yield problem_of(plan, "tasks.root", f"task {name} has no file {places[0]} there",
                                 hint=f"looked for {listed(places, 'or')} in {root and root.absolute()}")
        else:
            yield from _task(plan, recipe, name, parse)


def _task(plan: Plan, recipe: Recipe, name: str, parse: bool) -> Iterator[Problem]:
    task = definition_of(name, recipe.tasks)
    sources = {"train": task.train, "test": task.test, **({"dev": task.dev} if task.dev else {}),
               **{f"also.{part}": source for part, source in task.also.items()}}
    key = f"tasks.define.{name}" if name in recipe.tasks.define else "tasks.root"
    keys = {part: f"{key}.{part}" if name in recipe.tasks.define else key for part in sources}
    labels: dict[str, set[str]] = {part: set() for part in sources}
    wrong = [problem for part, source in sources.items()
             for problem in _task_file(plan, keys[part], task, source, parse, labels[part])]
    yield from wrong
    if not wrong and not task.regression:
        yield from _classes(plan, keys, task, labels)


def _classes(plan: Plan, keys: dict[str, str], task: TaskDefinition, labels: dict[str, set[str]]) -> Iterator[Problem]:
    """Labels, by part, that are no class of the task: not named by it, or not among those of its train rows."""
    train = labels["train"]
    known, of = train, f"no row of {task.train} has the label"
    if task.labels:
        known, of = set(numbers_of(task.labels)), "the task's labels lack"
    if len(known) == 1:
        yield problem_of(plan, keys["train"], f"all rows have the label {_names(known)}",
                         hint="a classification needs two classes or more")
    for part, there in labels.items():
        if known and (unknown := sorted(there - known)):
            hint = f"they are {_names(task.labels)}" if task.labels else f"it has {_names(sorted(train)[:20])}"
            yield problem_of(plan, keys[part], f"{of} {_names(unknown[:3])}", hint=hint)


def _task_file(plan: Plan, key: str, task: TaskDefinition, source: str, parse: bool,
               labels: set[str]) -> Iterator[Problem]:
    """What is wrong with the rows of one source; `labels` takes in the classes of its rows if all were parsed."""
    if source.startswith("hub:"):
        return
    columns = [column for column in (task.text, task.text_pair) if column] if task.tokens is None else [task.tokens]
    wanted = [*columns, task.label, *([task.label_name] if task.label_name else [])]
    wrong_row = _wrong_row if task.tokens is None else _wrong_words
    found: set[str] = set()
    whole = parse
    try:
        for path in files.expand(source):
            rows = read_rows(path, task.format, task.columns, LeftOut(task.broken_lines))
            whole &= _small(path)
            number = 0
            for number, row in enumerate(_some(rows, path) if parse else islice(rows, 1), start=1):
                lacking = [column for column in wanted if column not in row]
                if lacking:
                    yield problem_of(plan, key, f"row {number:,} of {path} has no column {_names(lacking)}",
                                     hint=f"it has {_names(row)}")
                    break
                if wrong := wrong_row(row, columns, task.label):
                    yield problem_of(plan, key, f"row {number:,} of {path} {wrong}")
                    break
                found.update(filter(None, map(label_of, row[task.label] if task.tokens else [row[task.label]])))
            if number == 0:
                yield problem_of(plan, key, f"{path} has no rows")
    except (Refusal, OSError) as error:
        yield from _problems(plan, key, error)
    labels |= found if whole else set()


def _wrong_row(row: dict[str, Any], texts: Sequence[str], label: str) -> str | None:
    empty = [column for column in texts if not isinstance(row[column], str) or not row[column].strip()]
    if len(empty) == len(texts) or any(not isinstance(row[column], str) for column in empty):
        return f"has no text in column {_names(empty)}"
    return "has no label" if label_of(row[label]) is None else None


def _wrong_words(row: dict[str, Any], columns: Sequence[str], label: str) -> str | None:
    words, tags = row[columns[0]], row[label]
    for column, values in ((columns[0], words), (label, tags)):
        if not isinstance(values, list) or not values:
            return f"has no list in column {_names([column])}"
    if len(words) != len(tags):
        return f"has {_names(columns)} of {len(words)} and {_names([label])} of {len(tags)}: a class for each word"
    if not all(isinstance(word, str) and word.strip() for word in words):
        return f"has something else than words in column {_names(columns)}"
    return "has words without a label" if None in map(label_of, tags) else None


def _some(rows: Iterator[Any], path: Path) -> Iterator[Any]:
    """All rows of a file of moderate size, the first ones of a large one."""
    return rows if _small(path) else islice(rows, FIRST_ROWS)


def _small(path: Path) -> bool:
    return path.stat().st_size <= PARSED_BYTES


# --- words ----------------------------------------------------------------------------------------
def problem_of(plan: Plan, key: str, message: str, hint: str | None = None) -> Problem:
    where = plan.provenance.get(key)
    return Problem(message, key, None if where == "default" else where, hint)


def _problems(plan: Plan, key: str, error: Refusal | OSError) -> Iterator[Problem]:
    """What a reader of files refused, with the recipe's key where the file itself is not named."""
    if isinstance(error, OSError):
        yield problem_of(plan, key, f"{error.filename}: {error.strerror}")
        return
    for problem in error.problems:
        yield problem if problem.where else problem_of(plan, key, problem.message, problem.hint)


def _names(columns: Iterable[str]) -> str:
    return listed(shown(column) for column in columns)
