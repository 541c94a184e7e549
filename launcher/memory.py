"""How large a model is: parameters, bytes per device, bytes on disk. Formulas only; nothing is built.

b is the bytes of a weight: 2 in fp16 and bf16, 4 in fp32. D width, F intermediate width, N instances,
L positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mux.recipe.schema import EngineSection, ModelSection

MOMENTS = 8  # Adam's two moments of a parameter, fp32
MASTER = 4  # the fp32 copy of a weight that the optimizer steps
LOGIT = 12  # a vocabulary logit at the peak: itself and its log-probability, and their gradients


@dataclass(frozen=True)
class Parameters:
    trained: int
    frozen: int = 0  # multiplexing keys: a buffer, saved with the model, whole on every device

    @property
    def total(self) -> int:
        return self.trained + self.frozen


def encoder(model: ModelSection, vocabulary: int) -> Parameters:
    """Embeddings, layers, and for N > 1 the multiplexer and the RSA demultiplexer (paper sections 3.1, 3.3).

    Exact for `mux.model.MuxModel`: transformers' BertModel without its pooler around the two.
    """
    D, F = model.shape.hidden, model.shape.intermediate
    embeddings = (vocabulary + model.max_positions + 2) * D + 2 * D
    attention = 4 * (D * D + D) + 2 * D
    feed_forward = (D * F + F) + (F * D + D) + 2 * D
    trained = embeddings + model.shape.layers * (attention + feed_forward)
    if model.N == 1:
        return Parameters(trained)
    first = (D * D + D) + D * D + 2 * D  # on the state, on the key, layer norm
    others = (model.demultiplexer_layers - 1) * (D * D + D + 2 * D)
    return Parameters(trained + model.N * D + first + others, frozen=model.N * D)


def pretraining(model: ModelSection, vocabulary: int) -> Parameters:
    """The encoder with its language model head, whose weights are the word embeddings' but not its bias."""
    body, D = encoder(model, vocabulary), model.shape.hidden
    transform = D * D + D + 2 * D if model.N == 1 else 0  # a demultiplexer takes its place
    return Parameters(body.trained + transform + vocabulary, body.frozen)


def classifier(model: ModelSection, vocabulary: int, labels: int) -> Parameters:
    """The encoder with its sequence head; N = 1 has BERT's pooler in between."""
    body, D = encoder(model, vocabulary), model.shape.hidden
    pooler = D * D + D if model.N == 1 else 0
    return Parameters(body.trained + pooler + D * labels + labels, body.frozen)


def width(precision: str) -> int:
    """b, the bytes of a weight."""
    return 4 if precision == "fp32" else 2


def optimizer_width(precision: str, zero_stage: int) -> int:
    """Bytes of optimizer state a parameter. ZeRO 1 to 3 keep a master copy even of fp32 weights."""
    return MOMENTS + (MASTER if precision != "fp32" or zero_stage else 0)


def activations(model: ModelSection, engine: EngineSection, vocabulary: int, *, micro_batch: int,
                sequence_length: int, decoded_rows: float) -> int:
    """Bytes kept for the backward pass of `micro_batch` groups of L positions, an estimate, the sum of

    - backbone, per position and layer: b (8 D + 2 F) + 2 D. Kept are the inputs of the attention and feed-
      forward blocks and of their layer norms, q, k, v, the attention's result, F before and after the
      activation, and two dropout masks of a byte each; SDPA keeps no L x L probabilities (Korthikanti et al.
      2022, without their 5 a s / h). With activation checkpointing: b D per layer, and one layer whole;
    - embeddings, per position of each of the N instances and once more for their mux: D (b + 1);
    - heads, per decoded row of a group (`decoded_rows`): 3 b D a demultiplexer layer, 12 V for the logits.
      Masked LM decodes the masked tokens of all N instances, retrieval one instance per position, a
      classifier the first position, without a vocabulary (`vocabulary` = 0).
    """
    b, D, F = width(engine.precision), model.shape.hidden, model.shape.intermediate
    layer = b * (8 * D + 2 * F) + 2 * D
    layers = model.shape.layers * layer
    if engine.activation_checkpointing:
        layers = model.shape.layers * b * D + layer
    passes = 1 if model.N == 1 else model.N + 1
    head = 3 * b * D * (1 if model.N == 1 else model.demultiplexer_layers) + LOGIT * vocabulary
    return int(micro_batch * (sequence_length * (layers + passes * D * (b + 1)) + decoded_rows * head))


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
