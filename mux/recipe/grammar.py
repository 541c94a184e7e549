"""How recipes spell where things come from: texts, rows, tokenizers, models. A misspelt source is a Refusal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from mux.recipe import files
from mux.recipe.positions import Path
from mux.recipe.refusal import Finding, Problem, Refusal
from mux.recipe.rows import format_of
from mux.recipe.wording import did_you_mean, listed, shown

ELSEWHERE = ("run:", "path:", "hub:", "princeton:")  # how a `from` begins that is no stage of the recipe

_PUBLISHED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def misspelt(key: Path, source: str, check: Callable[[str], None]) -> Iterator[Finding]:
    """What `check`, one of the functions below, says of the source that stands at `key`."""
    try:
        check(source)
    except Refusal as refusal:
        problem = refusal.problems[0]
        yield Finding(key, problem.message, problem.hint)


def tokenizer(source: str) -> None:
    if source == "sentencepiece" or (source.startswith("path:") and source != "path:"):
        return
    if not source.startswith("hub:"):
        raise Refusal(f"{shown(source)} is none of hub:ID, path:DIR and sentencepiece")
    _on_the_hub(source, "tokenizer")


def corpus(source: str) -> None:
    _texts(source, files.CORPORA)


def rows(source: str, kinds: Sequence[str], said: bool = False) -> None:
    """`kinds` are the formats that the rows may have; `said`: the task says which, whatever the file's suffix."""
    _texts(source, files.ROWS)
    if source.startswith("hub:") and files.split_hub(source)[3] is None:
        raise Refusal(f"{shown(source)} names no split: write {source}:train, say")
    if source.startswith("path:") and not said and format_of(source) not in kinds:
        suffixes = listed([f".{kind}" for kind in kinds], "or")
        raise Refusal(Problem(f"{shown(source)} is not a {suffixes} file", hint="format = says how others are written"))


def original_files(root: str) -> None:
    """`tasks.root`."""
    if root != "hub" and (not root.startswith("path:") or root == "path:"):
        raise Refusal(f"{shown(root)} is neither hub nor path:DIR, a folder of original files")


def encoder(source: str) -> None:
    """An encoder of transformers: `source` of a [model] of family "hub", `hub` of models to time."""
    if source.startswith("hub:"):
        _on_the_hub(source, "model")
    elif not source.startswith("path:") or source == "path:":
        raise Refusal(f"{shown(source)} is none of hub:ID[@REVISION] and path:DIR")


def start(source: str) -> None:
    """A `from` that begins with one of ELSEWHERE."""
    scheme, _, rest = source.partition(":")
    if not source.startswith(ELSEWHERE):
        raise Refusal(f"{shown(source)} is none of run:PATH, path:DIR, hub:ID and princeton:NAME")
    if scheme == "hub":
        _on_the_hub(source, "model")
    elif scheme == "princeton":
        if not _PUBLISHED.fullmatch(rest):
            hint = "write its name alone, as in princeton:muxbert_base_gaussian_hadamard_index_pos_2"
            raise Refusal(Problem(f"{shown(source)} names no published model", hint=hint))
    elif not rest:
        raise Refusal(Problem(f"{shown(source)} names no place", hint="write run:PATH or path:DIR"))


def teacher(source: str) -> None:
    """`teacher` of a fine-tuning stage."""
    if not source.startswith("run:") or source == "run:":
        raise Refusal(Problem(f"{shown(source)} names no run", hint='write run:PATH, as in "run:runs/bert_base_n1"'))


def _texts(source: str, builtin: Sequence[str]) -> None:
    scheme, _, rest = source.partition(":")
    if scheme == "hub":
        files.split_hub(source)
    elif scheme == "builtin" and rest not in builtin:
        raise Refusal(f"{shown(source)} does not exist: {did_you_mean(rest, builtin, 'builtin')}")
    elif scheme not in ("path", "builtin") or not rest:
        raise Refusal(f"{shown(source)} is none of hub:ID, path:FILES and builtin:NAME")


def _on_the_hub(source: str, what: str) -> None:
    try:
        _, config, _, split = files.split_hub(source)
    except Refusal:
        hint = "write hub:ID[@REVISION], as in hub:google-bert/bert-base-uncased"
        raise Refusal(Problem(f"{shown(source)} names no {what} of the hub", hint=hint)) from None
    if config or split:
        raise Refusal(f"{shown(source)}: a {what} has no configuration or split, only hub:ID[@REVISION]")
