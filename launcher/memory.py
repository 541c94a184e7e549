"""How large a model is: parameters, bytes per device, bytes on disk. Formulas only; nothing is built.

b is the bytes of a weight: 2 in fp16 and bf16, 4 in fp32. D width, E embedding width, F intermediate width,
N instances, L positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mux.recipe.schema import EngineSection, ModelSection

MOMENTS = 8  # Adam's two moments of a parameter, fp32
MASTER = 4  # the fp32 copy of a weight that the optimizer steps
LOGIT = 12  # a vocabulary logit at the peak: itself and its log-probability, and their gradients

# Encoder layers in a multiplexer, each run over the L positions of all N instances.
MULTIPLEXER_LAYERS = {"contextual": 2, "contextual_v1": 1}


@dataclass(frozen=True)
class Parameters:
    trained: int
    frozen: int = 0  # multiplexing keys: a buffer, saved with the model, whole on every device

    @property
    def total(self) -> int:
        return self.trained + self.frozen


# --- parameters: exact for the models of `mux.model` --------------------------------------------------------
def encoder(model: ModelSection, vocabulary: int) -> Parameters:
    """`MuxModel`: embeddings, layers, and between them, if the model is multiplexed, multiplexer and demultiplexer."""
    D, E = model.shape.hidden, model.embedding_width
    embeddings = (vocabulary + model.marker_ids + model.max_positions + 2) * E + _norm(E)
    projection = _linear(E, D) if E != D else 0
    trained = embeddings + projection + model.shape.layers * _layer(D, model.shape.intermediate)
    if not model.multiplexed:
        return Parameters(trained)
    keys, layers = _multiplexer(model)
    trained += layers + _demultiplexer(model)
    return Parameters(trained + keys) if model.learn_keys else Parameters(trained, frozen=keys)


def pretraining(model: ModelSection, vocabulary: int) -> Parameters:
    """The encoder with the head that decodes tokens, where there is one, and ELECTRA's discriminator."""
    body, D = encoder(model, vocabulary), model.shape.hidden
    head = _vocabulary_head(model, vocabulary) if model.family == "bert" or model.multiplexed else 0
    discriminator = _linear(D, D) + _linear(D, 1) if model.family == "electra" else 0
    return Parameters(body.trained + head + discriminator, body.frozen)


def classifier(model: ModelSection, vocabulary: int, labels: int, *, retrieval: bool = False) -> Parameters:
    """The encoder with its head for sequences, and one that decodes tokens if it fine-tunes with retrieval."""
    body, D = encoder(model, vocabulary), model.shape.hidden
    # ELECTRA's head has a layer before its last; plain BERT has its pooler there, and a demultiplexer takes its place.
    before = _linear(D, D) if model.family == "electra" or not model.multiplexed else 0
    retrieving = _retrieving(model, vocabulary, retrieval)
    return Parameters(body.trained + before + _linear(D, labels) + retrieving, body.frozen)


def token_classifier(model: ModelSection, vocabulary: int, labels: int, *, retrieval: bool = False) -> Parameters:
    body = encoder(model, vocabulary)
    retrieving = _retrieving(model, vocabulary, retrieval)
    return Parameters(body.trained + _linear(model.shape.hidden, labels) + retrieving, body.frozen)


