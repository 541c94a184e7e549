"""Muxology: how active each layer is and how widely it attends, over an evaluation corpus (paper section 5.5, D.2).

Of each layer 1 .. L of the backbone, after its layer norm: the mean absolute value of its hidden states, and the
entropy in nats of its attention over keys, averaged over heads. Both are means over positions: every position of the
corpus weighs the same, whichever batch it is in. A position counts if any text of the group has a token there, and no
probability is on keys that are padding; under the published numerics padding is attended, so all positions count. The
positions of a prefix count too: the backbone computes them like any other. Texts are read uncorrupted.

B groups, N slots, L tokens of a row, F positions with its prefix, H heads, D width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from mux.data.corpus import Corpus, open_corpus
from mux.data.grouping import compose
from mux.data.tokenizer import ROLES
from mux.model import MuxConfig, MuxModel
from mux.model.opening import open_config
from mux.model.pipelines import attends_padding, longest_row, open_tokenizer, token_positions
from mux.recipe import MuxologyStage
from mux.recipe.wording import listed, reason
from mux.size import SIZES
from mux.stages.context import Context
from mux.stages.encoders import name_of
from mux.stages.loading import unfit
from mux.stages.sources import source_folder

SEED = 0  # of the composition of rows into groups
TOKENIZERS = ("tokenizer.json", "vocab.txt")


def run(context: Context, stage: MuxologyStage) -> None:
    """The stage's own source and then `stage.models`. Raises ValueError if there are none."""
    started, plan = time.monotonic(), context.plan.stage(stage.id)
    context.start(plan)
    sources = list(dict.fromkeys([*filter(None, [plan.source]), *stage.models]))
    if not sources:
        raise ValueError(f"stage {stage.id} has no model to look into: name some as its models, or pre-train one")
    assert plan.sequence_length is not None
    rows = [look_into(context, stage, plan.sequence_length, source) for source in sources]
    context.finish(stage.id, {"models": rows}, started)


@torch.inference_mode()
def look_into(context: Context, stage: MuxologyStage, length: int, source: str) -> dict[str, Any]:
    """The result's entry of one model on rows of `length` tokens; it is in memory no longer than this takes."""
    folder = source_folder(context, source)
    reader = reader_of(folder, source)
    if length > reader.longest:
        raise ValueError(f"{source} reads at most {reader.longest} tokens of a row: write sequence_length = "
                         f"{reader.longest} in stage {stage.id}, or leave the model out")
    reader.model.eval().to(device=context.ranks.device)
    tokenizer = tokenizer_of(context, reader, folder, source)
    corpus = open_corpus([stage.corpus], length, tokenizer, context.run.cache,
                         build=context.ranks.first, progress=context.progress)
    context.same_data(f"{stage.corpus} as {source} reads it", corpus.hash)
    groups = compose(corpus.rows, reader.N, SEED)
    chosen = groups.groups[: stage.groups]
    means = LayerMeans()
    for first in range(0, len(chosen), stage.batch):
        context.progress(f"looking into {reader.name}", first, len(chosen), "groups")
        ids_RL = torch.from_numpy(corpus.take(chosen[first : first + stage.batch])).flatten(0, 1)
        means.add(reader.read(ids_RL.to(context.ranks.device), corpus.pad_id))
    context.progress(f"looking into {reader.name}", len(chosen), len(chosen), "groups")
    read = chosen[groups.counted[: stage.groups]]
    return {"source": source, "name": reader.name, "N": reader.N, "family": reader.family, "layers": means.layers(),
            "rows": len(read), "tokens": tokens_of(corpus, read), "corpus": stage.corpus,
            "sequence_length": length}


def tokens_of(corpus: Corpus, rows: Any) -> int:
    """How many of the ids in these rows are not padding."""
    return int((corpus.take(rows) != corpus.pad_id).sum())


# --- what is seen -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Seen:
    """Of one batch, per layer: hidden states [B, F, D] and attention [B, H, F, F]; which positions [B, F] count."""

    hidden_states: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...]
    counted_BF: Tensor


class LayerMeans:
    """Sums over positions, in double precision."""

    def __init__(self) -> None:
        self.positions = 0
        self.absolute: Tensor | float = 0.0  # [layers]
        self.entropy: Tensor | float = 0.0

    def add(self, seen: Seen) -> None:
        counted_BF = seen.counted_BF
        self.positions += int(counted_BF.sum())
        self.absolute = self.absolute + torch.stack([
            states_BFD.abs().mean(-1, dtype=torch.float64)[counted_BF].sum() for states_BFD in seen.hidden_states])
        self.entropy = self.entropy + torch.stack([
            torch.special.entr(share_BHFF).sum(-1, dtype=torch.float64).mean(1)[counted_BF].sum()
            for share_BHFF in seen.attentions])

    def layers(self) -> list[dict[str, float]]:
        assert isinstance(self.absolute, Tensor) and isinstance(self.entropy, Tensor)
        means = zip((self.absolute / self.positions).tolist(), (self.entropy / self.positions).tolist(), strict=True)
        return [{"layer": number, "mean_abs": absolute, "attention_entropy": entropy}
                for number, (absolute, entropy) in enumerate(means, 1)]


