"""Throughput: instances per second of any number of models, against their own N = 1 and BERT BASE (paper appendix C).

The paper's protocol: batches of full rows, `trials` x `batches` of them after a warm-up; or ragged ones, sorted by
length on all sides. A model is timed in turns with
the same model at N = 1 and with transformers' BERT BASE, under the same head, mode, dtype and threads; a ratio is the
median of per-round ratios. Weights are random: speed does not depend on them. At most three models are in memory at a
time, and a row that is done is kept, so that an interrupted stage goes on with the next one.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from torch import nn
from transformers import BertConfig, PreTrainedModel

from mux.recipe import ModelSection, ThroughputModels, ThroughputStage
from mux.run import read_json, write_json
from mux.stages.context import Context
from mux.stages.encoders import AUTO_HEADS, ENCODERS, name_of
from mux.stages.timing import FED, HEADS, MODES, Contestant, RaggedRows, RandomRows, check_compiler, race

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
AXES = ("family", "size", "N", "multiplexer", "demultiplexer")
OF_MULTIPLEXING = ("multiplexer", "demultiplexer", "demultiplexer_layers", "learn_keys")


def run(context: Context, stage: ThroughputStage) -> None:
    started = time.monotonic()
    context.start(context.plan.stage(stage.id))
    entries = entries_of(context, stage)
    for entry in entries:
        entry.check(stage.sequence_length)
    if "compiled" in stage.modes:
        check_compiler(context.ranks.device)
    table = Table(context, stage, entries)
    for number, entry in enumerate(entries, 1):
        for head, mode in product(stage.heads, stage.modes):
            table.fill(entry, head, mode, f"model {number} of {len(entries)}")
    rows = table.rows()
    context.finish(stage.id, {"rows": rows, "ratio": rows[0]["ratio_to_n1"]}, started)


# --- what is timed ------------------------------------------------------------------------------------------
class Timed(Protocol):
    """What `mux.stages.encoders` makes for this stage."""

    @property
    def takes_segments(self) -> bool: ...
    @property
    def pads(self) -> bool: ...
    def check(self, length: int) -> None: ...
    def timed(self, head: str, labels: int) -> PreTrainedModel: ...


@dataclass(frozen=True)
class BertBase:
    """The model that the paper compares with, as transformers have it."""

    vocabulary: int
    takes_segments: bool = True
    pads: bool = False

    def check(self, length: int) -> None:
        if length > (positions := BertConfig().max_position_embeddings):
            raise ValueError(f"it has {positions} positions: sequence_length = {length} is more")

    def timed(self, head: str, labels: int) -> PreTrainedModel:
        config = BertConfig(vocab_size=self.vocabulary)
        config.num_labels = labels
        model: PreTrainedModel = AUTO_HEADS[head].from_config(config, dtype=torch.float32)
        return model


@dataclass(frozen=True)
class Entry:
    """A model of the table. Equal entries are one."""

    name: str
    N: int
    section: ModelSection | None  # None: BERT BASE
    columns: dict[str, Any] = field(compare=False)
    encoder: Timed = field(compare=False)

    def check(self, length: int) -> None:
        try:
            self.encoder.check(length)
        except ValueError as error:
            raise ValueError(f"{self.name} cannot be timed: {error}") from error


def entries_of(context: Context, stage: ThroughputStage) -> list[Entry]:
    """The grid, encoders of the hub, and last BERT BASE."""
    hub = [ModelSection(family="hub", source=source) for source in stage.models.hub]
    sections = dict.fromkeys([*grid(context.recipe.model, stage.models), *hub])
    return [*(entry_of(context, section) for section in sections), bert_base(context)]


def grid(model: ModelSection, models: ThroughputModels) -> Iterator[ModelSection]:
    """Every combination; an axis that is left out has the recipe's own value, N beside it 1.

    Raises ValueError for a recipe's encoder of the hub at N > 1.
    """
    own = {axis: (getattr(model, axis),) for axis in AXES} | {"N": (model.N, 1)}
    for point in product(*(getattr(models, axis) or own[axis] for axis in AXES)):
        section = model.model_copy(update=dict(zip(AXES, point, strict=True)))
        if section.family == "hub" and section.N > 1:
            raise ValueError(f"{section.source} is a plain encoder and has no N = {section.N}: name a family beside N "
                             'in the stage\'s models, as in family = ["bert"]')
        yield meaningful(section if section.family == "hub" else section.model_copy(update={"source": None}))


def meaningful(section: ModelSection) -> ModelSection:
    """Without what means nothing: a plain encoder is the same under any multiplexer."""
    if section.multiplexed:
        return section
    return section.model_copy(update={name: ModelSection.model_fields[name].default for name in OF_MULTIPLEXING})


def entry_of(context: Context, section: ModelSection) -> Entry:
    encoder = ENCODERS[section.family](context, section)
    columns = dict.fromkeys((*AXES, "source")) | {"family": section.family, "N": section.N}
    if section.family == "hub":
        return Entry(str(section.source), 1, section, columns | {"source": section.source}, encoder)
    kind = {"multiplexer": section.multiplexer, "demultiplexer": section.demultiplexer} if section.multiplexed else {}
    name = name_of(section.family, section.size_name, section.N, *kind.values())
    return Entry(name, section.N, section, columns | {"size": section.size_name} | kind, encoder)


def bert_base(context: Context) -> Entry:
    columns = dict.fromkeys((*AXES, "source")) | {"family": "bert", "size": "BASE", "N": 1}
    return Entry("bert BASE (transformers)", 1, None, columns, BertBase(len(context.tokenizer)))


def alone(context: Context, entry: Entry) -> Entry:
    """The same model at N = 1."""
    if entry.section is None or entry.N == 1:
        return entry
    return entry_of(context, meaningful(entry.section.model_copy(update={"N": 1})))


# --- the table ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class How:
    """A row's way of measuring: keys of HEADS, FED and MODES."""

    head: str
    batches_of: str
    mode: str

    def __str__(self) -> str:
        return ", ".join(vars(self).values())


