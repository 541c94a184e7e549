"""The recipe's [model] as the stages that work on tasks use it: a MUX model, or any encoder of transformers.

A row of ENCODERS is a family of the recipe: which classes its models are of, how they are made and loaded, and how
rows are fed to them.
"""

from __future__ import annotations

import functools
import inspect
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from mux.data.tasks import Task
from mux.hub.folder import read_config
from mux.model import MuxConfig, MuxForSequenceClassification, MuxForTokenClassification
from mux.model.pipelines import longest_row, token_positions
from mux.recipe import FinetuneStage, ModelSection
from mux.recipe.wording import reason
from mux.stages.loading import TASK_HEADS, config_of, load_model, unfit
from mux.stages.sources import source_folder

if TYPE_CHECKING:
    from mux.stages.context import Context

# A head -> the classes that have it.
MUX_HEADS: dict[str, Any] = {"sequence": MuxForSequenceClassification, "token": MuxForTokenClassification}
AUTO_HEADS: dict[str, Any] = {"sequence": AutoModelForSequenceClassification, "token": AutoModelForTokenClassification}


class Encoder(Protocol):
    @property
    def takes_segments(self) -> bool:
        """Whether it is fed which text of a pair a token is of."""

    @property
    def pads(self) -> bool:
        """Whether every batch is padded to the full length, because padding is attended."""

    def starting(self, stage: FinetuneStage, task: Task, source: str | None) -> PreTrainedModel:
        """The weights of a plan's `source` (none: new ones) below a new head for the task, by torch's seed."""

    def tuned(self, stage: FinetuneStage, task: Task, folder: Path) -> PreTrainedModel:
        """The model that fine-tuning left in `folder`."""

    def check(self, length: int) -> None:
        """Raises ValueError if there is no such model, or none for rows of `length` tokens. Makes no weights."""

    def timed(self, head: str, labels: int) -> PreTrainedModel:
        """With new weights, below a `head` for so many classes: "sequence" or "token"."""


class MuxEncoder:
    """A MUX model of the family "bert" or "electra"."""

    def __init__(self, context: Context, section: ModelSection | None = None) -> None:
        """`section`: the model, where it is not the recipe's own."""
        self.context, self.section = context, section or context.recipe.model

    takes_segments = True  # and embeds segments or not, as its configuration says

    @property
    def pads(self) -> bool:
        return self.section.multiplexed and not self.section.departs("mask_padding")

    def starting(self, stage: FinetuneStage, task: Task, source: str | None) -> PreTrainedModel:
        kind, config = self.kind(task), self.config(stage, task)
        if source is None:
            return kind(config)
        return load_model(kind, source_folder(self.context, source), config, new=TASK_HEADS,
                          tell=functools.partial(self.context.remark, stage.id))

    def tuned(self, stage: FinetuneStage, task: Task, folder: Path) -> PreTrainedModel:
        return load_model(self.kind(task), folder, self.config(stage, task))

    def check(self, length: int) -> None:
        with torch.device("meta"):
            model = self.timed("sequence", 2)
        if length > (most := longest_row(model.config) or length):
            raise ValueError(f"rows of {length} tokens are too long: max_positions = {self.section.max_positions} has "
                             f"room for {most}")

    def timed(self, head: str, labels: int) -> Any:
        return MUX_HEADS[head](config_of(self.section, self.context.tokenizer, num_labels=labels))

    @staticmethod
    def kind(task: Task) -> Any:
        return MUX_HEADS[head_of(task)]

    def config(self, stage: FinetuneStage, task: Task) -> MuxConfig:
        return config_of(self.section, self.context.tokenizer, stage.retrieval_rate, **classes(task))


