"""What published checkpoints call our parameters: one table, read in both directions (numerics section 2).

"Published" are the models of the paper's authors (MuxedBertFor..., MuxedElectraFor...) and transformers' own BERT and
ELECTRA, which are their baselines: `plain`. A name that ends in a dot stands for all that is inside the module.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mux.model import MuxConfig

# ours: published
EITHER = {
    "mux.backbone.": "{family}.",
    "classifier.": "classifier.",
    "discriminator.": "discriminator_predictions.",
}
PLAIN = EITHER | {
    "pooler.": "{family}.pooler.",
    "head.transform.": "cls.predictions.transform.",
    "head.decoder.": "cls.predictions.decoder.",
}
MULTIPLEXED = EITHER | {
    "mux.multiplexer.keys": "instance_embedding",
    "mux.multiplexer.instance_layer.": "muxing_attention.",
    "mux.multiplexer.slot_layer.": "muxing_attention_2.",
    "mux.multiplexer.mean_dense.": "cross_instances_linear.",
    "mux.multiplexer.mean_norm.": "cross_instances_layernorm.",
    # RSA
    "mux.demultiplexer.keys": "demux_module.demux_instance_embedding",
    "mux.demultiplexer.from_key.": "demux_module.dense_1.",
    "mux.demultiplexer.from_hidden.": "demux_module.dense_1.",
    "mux.demultiplexer.layers.{index}.": "demux_module.dense_{index_from_2}.",
    "mux.demultiplexer.norms.{index}.": "demux_module.layer_norm_{index_from_1}.",
    "mux.demultiplexer.task_layer.": "demultiplexer.pre_decoder.",
    "mux.demultiplexer.task_norm.": "demultiplexer.pre_decoder_layer_norm.",
    "mux.demultiplexer.vocabulary_layer.": "retrieval_head.pre_decoder.",
    "mux.demultiplexer.vocabulary_norm.": "retrieval_head.pre_decoder_layer_norm.",
    # prefix
    "mux.demultiplexer.task.from_key.": "demultiplexer.dense.",
    "mux.demultiplexer.task.from_hidden.": "demultiplexer.dense.",
    "mux.demultiplexer.task.norm.": "demultiplexer.layer_norm.",
    "mux.demultiplexer.vocabulary.from_key.": "retrieval_head.dense.",
    "mux.demultiplexer.vocabulary.from_hidden.": "retrieval_head.dense.",
    "mux.demultiplexer.vocabulary.norm.": "retrieval_head.layer_norm.",
    "head.decoder.": "retrieval_head.decoder.",
}

# One published matrix [D, 2D] acts on [key ; hidden state]: our two [D, D] are its halves, by columns (numerics 1.3).
HALVES = {"from_key.weight": 0, "from_hidden.weight": 1}

# copy: original. The same tensor under two names, which share storage in a .bin.
MODULE_COPIES = {
    "demultiplexer.demux_module.": "demux_module.",
    "retrieval_head.demux_module.": "demux_module.",
}
TIED = {  # BERT only
    "retrieval_head.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
}
SOMETIMES = {  # written by some versions of transformers and not by others
    "retrieval_head.bias": "retrieval_head.decoder.bias",
    "cls.predictions.bias": "cls.predictions.decoder.bias",
}

# Published, and read by nothing: a buffer, parts that only other heads have, layers beyond those that are applied.
UNUSED_PLAIN = ("{family}.embeddings.position_ids", "{family}.pooler.", "cls.seq_relationship.")
UNUSED_MULTIPLEXED = (
    "{family}.embeddings.position_ids", "demux_module.dense_{index_from_1}.", "demux_module.layer_norm_{index_from_1}.")


class PublishedKeys:
    """The table for one model. `plain`: as transformers names the parts of an encoder without a multiplexer."""

    def __init__(self, config: MuxConfig, plain: bool) -> None:
        def numbered(name: str, index: int) -> str:
            return name.format(family=config.family, index=index, index_from_1=index + 1, index_from_2=index + 2)

        layers = range(config.demultiplexer_layers)
        table = PLAIN if plain else MULTIPLEXED
        copies = MODULE_COPIES | (TIED if config.family == "bert" else {})
        self.names = {numbered(ours, i): numbered(theirs, i) for i in layers for ours, theirs in table.items()}
        self.copies = {copy: original for copy, original in copies.items() if copy.startswith("cls.") == plain}
        self.unused = {numbered(name, i) for i in layers for name in (UNUSED_PLAIN if plain else UNUSED_MULTIPLEXED)}

    def published(self, ours: str) -> tuple[str, int | None] | None:
        """The published name of our parameter, and which half of its columns is ours (None: all of it).

        None if published models have no such parameter.
        """
        found = translated(ours, self.names)
        half = next((half for end, half in HALVES.items() if ours.endswith(end)), None)
        return None if found is None else (self.original(found), half)

    def original(self, published: str) -> str:
        """The name of which this one is a copy, or itself."""
        return translated(published, self.copies | SOMETIMES) or published

    def is_unused(self, published: str) -> bool:
        return matching(published, self.unused) is not None

    def without_copies(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights by the names of the originals, whichever of the names are there.

        Raises ValueError for a copy that is not equal, and for one that a file with copies lacks.
        """
        groups: dict[str, list[str]] = {}
        for name in weights:
            groups.setdefault(self.original(name), []).append(name)
        keeps_copies = any(len(names) > 1 for names in groups.values())
        for original, (first, *others) in groups.items():
            for other in others:
                if not torch.equal(weights[first], weights[other]):
                    raise ValueError(f"{other} differs from {first}, of which it must be a copy")
            missing = self._group(original) - {first, *others}
            if keeps_copies and missing:
                raise ValueError(f"{min(missing)} is missing")
        return {original: weights[names[0]] for original, names in groups.items()}

    def _group(self, original: str) -> set[str]:
        """A name and its copies, but for what only some versions write."""
        if original in SOMETIMES.values():
            return set()
        return {original} | {copy + original.removeprefix(start) for copy, start in self.copies.items()
                             if matching(original, (start,))}


def translated(name: str, table: dict[str, str]) -> str | None:
    """The name with its beginning replaced as the table says; None if it has none that the table has."""
    start = matching(name, table)
    return None if start is None else table[start] + name.removeprefix(start)


def matching(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that is the name, or the module it is in."""
    return next((start for start in names if name == start or (start.endswith(".") and name.startswith(start))), None)
