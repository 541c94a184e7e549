"""The models that are timed: ours, transformers' and other people's, with random weights, which are as fast as any.

R rows, L tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from benchmarks.protocol import Contestant
from mux.model import MuxConfig, MuxForSequenceClassification, MuxForTokenClassification
from mux.size import SIZES

VOCABULARY = 30_522
LABELS = {"sequence": 2, "token": 9}
OURS = {"sequence": MuxForSequenceClassification, "token": MuxForTokenClassification}
BERT = {"sequence": BertForSequenceClassification, "token": BertForTokenClassification}


@dataclass(frozen=True)
class Conditions:
    """What all contestants of a race have in common."""

    device: str
    dtype: torch.dtype
    length: int
    groups: int
    rounds: int
    runs: int  # batches in a row in each round
    compiled: bool

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return (f"{self.groups} groups, {self.length} tokens, {dtype}, {'compiled' if self.compiled else 'eager'}, "
                f"{torch.get_num_threads()} threads, {self.rounds} x {self.runs} batches" if self.device == "cpu" else
                f"{self.groups} groups, {self.length} tokens, {dtype}, {'compiled' if self.compiled else 'eager'}, "
                f"{self.rounds} x {self.runs} batches")

    def ready(self, model: nn.Module) -> nn.Module:
        model = model.to(device=self.device, dtype=self.dtype).eval()
        model.config.pad_token_id = None  # type: ignore[union-attr] # rows are full: ours looks for no padding in ids
        return torch.compile(model, fullgraph=True, dynamic=False) if self.compiled else model  # type: ignore


def ours(head: str, size: str, N: int, **fields: Any) -> nn.Module:
    torch.manual_seed(0)
    return OURS[head](MuxConfig.from_size(size, num_instances=N, num_labels=LABELS[head], vocab_size=VOCABULARY,
                                          **fields))


def bert(head: str, size: str) -> nn.Module:
    """transformers' own, with its own attention: SDPA."""
    shape = SIZES[size]
    config = BertConfig(vocab_size=VOCABULARY, hidden_size=shape["hidden"], num_hidden_layers=shape["layers"],
                        num_attention_heads=shape["heads"], intermediate_size=shape["intermediate"],
                        num_labels=LABELS[head])  # type: ignore[call-arg]
    torch.manual_seed(0)
    return BERT[head](config)


def distilbert() -> nn.Module:
    return DistilBertForSequenceClassification(DistilBertConfig(num_labels=2))  # type: ignore[call-arg]


def minilm() -> nn.Module:
    """Of the shape of all-MiniLM-L6-v2 and its kin: 6 layers of width 384."""
    return BertForSequenceClassification(BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
                                                    intermediate_size=1536, num_labels=2))  # type: ignore[call-arg]


def fed(model: nn.Module, instances: int, conditions: Conditions, keep: bool = False, **options: Any) -> Contestant:
    """A contestant that classifies full rows of random tokens, new ones each time. `keep`: in the model's own
    precision; `options` go to its forward."""
    call: Callable[..., Any] = model if keep else conditions.ready(model)
    generator = torch.Generator(conditions.device).manual_seed(0)

    @torch.inference_mode()
    def run() -> Any:
        return call(**rows(instances, conditions.length, generator), **options)

    return Contestant(run, instances)


def rows(count: int, length: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random ids [R, L], none of them special, and no mask: a compiled model does not see that a mask of ones masks
    nothing, and loses its fastest attention."""
    ids_RL = torch.randint(1000, VOCABULARY, (count, length), generator=generator, device=generator.device)
    return {"input_ids": ids_RL}


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "transformers' BERT BASE": partial(bert, "sequence", "BASE"), "DistilBERT": distilbert, "MiniLM-L6": minilm,
}