# --- models -------------------------------------------------------------------------------------------------
class Reader(Protocol):
    model: PreTrainedModel
    name: str
    family: str
    N: int
    longest: int  # tokens of a row

    def read(self, ids_RL: Tensor, pad_id: int) -> Seen:
        """What the layers make of whole groups of rows."""


class MuxReader:
    def __init__(self, folder: Path) -> None:
        # As pre-training reads rows: under the published numerics each head has its own way.
        self.model = loaded(MuxModel, folder, reads="pretraining", use_safetensors=True)
        config: MuxConfig = self.model.config
        self.family, self.N = config.family, config.num_instances
        kind = (config.multiplexer, config.demultiplexer) if config.multiplexed else ()
        self.name = name_of(self.family, size_of(config), self.N, *kind)
        self.longest = longest_row(config) or 0

    def read(self, ids_RL: Tensor, pad_id: int) -> Seen:
        rows = self.model.prepare(ids_RL, ids_RL.ne(pad_id).long())
        out = self.model.encode(rows, output_hidden_states=True, output_attentions=True)
        counted_BF = rows.attention_mask.unflatten(0, (-1, self.N)).bool().any(1)
        if attends_padding(self.model.config):
            counted_BF = torch.ones_like(counted_BF)
        return Seen(out.hidden_states[1:], out.attentions, counted_BF)


class PlainReader:
    """Any encoder of transformers: N = 1."""

    N = 1

    def __init__(self, folder: Path) -> None:
        self.model = loaded(AutoModel, folder)
        self.family = self.model.config.model_type
        self.name = name_of(self.family, size_of(self.model.config), self.N)
        self.longest = token_positions(self.model) or 1 << 30

    def read(self, ids_RL: Tensor, pad_id: int) -> Seen:
        mask_RL = ids_RL.ne(pad_id)
        out = self.model(input_ids=ids_RL, attention_mask=mask_RL.long(), output_hidden_states=True,
                         output_attentions=True)
        return Seen(out.hidden_states[1:], out.attentions, mask_RL)


def reader_of(folder: Path, source: str) -> Reader:
    """Raises ValueError: not a model that can be loaded, or one without some of its weights."""
    config = open_config(folder)
    try:
        return (MuxReader if config.model_type == MuxConfig.model_type else PlainReader)(folder)
    except Exception as error:  # what loading raises for an architecture that it does not know may be anything
        raise ValueError(f"{source}: the encoder cannot be looked into: {reason(error)}") from error


def loaded(kind: Any, folder: Path, **fields: Any) -> Any:
    """With attention that returns its weights, in full precision."""
    model, info = kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32,
                                       trust_remote_code=False, output_loading_info=True, **fields)
    if missing := sorted(name for name in unfit(info) if not name.startswith("pooler.")):
        raise ValueError(f"{folder} lacks {len(missing)} weights of its encoder, {missing[0]} among them")
    return model


def size_of(config: Any) -> str:
    """The name of Table 7, or layers x width."""
    layers, hidden = config.num_hidden_layers, config.hidden_size
    names = [name for name, shape in SIZES.items() if (shape["layers"], shape["hidden"]) == (layers, hidden)]
    return names[0] if names else f"{layers}x{hidden}"


def tokenizer_of(context: Context, reader: Reader, folder: Path, source: str) -> PreTrainedTokenizerFast:
    """The model's own; the recipe's for a folder without one, as published models are.

    Raises ValueError for one that is not the model's or cannot pack rows.
    """
    own = any((folder / name).exists() for name in TOKENIZERS)
    tokenizer = open_tokenizer(folder, reader.model.config) if own else context.tokenizer
    ids, embedded = len(tokenizer), reader.model.config.vocab_size
    if ids > embedded or (ids < embedded and not own):
        whose = "its" if own else "the recipe's"
        raise ValueError(f"{source} embeds {embedded:,} tokens, {whose} tokenizer has {ids:,}: save the one that it "
                         f"was trained with in {folder}")
    if lacking := [role for role in ROLES if role != "mask" and getattr(tokenizer, f"{role}_token_id") is None]:
        raise ValueError(f"{source}: its tokenizer has no {listed(lacking, 'and')} token, and rows are packed with it")
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"{source}: {type(tokenizer).__name__} is not a fast tokenizer: save a tokenizer.json in "
                         f"{folder}")
    return tokenizer
