"""What must hold in [model], and between it and the lengths, sources and stages of a recipe."""

from __future__ import annotations

from collections.abc import Iterator

from mux.recipe import grammar
from mux.recipe.positions import Path
from mux.recipe.refusal import Finding
from mux.recipe.schema import HUB_KEYS, ModelSection, Recipe, Shape
from mux.recipe.stages import FinetuneStage, MuxologyStage, PretrainStage, RetrievalStage, ThroughputStage
from mux.recipe.wording import listed, shown

# Ids of the published vocabulary that the published models have in their code (numerics sections 1.1 and 1.4).
PUBLISHED_CLS = 101
PUBLISHED_MARKERS = 678  # the first text's; the i-th text after it has the id i below
PUBLISHED_FILLER = 680  # what stands between markers

_FAMILY: Path = ("model", "family")
_COMPAT: Path = ("model", "compat")
_N: Path = ("model", "N")


def findings(recipe: Recipe) -> Iterator[Finding]:
    yield from _retrieval(recipe)
    if recipe.model.family == "hub":
        yield from _hub(recipe)
        return
    if recipe.model.source is not None:
        yield Finding(("model", "source"), 'speaks of family = "hub" only',
                      "stages name the model that they start from as their `from`", _FAMILY)
    yield from _shape(recipe.model)
    yield from _multiplexer(recipe.model)
    yield from _published(recipe)
    yield from _lengths(recipe)


def _hub(recipe: Recipe) -> Iterator[Finding]:
    """An encoder of the hub is what it is: at N = 1, fine-tuned from its own weights, evaluated and timed."""
    model, plain = recipe.model, 'with family = "hub"'
    if model.source is None:
        yield Finding(("model", "source"), f"is needed {plain}", "write hub:ID[@REVISION] or path:DIR", _FAMILY)
    else:
        yield from grammar.misspelt(("model", "source"), model.source, grammar.encoder)
    if model.N != 1:
        yield Finding(_N, f"{model.N} texts do not go through a plain encoder at once: N = 1 {plain}", None, _FAMILY)
    for name, field in ModelSection.model_fields.items():
        if name not in HUB_KEYS and getattr(model, name) != field.default:
            yield Finding(("model", name), f"has no meaning {plain}: the encoder brings its own", "leave it out",
                          _FAMILY)
    for stage in recipe.stages:
        if isinstance(stage, RetrievalStage | PretrainStage):
            yield Finding(("stages", stage.id, "kind"), f"there is no {stage.kind} {plain}: its encoders are "
                          "fine-tuned, evaluated and timed", f"drop = [{shown(stage.id)}]", _FAMILY)
        elif isinstance(stage, FinetuneStage) and (stage.from_ or "").startswith(grammar.ELSEWHERE):
            yield Finding(("stages", stage.id, "from"), f"has no meaning {plain}: it starts from model.source",
                          "leave it out", _FAMILY)


def _shape(model: ModelSection) -> Iterator[Finding]:
    size = model.size
    if isinstance(size, Shape) and size.hidden % size.heads:
        near = [hidden for hidden in range(size.hidden, 0, -1) if hidden % size.heads == 0][:1]
        more = (near or [0])[0] + size.heads
        yield Finding(("model", "size", "hidden"), f"{size.hidden} is not a multiple of heads = {size.heads}",
                      f"{listed([*map(str, near), str(more)], 'or')} would be", ("model", "size", "heads"))
    if model.embedding is not None and model.family != "electra":
        yield Finding(("model", "embedding"), "is for ELECTRA: BERT embeds as wide as it encodes", "leave it out",
                      _FAMILY)


def _multiplexer(model: ModelSection) -> Iterator[Finding]:
    if not model.multiplexed:
        return
    key: Path = ("model", "multiplexer")
    width, heads = model.embedding_width, model.shape.heads
    if model.multiplexer in ("orthogonal_low_rank", "binary") and width < model.N:
        yield Finding(key, f"{model.multiplexer} gives each text a block of the embedding's width {width}: there is "
                      f"none for all of N = {model.N}", f"N = {width} at most, or another multiplexer", _N)
    if model.multiplexer.startswith("contextual") and model.embedding is not None and width % heads:
        yield Finding(("model", "embedding"), f"{width} is not a multiple of {heads}, the heads of the layers in the "
                      f"{model.multiplexer} multiplexer", f"{max(1, width // heads) * heads} would be", key)


