"""A MUX model that begins with the encoder of a plain BERT or ELECTRA checkpoint, or with a MUX model of another N."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mux.hub.folder import WEIGHTS, encoder_of, read_config, read_weights
from mux.hub.published_keys import PublishedKeys, matching
from mux.model import MuxConfig
from mux.recipe.wording import some

SAME = (  # the encoder's arithmetic: what configurations must agree on, of which most no weight's shape would show
    "vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "hidden_act", "layer_norm_eps", "max_position_embeddings", "type_vocab_size", "pad_token_id",
)
REQUIRED = "mux.backbone."
NEW = "classifier."  # a task's own, also where the checkpoint has been fine-tuned on one
SAFE = WEIGHTS[0]
PER_SLOT = ("mux.multiplexer.keys", "mux.demultiplexer.keys")
HEADS = (  # of transformers' BERT and ELECTRA: what of them our model has no place for is left
    "{family}.pooler.", "{family}.embeddings.position_ids", "cls.", "classifier.", "discriminator_predictions.",
    "generator_predictions.", "generator_lm_head.", "generator.",
)
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # of the first checkpoints


def warm_start(model: PreTrainedModel, folder: Path) -> list[str]:
    """Copy the encoder of the checkpoint in `folder` into `model`, and of its heads what the model has too.

    Returns the names of our parameters that stay as they were initialised; rows for prefix markers stay so too.
    Raises ValueError, and has changed nothing, if the checkpoint is of another shape, lacks a weight of the encoder or
    has weights that no BERT or ELECTRA has.
    """
    config = model.config
    assert isinstance(config, MuxConfig)
    check_config(config, folder)
    path, weights = read_weights(folder)
    keys = PublishedKeys(config, plain=True)
    try:
        originals = keys.without_copies(as_transformers_names(weights, config.family))
        found, new = matched(model.state_dict(), originals, keys, config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    known = tuple(name.format(family=config.family) for name in HEADS)
    left = originals.keys() - {name for _, name in found}
    if unknown := sorted(name for name in left if not matching(name, known)):
        raise ValueError(f"{path}: no {config.family.upper()} of this config.json has {some(unknown)}")
    state = model.state_dict()
    with torch.no_grad():
        for ours, name in found:
            state[ours][: len(originals[name])].copy_(originals[name])
    return sorted(new)


def from_another_N(model: PreTrainedModel, folder: Path) -> list[str]:
    """Copy into `model` the MUX model of another N in `folder`, but for what belongs to slots: the keys, and the rows
    of prefix markers behind the words.

    Returns the names of our parameters that stay as they were initialised. Raises ValueError, and has changed nothing,
    if the folder lacks a weight of the encoder or has a weight in another shape.
    """
    if not (folder / SAFE).is_file():  # a MUX model's weights are never pickled
        raise ValueError(f"{folder} has no {SAFE}")
    path, stored = read_weights(folder)
    words = model.config.vocab_size
    found, new = [], []
    for name, tensor in model.state_dict().items():
        if name in PER_SLOT or (name not in stored and not name.startswith(REQUIRED)):
            new.append(name)
        elif name not in stored:
            raise ValueError(f"{path}: {name} is missing")
        elif stored[name].shape == tensor.shape:
            found.append((tensor, stored[name]))
        elif min(len(tensor), len(stored[name])) >= words and tensor.shape[1:] == stored[name].shape[1:]:
            found.append((tensor[:words], stored[name][:words]))
        else:
            raise ValueError(f"{path}: {name} is {list(stored[name].shape)}; in this model it is {list(tensor.shape)}")
    with torch.no_grad():
        for ours, theirs in found:
            ours.copy_(theirs)
    tied = getattr(model, "_tied_weights_keys", None) or {}
    return sorted(name for name in new if name not in tied)


def check_config(config: MuxConfig, folder: Path) -> None:
    """Raises ValueError if the checkpoint is not of the model's family and shape."""
    published = read_config(folder)
    try:
        stored = encoder_of(published)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    if stored.model_type != config.family:
        raise ValueError(f"{folder} is a model of family {stored.model_type}, this one of {config.family}")
    for name in SAME:
        theirs, ours = getattr(stored, name, config.embedding_size), getattr(config, name)
        if theirs != ours:
            raise ValueError(f"{folder} has {name} = {theirs}, this model has {ours}")


def as_transformers_names(weights: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """Under the names of a model with a head: base models save their parts without the `bert.` in front."""
    bare = not any(name.startswith(f"{family}.") for name in weights)
    named = {}
    for name, tensor in weights.items():
        for old, today in OLD_NAMES.items():
            name = name.replace(old, today)
        named[f"{family}.{name}" if bare else name] = tensor
    return named


def matched(state: dict[str, Tensor], originals: dict[str, Tensor], keys: PublishedKeys,
            config: MuxConfig) -> tuple[list[tuple[str, str]], list[str]]:
    """(our name, the checkpoint's) of what both have, and our names of the rest."""
    found, new = [], []
    for ours, tensor in state.items():
        name, _ = keys.published(ours) or ("", None)
        if name not in originals and ours.startswith(REQUIRED):
            raise ValueError(f"{name} is missing")
        if name not in originals or ours.startswith(NEW):
            new.append(ours)
            continue
        theirs = originals[name].shape
        if tensor.shape != theirs and tensor.shape != (theirs[0] + config.marker_ids, *theirs[1:]):
            raise ValueError(f"{name} is {list(theirs)}; in this model it is {list(tensor.shape)}")
        found.append((ours, name))
    return found, new
