"""What a stage is handed besides its own section: the run, the ranks, the voice, and the data they share."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerFast

from mux.data.corpus import Corpus, open_corpus
from mux.data.tokenizer import fingerprint, open_tokenizer
from mux.event import Event, Notice, StageDone, StageStarted
from mux.plan import Plan, StagePlan
from mux.rank import StopFlag, Voice
from mux.recipe import Recipe
from mux.run import RunDirectory, write_json
from mux.stages.encoders import ENCODERS, Encoder
from mux.train.engine import Ranks
from mux.train.loop import Stopped

T = TypeVar("T")


@dataclass
class Context:
    run: RunDirectory
    plan: Plan
    recipe: Recipe
    ranks: Ranks
    voice: Voice
    stop: StopFlag
    trainings: tuple[str, ...] = ()  # what this job is for of its fine-tuning stage; none: all of the stage
    measurement: str = ""  # of micro batches: as the job has it
    models: dict[str, Path] = field(default_factory=dict)  # folders of models from outside the run, by their source
    remarks: set[str] = field(default_factory=set)  # what has been said and is not to be said again

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        section = self.recipe.tokenizer
        tokenizer = self._together(lambda: open_tokenizer(
            section.source, section.vocabulary, self.recipe.corpus.sources, self.run.cache,
            build=self.ranks.first, progress=self.progress))
        self.same_data("tokenizer", fingerprint(tokenizer))
        return tokenizer

    @cached_property
    def encoder(self) -> Encoder:
        """The recipe's [model], for the stages that work on tasks."""
        return ENCODERS[self.recipe.model.family](self)

    @cached_property
    def corpus(self) -> Corpus:
        section, tokenizer = self.recipe.corpus, self.tokenizer
        corpus = self._together(lambda: open_corpus(
            section.sources, section.sequence_length, tokenizer, self.run.cache,
            build=self.ranks.first, progress=self.progress, N=self.recipe.model.N))
        self.same_data("corpus", corpus.hash)
        return corpus

    def same_data(self, name: str, content_hash: str) -> None:
        """Note a hash of the data in environment.json, or see that it is the one with which the run began.

        Raises ValueError if it is not: going on would mix two data sets in one result.
        """
        if not self.ranks.first:
            return
        known = self.run.note_data(name, content_hash)
        if known != content_hash:
            raise ValueError(f"the {name} has changed since the run began: its hash was {known[:12]}, is "
                             f"{content_hash[:12]} now; put it back, or start over with --fresh")

    def _together(self, open_data: Callable[[], T]) -> T:
        """What `open_data` gives, unless any rank left it because of a stop: then all of them do."""
        data = None
        with suppress(Stopped):
            data = open_data()
        if self.ranks.sum([data is None])[0] > 0 or data is None:
            raise Stopped
        return data

    def progress(self, what: str, done: int, total: int | None, unit: str = "") -> None:
        """Say how far long work of one rank has come; raise Stopped if a stop was asked for.

        No checkpoint covers such work (building data, evaluating): it starts again at the next start.
        """
        if self.stop():
            raise Stopped
        if self.ranks.first:
            self.voice.progress(what, done, total, unit)

    def progress_together(self, what: str, done: int, total: int | None, unit: str = "") -> None:
        """The same for work that all ranks do in step: they agree on the stop."""
        if self.ranks.sum([self.stop()])[0] > 0:
            raise Stopped
        if self.ranks.first:
            self.voice.progress(what, done, total, unit)

    def say(self, event: Event) -> None:
        """What all ranks know is told by one."""
        if self.ranks.first:
            self.voice(event)
        else:
            self.voice.follow(event)

    def remark(self, stage: str, text: str) -> None:
        """Say once what every seed and every point of a search would say again."""
        if text not in self.remarks:
            self.remarks.add(text)
            self.say(Notice(text=text, stage=stage))

    def moved(self, step: int) -> None:
        """Note for the heartbeat which step this rank is at."""
        self.voice.step = step

    def start(self, plan: StagePlan, steps: int | None = None, from_step: int = 0) -> None:
        self.say(StageStarted(stage=plan.id, kind=plan.kind, steps=steps, from_step=from_step))

    def finish(self, stage_id: str, result: dict[str, Any], started: float) -> None:
        """Write the stage's result, which makes it done. `started` is a time.monotonic()."""
        result = result | {"seconds": round(time.monotonic() - started, 2)}
        if self.ranks.first:
            write_json(self.run.stage_result(stage_id), result)
        self.say(StageDone(stage=stage_id, result=result, seconds=result["seconds"]))
        self.ranks.barrier()