class HubEncoder:
    """Any encoder that transformers has task heads for, at N = 1: the baselines of the paper's Table 2."""

    pads = False

    def __init__(self, context: Context, section: ModelSection | None = None) -> None:
        source = (section or context.recipe.model).source
        assert source is not None
        self.context, self.source = context, source

    @cached_property
    def folder(self) -> Path:
        return source_folder(self.context, self.source)

    @cached_property
    def takes_segments(self) -> bool:
        """Whether the encoder knows first from second texts. DistilBERT does not; RoBERTa takes ids of one kind."""
        kinds = getattr(self.outline.config, "type_vocab_size", 2)
        return kinds > 1 and "token_type_ids" in inspect.signature(self.outline.forward).parameters

    @cached_property
    def outline(self) -> PreTrainedModel:
        """The encoder without its weights."""
        with torch.device("meta"):  # no memory, no time
            return self.built(AutoModelForSequenceClassification, self.configured())

    def starting(self, stage: FinetuneStage, task: Task, source: str | None) -> PreTrainedModel:
        folder = self.folder if source in (None, self.source) else source_folder(self.context, str(source))
        model = self.built(self.kind(task), self.configured(**classes(task)))
        trained, missing = self.loaded(task, folder, stage.sequence_length)
        within = f"{model.base_model_prefix}."
        if lacking := sorted(name for name in missing if name.startswith(within) and ".pooler." not in name):
            raise ValueError(f"{self.source} lacks {len(lacking)} weights of its encoder, {lacking[0]} among them")
        # The encoder alone: a head that the folder brings along has learnt another task, whatever its shape.
        model.base_model.load_state_dict(trained.base_model.state_dict())
        return model

    def tuned(self, stage: FinetuneStage, task: Task, folder: Path) -> PreTrainedModel:
        model, missing = self.loaded(task, folder, stage.sequence_length, use_safetensors=True)
        if missing:
            raise ValueError(f"{folder} lacks {len(missing)} weights of this model, {missing[0]} among them")
        return model

    def check(self, length: int) -> None:
        positions = token_positions(self.outline)
        if positions is not None and length > positions:
            raise ValueError(f"{self.source} has {positions} positions: sequence_length = {length} is more")

    def timed(self, head: str, labels: int) -> Any:
        return self.built(AUTO_HEADS[head], self.configured(num_labels=labels))

    @staticmethod
    def kind(task: Task) -> Any:
        return AUTO_HEADS[head_of(task)]

    def loaded(self, task: Task, folder: Path, length: int, **options: Any) -> tuple[Any, list[str]]:
        """The model, and the weights of it that are new."""
        self.check(length)
        model, info = self.built(self.kind(task), self.configured(**classes(task)), folder, **options)
        rows, ids = model.get_input_embeddings().num_embeddings, len(self.context.tokenizer)
        if rows < ids:
            raise ValueError(f"{self.source} embeds {rows:,} tokens, the tokenizer "
                             f"{self.context.recipe.tokenizer.source} has {ids:,}: take the encoder's own")
        return model, sorted(unfit(info))

    def configured(self, **fields: Any) -> Any:
        folder = self.folder
        try:
            read_config(folder)  # refuses what is larger than any model
            return AutoConfig.from_pretrained(folder, trust_remote_code=False, **fields)
        except Exception as error:
            raise self.not_made("configuration", error) from error

    def built(self, kind: Any, config: Any, folder: Path | None = None, **options: Any) -> Any:
        """A model with new weights, or (model, loading info) with those of a folder."""
        try:
            if folder is None:
                return kind.from_config(config, dtype=torch.float32, trust_remote_code=False)
            return kind.from_pretrained(folder, config=config, dtype=torch.float32, ignore_mismatched_sizes=True,
                                        output_loading_info=True, trust_remote_code=False, **options)
        except Exception as error:  # what an architecture that transformers cannot make raises may be anything
            raise self.not_made(kind.__name__.removeprefix("Auto"), error) from error

    def not_made(self, what: str, error: Exception) -> ValueError:
        return ValueError(f"{self.source}: transformers makes no {what} of it: {reason(error)}")


ENCODERS: dict[str, type[MuxEncoder] | type[HubEncoder]] = {
    "bert": MuxEncoder, "electra": MuxEncoder, "hub": HubEncoder,
}


PUBLISHED = ("gaussian", "rsa")  # the multiplexer and the demultiplexer that a name need not mention


def name_of(family: str, size: str, N: int, *kind: str) -> str:
    """A model's name for people: "bert BASE, N = 2, contextual". `kind`: multiplexer and demultiplexer, if any."""
    unusual = [part for part, usual in zip(kind, PUBLISHED, strict=False) if part != usual]
    return ", ".join([f"{family} {size}", f"N = {N}", *unusual])


def head_of(task: Task) -> str:
    return "token" if task.definition.tokens else "sequence"


def classes(task: Task) -> dict[str, Any]:
    """The fields of a configuration that name a task's classes, or say that it has one number instead."""
    if not task.labels:
        return {"num_labels": 1, "problem_type": "regression"}
    names = dict(enumerate(task.labels))
    return {"id2label": names, "label2id": {name: number for number, name in names.items()},
            "problem_type": "single_label_classification"}