def _published(recipe: Recipe) -> Iterator[Finding]:
    """Where the published numerics do not reach."""
    model, vocabulary = recipe.model, recipe.tokenizer.vocabulary
    prefix = model.prefix_length > 0
    if model.demultiplexer_layers < 2 and not model.departs("shared_demultiplexer"):
        yield Finding(("model", "demultiplexer_layers"), f"{model.demultiplexer_layers} is too few: the published "
                      "demultiplexer has 2 or more", cause=_COMPAT)
    if model.compat and model.multiplexer == "contextual" and prefix:
        yield Finding(("model", "demultiplexer"), "the published code fails with contextual and prefix together: its "
                      "attention mask lacks the prefix", "leave out compat = \"princeton\", or take one of the two",
                      ("model", "multiplexer"))
    if not model.multiplexed or model.departs("own_special_ids"):
        return
    highest = PUBLISHED_FILLER if prefix else PUBLISHED_CLS
    if vocabulary <= highest:
        yield Finding(("tokenizer", "vocabulary"), f"{vocabulary} is too small for the published ids, which go up to "
                      f"{highest}", "[model.departures] own_special_ids = true takes the tokenizer's", _COMPAT)
    if prefix and model.N > PUBLISHED_MARKERS:
        yield Finding(_N, f"{model.N} texts are too many for the published ids: there are {PUBLISHED_MARKERS} markers",
                      "[model.departures] own_special_ids = true has one for each text", _COMPAT)


def _lengths(recipe: Recipe) -> Iterator[Finding]:
    model, length = recipe.model, recipe.corpus.sequence_length
    key: Path = ("corpus", "sequence_length")
    if any(isinstance(stage, RetrievalStage | PretrainStage) for stage in recipe.stages):  # they read the corpus
        yield from _too_long(model, key, length, model.positions(length, pretraining=True))
        if length <= model.prefix_length and model.positions(length, pretraining=True) == length:
            yield Finding(key, f"{length} leaves no token of a row: published pre-training cuts off as many as the "
                          f"prefix has, {model.prefix_length}", None, ("model", "demultiplexer"))
    for stage in recipe.stages:
        if isinstance(stage, FinetuneStage | ThroughputStage):
            length = stage.sequence_length
            yield from _too_long(model, ("stages", stage.id, "sequence_length"), length,
                                 model.positions(length, pretraining=False))
        elif isinstance(stage, MuxologyStage) and not stage.models:  # those may have fewer positions, or more
            length = stage.sequence_length or recipe.corpus.sequence_length
            yield from _too_long(model, ("stages", stage.id, "sequence_length"), length,
                                 model.positions(length, pretraining=True))


def _too_long(model: ModelSection, key: Path, length: int, positions: int) -> Iterator[Finding]:
    if positions > model.max_positions:
        prefix = positions - length
        what = f"{length} and a prefix of {prefix} are" if prefix else f"{length} is"
        room = model.max_positions - prefix
        yield Finding(key, f"{what} more than model.max_positions = {model.max_positions}",
                      f"{room} would fit" if prefix and room >= 8 else None, ("model", "max_positions"))


def _retrieval(recipe: Recipe) -> Iterator[Finding]:
    """A retrieval loss needs a head that decodes tokens, which plain models have in BERT's pre-training alone."""
    model = recipe.model
    if model.family != "hub" and model.multiplexed:
        return
    for stage in recipe.stages:
        key: Path = ("stages", stage.id)
        if isinstance(stage, FinetuneStage) and stage.retrieval_rate:
            yield Finding((*key, "retrieval_rate"), "there is nothing to retrieve: a plain encoder reads one text",
                          "leave it out, or take N = 2 and more", _N)
        elif model.family == "electra" and isinstance(stage, RetrievalStage):
            yield Finding((*key, "kind"), "plain ELECTRA has no head that decodes tokens",
                          f"drop = [{shown(stage.id)}]", _N)
        elif model.family == "electra" and isinstance(stage, PretrainStage) and stage.retrieval_rate:
            yield Finding((*key, "retrieval_rate"), "plain ELECTRA has no head that decodes tokens", "leave it out", _N)