def of_folder(folder: Path) -> Parameters | None:
    """Of an encoder that somebody else made, by the size of its weights in fp32; None if they are not there."""
    weights = folder / "model.safetensors"
    return Parameters(weights.stat().st_size // 4) if weights.is_file() else None


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _norm(size: int) -> int:
    return 2 * size


def _layer(size: int, intermediate: int) -> int:
    """q, k, v and the attention's output, and the feed-forward block, each with its layer norm."""
    attention = 4 * _linear(size, size) + _norm(size)
    return attention + _linear(size, intermediate) + _linear(intermediate, size) + _norm(size)


def _multiplexer(model: ModelSection) -> tuple[int, int]:
    """(keys, layers) of a multiplexer (paper equations 1 and 4)."""
    N, E = model.N, model.embedding_width
    keys = N * E * E if model.multiplexer.startswith("orthogonal") else N * E
    layers = MULTIPLEXER_LAYERS.get(model.multiplexer, 0) * _layer(E, model.shape.intermediate)
    mean = _linear(E, E) + _norm(E) if model.multiplexer == "contextual_v1" else 0
    return keys, layers + mean


def _demultiplexer(model: ModelSection) -> int:
    """RSA has a key for each instance; a prefix's keys are hidden states. The published ones have a part for the
    heads of tasks and one for the head that decodes tokens (numerics sections 1.3 and 1.4)."""
    D, layers = model.shape.hidden, model.demultiplexer_layers
    keyed = D * D + _linear(D, D)  # on the key, on the state
    keys = model.N * D if model.demultiplexer == "rsa" else 0
    if model.departs("shared_demultiplexer"):
        return keys + keyed + (layers - 1) * _linear(D, D) + layers * _norm(D)
    if model.demultiplexer == "prefix":
        return 2 * (keyed + _norm(D))
    for_tasks, for_tokens = layers - 1, layers if model.family == "electra" else 2
    trunk = keyed + (max(for_tasks, for_tokens) - 1) * _linear(D, D) + for_tokens * _norm(D)
    return keys + trunk + 2 * (_linear(D, D) + _norm(D))


def _vocabulary_head(model: ModelSection, vocabulary: int) -> int:
    """BERT's weights are the word embeddings', but not its bias; a demultiplexer takes the place of its transform."""
    D, outputs = model.shape.hidden, vocabulary + model.marker_ids
    transform = 0 if model.multiplexed else _linear(D, D) + _norm(D)
    return transform + (outputs if model.family == "bert" else _linear(D, outputs))


def _retrieving(model: ModelSection, vocabulary: int, retrieval: bool) -> int:
    """The published classifiers always have the head that decodes tokens."""
    return _vocabulary_head(model, vocabulary) if model.multiplexed and (retrieval or model.compat) else 0


# --- bytes --------------------------------------------------------------------------------------------------
def width(precision: str) -> int:
    """b, the bytes of a weight."""
    return 4 if precision == "fp32" else 2


def optimizer_width(precision: str, zero_stage: int) -> int:
    """Bytes of optimizer state a parameter. ZeRO 1 to 3 keep a master copy even of fp32 weights."""
    return MOMENTS + (MASTER if precision != "fp32" or zero_stage else 0)


def activations(model: ModelSection, engine: EngineSection, vocabulary: int, *, micro_batch: int,
                positions: int, demultiplexed: float, decoded: float) -> int:
    """Bytes kept for the backward pass of `micro_batch` groups of L = `positions`, an estimate, the sum of

    - layers, per position: b (8 D + 2 F) + 2 D each. Kept are the inputs of the attention and feed-forward
      blocks and of their layer norms, q, k, v, the attention's result, F before and after the activation, and
      two dropout masks of a byte each; SDPA keeps no L x L probabilities (Korthikanti et al. 2022, without
      their 5 a s / h). A multiplexer's layers read N L positions, E wide. With activation checkpointing:
      b D per layer, and one layer whole;
    - embeddings, per position of each of the N instances and once more for their mux: E (b + 1);
    - heads: 3 b D a demultiplexer layer for each of the group's states that are `demultiplexed`, 12 V for each
      that is `decoded` into logits. Masked LM does both with the masked tokens of all N instances, retrieval
      with one instance per position; replaced-token and token classification demultiplex all positions of all
      instances and decode none, a sequence classifier the first.
    """
    b, D, E, F = width(engine.precision), model.shape.hidden, model.embedding_width, model.shape.intermediate
    stacks = [(model.shape.layers, 1, D)]
    if model.multiplexed:
        stacks.append((MULTIPLEXER_LAYERS.get(model.multiplexer, 0), model.N, E))
    whole = [(count, rows * (b * (8 * size + 2 * F) + 2 * size)) for count, rows, size in stacks]
    layers = sum(count * layer for count, layer in whole)
    if engine.activation_checkpointing:
        layers = sum(count * rows * b * size for count, rows, size in stacks)
        layers += max(layer for count, layer in whole if count)
    passes = model.N + 1 if model.multiplexed else 1
    head = 3 * b * D * (model.demultiplexer_layers if model.multiplexed else 1)
    heads = demultiplexed * head + decoded * LOGIT * vocabulary
    return int(micro_batch * (positions * (layers + passes * E * (b + 1)) + heads))


def rows(parameters: Parameters, engine: EngineSection, devices: int, kept: int) -> list[dict[str, Any]]:
    """A row per ZeRO stage: bytes per device. ZeRO 1 divides the optimizer's state among the devices, 2 the
    gradients too, 3 the weights too (Rajbhandari et al. 2020). `kept`: bytes of `activations`."""
    b = width(engine.precision)
    table = []
    for stage in range(4):
        state = optimizer_width(engine.precision, stage) * parameters.trained
        row = {
            "weights": _share(b * parameters.trained, devices if stage >= 3 else 1) + b * parameters.frozen,
            "gradients": _share(b * parameters.trained, devices if stage >= 2 else 1),
            "optimizer": _share(state, devices if stage >= 1 else 1),
            "activations": kept,
        }
        row["total"] = sum(row.values())
        table.append({"zero_stage": stage, **row, "recipe": stage == engine.zero_stage})
    return table


def _share(size: int, devices: int) -> int:
    return -(-size // devices)


def checkpoint(parameters: Parameters, engine: EngineSection) -> int:
    """Bytes of one checkpoint of the whole cluster: weights and optimizer state, each once."""
    state = optimizer_width(engine.precision, engine.zero_stage) * parameters.trained
    return width(engine.precision) * parameters.total + state


def model_folder(parameters: Parameters) -> int:
    """Bytes of `model.safetensors`, fp32."""
    return 4 * parameters.total


def token_store(text_bytes: int, vocabulary: int) -> int:
    """Bytes of a tokenised corpus, at most: a token for every two bytes of text, in 16 or 32 bits."""
    return text_bytes // 2 * (2 if vocabulary <= 65_536 else 4)