class Table:
    """The rows of a stage, each in a file that is named by what it was measured of and how."""

    def __init__(self, context: Context, stage: ThroughputStage, entries: Sequence[Entry]) -> None:
        self.context, self.stage, self.entries = context, stage, entries
        self.device, self.dtype = context.ranks.device, context.recipe.engine.precision
        self.folder = context.run.stage(stage.id) / "rows"

    def rows(self) -> list[dict[str, Any]]:
        ways = [how for head, mode in product(self.stage.heads, self.stage.modes) for how in self.ways(head, mode)]
        return [self.kept(entry, how) for entry in self.entries for how in sorted(ways, key=self.place)]

    def ways(self, head: str, mode: str) -> list[How]:
        """Ragged batches are not compiled: hardly two have one shape, and each would be compiled anew."""
        return [How(head, batches_of, mode) for batches_of in self.stage.batches_of
                if (batches_of, mode) != ("ragged", "compiled")]

    def place(self, how: How) -> tuple[int, ...]:
        """Its order among the ways, as the recipe lists them."""
        stage = self.stage
        return (stage.heads.index(how.head), stage.batches_of.index(how.batches_of), stage.modes.index(how.mode))

    def fill(self, entry: Entry, head: str, mode: str, turn: str) -> None:
        """Time what is missing of an entry: beside its N = 1 and BERT BASE, which may be entries themselves."""
        missing = [how for how in self.ways(head, mode) if not self.kept(entry, how)]
        racing = list(dict.fromkeys((entry, alone(self.context, entry), self.entries[-1]))) if missing else []
        contestants = [self.contestant(racer, head, mode, turn) for racer in racing]
        for how in missing:
            for racer, contestant in zip(racing, contestants, strict=True):
                contestant.instances = FED[how.batches_of](self.stage.batch, racer.N)
                contestant.ragged = self.ragged(racer, contestant.rows) if how.batches_of == "ragged" else None
            progress = partial(self.context.progress, f"timing {entry.name}, {how}, {turn}", unit="rounds")
            seconds = race(contestants, self.stage.trials * self.stage.batches, self.device, progress)
            self.keep(how, racing, seconds, np.array([contestant.instances for contestant in contestants]))
        del contestants
        gc.collect()  # compiled models are in cycles
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def contestant(self, entry: Entry, head: str, mode: str, turn: str) -> Contestant:
        self.context.progress(f"making {entry.name}, {turn}", 0, None)
        torch.manual_seed(0)
        model = entry.encoder.timed(head, HEADS[head].labels).eval()
        model.config.pad_token_id = None  # rows are full; without a mask ours would look for padding in the ids
        model.to(device=self.device, dtype=DTYPES[self.dtype])
        embeddings = model.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        rows = RandomRows(self.context.tokenizer, HEADS[head], self.stage.sequence_length, embeddings.num_embeddings,
                          entry.encoder.takes_segments, self.device)
        return Contestant(f"{entry.name}, {head} head, {mode}", MODES[mode](model), rows)

    def ragged(self, entry: Entry, full: RandomRows) -> RaggedRows:
        return RaggedRows(full, entry.N, FED["instances"](self.stage.batch, entry.N) // entry.N,
                          self.context.tokenizer.pad_token_id, trimmed=not entry.encoder.pads)

    def keep(self, how: How, racing: Sequence[Entry], seconds: np.ndarray, fed: np.ndarray) -> None:
        """Write a row for each entry in the race that has none yet. `seconds` [rounds, racing]; `fed` [racing]."""
        for place, racer in enumerate(racing):
            if racer in self.entries and not self.kept(racer, how):
                single = racing.index(alone(self.context, racer))
                write_json(self.path(racer, how), {
                    "model": racer.name, **racer.columns, **vars(how),
                    **speeds(seconds, fed, self.stage.trials, place, {"n1": single, "bert_base": -1}),
                    **self.conditions})

    @property
    def conditions(self) -> dict[str, Any]:
        return {"sequence_length": self.stage.sequence_length, "trials": self.stage.trials,
                "batches": self.stage.batches, "device": self.context.ranks.device_name, "dtype": self.dtype,
                "threads": torch.get_num_threads(), "cpus": os.cpu_count(), "torch": torch.__version__,
                "transformers": transformers.__version__}

    def path(self, entry: Entry, how: How) -> Path:
        section = entry.section.model_dump() if entry.section else None
        identity = [entry.name, section, len(self.context.tokenizer), self.stage.batch, vars(how), self.conditions]
        return self.folder / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:20]}.json"

    def kept(self, entry: Entry, how: How) -> Any:
        """The row; None if it has not been measured yet."""
        return read_json(self.path(entry, how))


def speeds(seconds: np.ndarray, fed: np.ndarray, trials: int, place: int, others: dict[str, int]) -> dict[str, Any]:
    """Of the contestant at `place`: its speed, and how many times as fast per instance as `others`, by their places.

    `seconds` [rounds, contestants] of a batch, `fed` [contestants] instances in it. Speed is the mean over trials;
    ratios are medians over rounds, with quartiles.
    """
    by_trial = fed[place] / seconds[:, place].reshape(trials, -1).mean(axis=1)
    found = {"instances_per_second": float(by_trial.mean()), "trials_instances_per_second": by_trial.tolist(),
             "milliseconds_per_batch": 1000 * float(np.median(seconds[:, place])), "batch": int(fed[place])}
    per_instance = seconds / fed
    for name, other in others.items():
        low, middle, high = np.quantile(per_instance[:, other] / per_instance[:, place], (0.25, 0.5, 0.75))
        found |= {f"ratio_to_{name}": float(middle), f"ratio_to_{name}_quartiles": [float(low), float(high)]}
    return found
