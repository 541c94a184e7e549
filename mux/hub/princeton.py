"""The published MUX-PLM checkpoints as model folders of this project (numerics section 2).

Imported multiplexed models keep the published numerics, `compat = "princeton"`, except that fillers of the last group
are the batch's first rows and not random ones, so that predictions repeat; recorded fillers can be fed. The published
baselines become plain N = 1 models, which are transformers' own BERT and ELECTRA.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertTokenizer, ElectraConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from mux.hub.card import model_card
from mux.hub.folder import encoder_of, read_config, read_weights, written_whole
from mux.hub.published_keys import PublishedKeys
from mux.model import MuxConfig, MuxForPreTraining, MuxForSequenceClassification, MuxForTokenClassification
from mux.model.config import BACKBONE_FIELDS, PRINCETON
from mux.model.pipelines import longest_row
from mux.recipe.wording import listed, shown, some

CLASSES: dict[str, tuple[type[PreTrainedModel], str]] = {  # published, plain: ours, and what loads it
    "BertForMaskedLM": (MuxForPreTraining, "AutoModelForMaskedLM"),
    "BertForSequenceClassification": (MuxForSequenceClassification, "AutoModelForSequenceClassification"),
    "BertForTokenClassification": (MuxForTokenClassification, "AutoModelForTokenClassification"),
    "ElectraForPreTraining": (MuxForPreTraining, "AutoModelForPreTraining"),
    "ElectraForSequenceClassification": (MuxForSequenceClassification, "AutoModelForSequenceClassification"),
    "ElectraForTokenClassification": (MuxForTokenClassification, "AutoModelForTokenClassification"),
}
TELLTALES: tuple[tuple[str, set[str], set[str]], ...] = (  # class, its keys, keys it lacks: if config.json names none
    ("ElectraForPreTraining", {"discriminator_predictions.dense.weight"}, set()),
    ("ElectraForSequenceClassification", {"classifier.out_proj.weight"}, set()),
    ("ElectraForTokenClassification", {"classifier.weight", "electra.embeddings.LayerNorm.weight"}, set()),
    ("BertForMaskedLM", {"bert.embeddings.LayerNorm.weight"}, {"classifier.weight"}),
    ("BertForSequenceClassification", {"classifier.weight", "bert.pooler.dense.weight"}, set()),
    ("BertForTokenClassification", {"classifier.weight"}, {"instance_embedding"}),
    # Of a multiplexed BERT nothing tells sequences from tokens. The weights bear the same names, so that the other Auto
    # class loads what is written just as well.
    ("BertForSequenceClassification", {"classifier.weight", "bert.embeddings.LayerNorm.weight"}, set()),
)
MULTIPLEXED = "Muxed"  # how the names of the authors' classes begin: MuxedBertForMaskedLM
WRAPPER = "discriminator"  # the ELECTRA trainer saves the model as a part of this name, and in a folder of this name

MULTIPLEXERS = {
    "gaussian_hadamard": "gaussian",
    "gaussian_attention_v2": "contextual",
    "gaussian_attention": "contextual_v1",
    "random_ortho": "orthogonal",
    "random_ortho_low_rank": "orthogonal_low_rank",
    "binary_hadamard": "binary",
}
DEMULTIPLEXERS = {"index_pos": "rsa", "index": "prefix"}
FIELDS = {  # published: ours
    "num_instances": "num_instances",
    "num_hidden_demux_layers": "demultiplexer_layers",
    "gaussian_hadamard_norm": "multiplexer_norm",
    "binary_hadamard_epsilon": "multiplexer_overlap",
    "task_loss_coeff": "task_weight",
    "retrieval_loss_coeff": "retrieval_weight",
    "retrieval_percentage": "retrieval_percentage",
}
LABEL_FIELDS = ("id2label", "label2id", "problem_type")
OLD_DEMULTIPLEXER_LAYERS = 2  # what a config without num_hidden_demux_layers means
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")


@dataclass(frozen=True)
class ImportReport:
    """What became of the keys of a checkpoint; printed by `mux import`."""

    folder: Path  # where the weights were
    destination: Path
    head: str
    config: MuxConfig
    used: tuple[str, ...]
    copies: tuple[str, ...]  # of the same tensors under other names
    unused: tuple[str, ...]
    has_tokenizer: bool

    def __str__(self) -> str:
        config = self.config
        kind = (f"N = {config.num_instances}, {config.multiplexer} multiplexer, {config.demultiplexer} demultiplexer, "
                f"compat = {config.compat}" if config.multiplexed else "N = 1, the plain encoder")
        lines = [
            f"{self.folder} -> {self.destination}",
            f"{self.head}: {config.family.upper()}, {config.num_hidden_layers} layers of width {config.hidden_size}, "
            f"{kind}",
            f"{len(self.used)} weights, {len(self.copies)} copies of them, {len(self.unused)} that nothing reads"
            + (f": {some(self.unused)}" if self.unused else ""),
        ]
        if not self.has_tokenizer:
            lines.append("no tokenizer: the published models use bert-base-uncased's; --tokenizer DIR adds one")
        return "\n".join(lines)


def import_folder(source: Path, destination: Path, tokenizer: Path | None = None) -> ImportReport:
    """Write the checkpoint in `source`, as published on the hub, to the model folder `destination`, or write nothing.

    `tokenizer`: a folder with one; by default `source`, if it has one. Raises ValueError for a checkpoint that is not
    exactly what its config.json says: a key missing, unknown or of another shape, copies that differ; for weights that
    are more than tensors; and for a destination that exists.
    """
    folder = discriminator_of(source)
    published = read_config(folder)
    path, weights = read_weights(folder)
    if weights and all(name.startswith(f"{WRAPPER}.") for name in weights):
        weights = {name.removeprefix(f"{WRAPPER}."): tensor for name, tensor in weights.items()}
    try:
        encoder = encoder_of(published)
        name, plain = class_of(published, set(weights))
        kind, auto_class = CLASSES[name]
        config = config_of(published, encoder, plain)
        with no_init_weights(), torch.device("meta"):
            model = kind(config)
    except Exception as error:  # a value that makes no sense shows in whichever way the layers meet it
        kind_of = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{folder / 'config.json'}: {kind_of}{error}") from None
    keys = PublishedKeys(config, plain)
    try:
        used, unused = load(model, weights, keys)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    tokenizer = tokenizer or (folder if any((folder / name).exists() for name in TOKENIZER_FILES) else None)
    words = None if tokenizer is None else read_tokenizer(tokenizer, config)
    card = model_card(config, name=source.name, made_by=f"`mux import princeton` from `{source.name}`",
                      folder=destination.name, auto_class=auto_class, tokenizer=words is not None)
    with written_whole(destination) as part:
        model.save_pretrained(part)
        (part / "README.md").write_text(card, encoding="utf-8")
        if words is not None:
            words.save_pretrained(part)
    copies = tuple(sorted(name for name in weights if name != keys.original(name) in weights))
    return ImportReport(folder, destination, kind.__name__, config, used, copies, unused, words is not None)


def discriminator_of(source: Path) -> Path:
    """`source`, or the folder in it where the ELECTRA trainer saved the model itself, with its config.json."""
    inner = source / WRAPPER
    return inner if (inner / "config.json").exists() and not (source / "config.json").exists() else source


# --- what config.json says --------------------------------------------------------------------------------------
def class_of(published: dict[str, Any], keys: set[str]) -> tuple[str, bool]:
    """The name in CLASSES, and whether the model is plain: as `architectures` says, or else as the keys do."""
    named = published.get("architectures") or ""
    named = named if isinstance(named, str) else str(*named[:1])
    name = named.removeprefix(MULTIPLEXED)
    if name in CLASSES and name.lower().startswith(published["model_type"]):
        return name, name == named
    told = next((name for name, has, lacks in TELLTALES if has <= keys and not lacks & keys), None)
    if told is None:
        raise ValueError(f"architectures is {shown(named)}, and the weights do not tell the class: set it to one of "
                         f"{', '.join(MULTIPLEXED + name for name in CLASSES)}")
    return told, "instance_embedding" not in keys


def config_of(published: dict[str, Any], encoder: BertConfig | ElectraConfig, plain: bool) -> MuxConfig:
    """Raises ValueError for what is missing or not published."""
    fields: dict[str, Any] = {"family": encoder.model_type}
    fields |= {name: getattr(encoder, name) for name in BACKBONE_FIELDS if hasattr(encoder, name)}
    fields |= {name: published[name] for name in LABEL_FIELDS if published.get(name) is not None}
    if plain:
        return MuxConfig(num_instances=1, **fields)
    for name in ("num_instances", "muxing_variant", "demuxing_variant"):
        if published.get(name) is None:
            raise ValueError(f"{name} is missing; every published multiplexed model has it")
    given = {ours: published[name] for name, ours in FIELDS.items() if published.get(name) is not None}
    return MuxConfig(**fields | {"demultiplexer_layers": OLD_DEMULTIPLEXER_LAYERS} | given | {
        "compat": PRINCETON,
        "deterministic_fillers": True,
        "multiplexer": variant(published, "muxing_variant", MULTIPLEXERS),
        "demultiplexer": variant(published, "demuxing_variant", DEMULTIPLEXERS),
        "learn_keys": bool(published.get("learn_muxing")),
    })


def variant(published: dict[str, Any], name: str, ours: dict[str, str]) -> str:
    if published[name] not in ours:
        raise ValueError(f"{name} is {shown(published[name])}; there are {some(ours)}")
    return ours[published[name]]


# --- weights ----------------------------------------------------------------------------------------------------
def load(model: PreTrainedModel, weights: dict[str, Tensor],
         keys: PublishedKeys) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Put the published weights into a model without any; the names that were used, and those that nothing reads.

    Raises ValueError for a key that is missing, unknown or of another shape.
    """
    originals = keys.without_copies(weights)
    state, used = {}, set()
    for ours, wanted in model.state_dict().items():
        named = keys.published(ours)
        assert named is not None, f"{ours} is not in the table of published keys"
        name, half = named
        if name not in originals:
            raise ValueError(f"{name} is missing")
        tensor, shape = originals[name], list(wanted.shape)
        if half is not None:
            shape[1] *= 2
        if not tensor.is_floating_point():
            raise ValueError(f"{name} holds {tensor.dtype}, no weights")
        if list(tensor.shape) != shape:
            raise ValueError(f"{name} is {list(tensor.shape)}; by config.json it must be {shape}")
        state[ours] = tensor if half is None else tensor.chunk(2, dim=1)[half].contiguous()
        used.add(name)
    unused = originals.keys() - used
    if unknown := sorted(name for name in unused if not keys.is_unused(name)):
        raise ValueError(f"no {type(model).__name__} of this config.json has {some(unknown)}")
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return tuple(sorted(used)), tuple(sorted(unused))


def read_tokenizer(folder: Path, config: MuxConfig) -> Any:
    """Raises ValueError: none is there, or it has more tokens than the model has embeddings."""
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise ValueError(f"{folder} has no tokenizer: {listed(TOKENIZER_FILES, 'or')} is needed")
    kind: Any = AutoTokenizer if (folder / "tokenizer_config.json").exists() else BertTokenizer
    try:
        tokenizer = kind.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception where a file is damaged
        raise ValueError(f"{folder}: the tokenizer cannot be loaded: {error}") from None
    if len(tokenizer) != config.vocab_size:
        raise ValueError(f"{folder}: the tokenizer has {len(tokenizer):,} tokens, the model {config.vocab_size:,}: "
                         "it is not the one that the model was trained with")
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest_row(config) or tokenizer.model_max_length)
    return tokenizer
