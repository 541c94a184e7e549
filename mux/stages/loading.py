"""MUX models by a recipe's [model], new or with the weights of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerFast

from mux.hub.folder import read_config
from mux.hub.warm_start import SAME, from_another_N, warm_start
from mux.model import MuxConfig, MuxForPreTraining, MuxForSequenceClassification, MuxForTokenClassification
from mux.model.opening import open_config
from mux.recipe import ModelSection
from mux.recipe.wording import listed, reason

Model = TypeVar("Model", MuxForPreTraining, MuxForSequenceClassification, MuxForTokenClassification)

# What a task adds to a pre-trained model: its own head, and what a retrieval loss decodes with.
TASK_HEADS = ("classifier.", "pooler.", "head.")

# Fields of the configuration in which weights and recipe must agree. Those of the multiplexer and the demultiplexer
# mean nothing to a plain encoder; those of the losses may change from stage to stage.
ENCODER_FIELDS = ("family", *SAME, "plain_single", "segment_ids")
MULTIPLEXING_FIELDS = (
    "multiplexer", "demultiplexer", "demultiplexer_layers", "shared_demultiplexer", "mask_padding", "own_special_ids",
)


def config_of(section: ModelSection, tokenizer: PreTrainedTokenizerFast, retrieval_rate: float = 0.0,
              **fields: Any) -> MuxConfig:
    """The model's configuration as the recipe's [model] and the real tokenizer say."""
    shape = section.shape
    return MuxConfig(
        family=section.family, num_instances=section.N, multiplexer=section.multiplexer,
        demultiplexer=section.demultiplexer, demultiplexer_layers=section.demultiplexer_layers,
        learn_keys=section.learn_keys, compat=section.compat, **section.departures.model_dump(),
        task_weight=1 - retrieval_rate, retrieval_weight=retrieval_rate,
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, embedding_size=section.embedding,
        hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        intermediate_size=shape.intermediate, hidden_dropout_prob=section.dropout,
        attention_probs_dropout_prob=section.attention_dropout, max_position_embeddings=section.max_positions,
        **fields)


def load_model(kind: type[Model], folder: Path, config: MuxConfig, new: tuple[str, ...] = (),
               tell: Callable[[str], None] | None = None, another_N: bool = False) -> Model:
    """A model of `config` with the weights of `folder`: a MUX model's, or a plain encoder's in the backbone.

    `new`: how the weights begin that the folder may lack, or have in another shape. `tell` is called with a sentence
    about what the folder of a plain encoder, or of `another_N` where that is allowed, lacks. Raises ValueError if
    others do not fit, naming what differs.
    """
    if read_config(folder).get("model_type") != MuxConfig.model_type:
        model = kind(config)
        told(tell, f"{folder} is a plain encoder", warm_start(model, folder))
        return model
    stored = open_config(folder)
    of_another_N: bool = another_N and stored.num_instances != config.num_instances
    both: bool = stored.multiplexed or not of_another_N
    for name in (*ENCODER_FIELDS, *(() if of_another_N else ("num_instances",)),
                 *(MULTIPLEXING_FIELDS if config.multiplexed and both else ())):
        there, asked = getattr(stored, name), getattr(config, name)
        if there != asked:
            raise ValueError(f"{folder} has {name} = {there}, this recipe asks for {asked}")
    if of_another_N:
        model = kind(config)
        told(tell, f"{folder} has N = {stored.num_instances}", from_another_N(model, folder))
        return model
    try:
        loaded: Any = kind.from_pretrained(folder, config=config, dtype=torch.float32, ignore_mismatched_sizes=True,
                                           output_loading_info=True, use_safetensors=True)
    except (OSError, SafetensorError) as error:  # a MUX model's weights are never pickled
        raise ValueError(f"{folder}: the weights cannot be loaded: {reason(error)}") from None
    model, info = loaded
    if missing := sorted(name for name in unfit(info) if not name.startswith(new)):
        raise ValueError(f"{folder} lacks {len(missing)} weights of this model or has them in another shape, "
                         f"{missing[0]} among them")
    return model


def unfit(info: dict[str, Any]) -> Iterator[str]:
    """The weights that `from_pretrained` had to draw anew."""
    yield from info["missing_keys"]
    for name, *_ in info["mismatched_keys"]:
        yield name


def told(tell: Callable[[str], None] | None, what: str, lacking: list[str]) -> None:
    if lacking and tell is not None:
        tell(f"{what}; untrained at the start: {listed(parts(lacking))}")


def parts(names: Iterable[str]) -> list[str]:
    """The modules that weights are in, as a user knows them: "demultiplexer", "classifier"."""
    return sorted({name.removeprefix("mux.").split(".")[0] for name in names})
