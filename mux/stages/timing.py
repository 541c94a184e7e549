"""Models timed against each other: random rows, batch by batch in turns, so that a busy machine slows all alike.

R rows, L tokens of a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from mux.data import grouping
from mux.recipe.wording import reason

WARM_UP = 2  # batches of each model that are not counted; the first one compiles


@dataclass(frozen=True)
class Head:
    """The data that the paper timed a head on (appendix C)."""

    labels: int
    pairs: bool


HEADS = {"sequence": Head(labels=2, pairs=True),  # QQP: pairs of questions
         "token": Head(labels=9, pairs=False)}  # CoNLL-2003: words, BIO tags of four kinds of names

# What is timed at once -> how many instances that are, by the recipe's batch and N: groups are always full.
FED: dict[str, Callable[[int, int], int]] = {
    "instances": lambda batch, N: -(-batch // N) * N,
    "groups": lambda batch, N: batch * N,
    "one_group": lambda batch, N: N,
    "ragged": lambda batch, N: WINDOW * batch,
}
WINDOW = 8  # batches of texts of all lengths that are at hand before groups of similar length are formed
MEAN, SIGMA, SHORTEST = 27, 0.6, 5  # tokens of a ragged text: log-normal, as sentences are


class RandomRows:
    """Batches of full rows [CLS] a [SEP], or [CLS] a [SEP] b [SEP] of a pair; no two batches are the same.

    They have no mask, so that attention takes its fastest kernel on all sides: of a mask of ones only an eager model
    sees that nothing is masked, and on a GPU it waits for that.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, head: Head, length: int, vocabulary: int, segments: bool,
                 device: torch.device) -> None:
        """`vocabulary`: tokens that the model embeds; `segments`: whether it is fed which text a token is of."""
        special = set(tokenizer.all_special_ids)
        ordinary = [token for token in range(min(len(tokenizer), vocabulary)) if token not in special]
        self.ordinary = torch.tensor(ordinary, device=device)
        self.cls_id, self.sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.length, self.segments = length, segments
        self.first_ends = length // 2 if head.pairs else length - 1
        self.generator = torch.Generator(device).manual_seed(0)

    def batches(self, rows: int) -> list[dict[str, Tensor]]:
        return [self.batch(rows)]

    def batch(self, rows: int) -> dict[str, Tensor]:
        device = self.ordinary.device
        drawn = torch.randint(len(self.ordinary), (rows, self.length), generator=self.generator, device=device)
        ids_RL = self.ordinary[drawn]
        ids_RL[:, 0] = self.cls_id
        ids_RL[:, [self.first_ends, -1]] = self.sep_id
        batch = {"input_ids": ids_RL}
        if self.segments:
            second_L = torch.arange(self.length, device=device) > self.first_ends
            batch["token_type_ids"] = second_L.long().repeat(rows, 1)
        return batch


class RaggedRows:
    """Texts of different lengths, as whoever sorts them feeds them: those of similar length share a group and a pass,
    which is as long as the longest of them. At N = 1, too: that is the baseline of a server."""

    def __init__(self, full: RandomRows, N: int, groups: int, padding: int, trimmed: bool) -> None:
        """`groups`: at most so many a pass; `trimmed`: False for a model that attends padding and is always fed rows of
        full length."""
        self.full, self.N, self.groups, self.padding, self.trimmed = full, N, groups, padding, trimmed
        self.draw = np.random.default_rng(0)

    def batches(self, rows: int) -> list[dict[str, Tensor]]:
        drawn = self.draw.lognormal(np.log(MEAN) - SIGMA**2 / 2, SIGMA, rows).round().astype(int)
        lengths = drawn.clip(min(SHORTEST, self.full.length), self.full.length)
        groups = grouping.by_length(lengths, self.N).groups
        longest_G = lengths[groups].max(1)
        return [self.passed(lengths[groups[part]].reshape(-1))
                for part in grouping.batches(longest_G, self.groups, sorts=self.trimmed)]

    def passed(self, lengths_R: np.ndarray) -> dict[str, Tensor]:
        """What the model is fed at once: rows of these lengths."""
        length = int(lengths_R.max()) if self.trimmed else self.full.length
        batch = {name: tensor[:, :length] for name, tensor in self.full.batch(len(lengths_R)).items()}
        ids_RL = batch["input_ids"]
        ends_R1 = torch.from_numpy(lengths_R).to(ids_RL.device)[:, None] - 1
        places_L = torch.arange(length, device=ids_RL.device)
        ids_RL = ids_RL.masked_fill(places_L == ends_R1, self.full.sep_id)
        mask_RL = places_L <= ends_R1
        return batch | {"input_ids": ids_RL.masked_fill(~mask_RL, self.padding), "attention_mask": mask_RL.long()}


@dataclass
class Contestant:
    """A model, what it is fed, and how much of that is timed at once."""

    name: str
    model: nn.Module
    rows: RandomRows
    instances: int = 0
    ragged: RaggedRows | None = None  # what it is fed instead

    def run(self, device: torch.device) -> float:
        """Seconds of these instances, from their tokens on the device to the end of the model's work there."""
        batches = (self.ragged or self.rows).batches(self.instances)
        synchronize(device)
        begun = time.perf_counter()
        for batch in batches:
            self.model(**batch)
        synchronize(device)
        return time.perf_counter() - begun


@torch.inference_mode()
def race(contestants: Sequence[Contestant], rounds: int, device: torch.device,
         progress: Callable[[int, int], None]) -> np.ndarray:
    """Seconds [rounds, contestants] of what each is fed at once, in turns: A B C A B C ...

    Raises what `progress` raises.
    """
    torch.compiler.reset()  # its limit on versions of one function counts all models of the process
    for contestant in contestants:
        warm_up(contestant, device, lambda: progress(0, rounds))
    seconds = np.empty((rounds, len(contestants)))
    for number in range(rounds):
        progress(number, rounds)
        for place, contestant in enumerate(contestants):
            seconds[number, place] = contestant.run(device)
    progress(rounds, rounds)
    return seconds


def warm_up(contestant: Contestant, device: torch.device, breathe: Callable[[], None]) -> None:
    for _ in range(WARM_UP):
        breathe()
        try:
            contestant.run(device)
        except Exception as error:  # memory that is too small, an architecture that torch.compile does not take
            raise ValueError(f"{contestant.name}, cannot be run: {reason(error)}; leave it out, or take a smaller "
                             "batch") from error


def compiled(model: nn.Module) -> nn.Module:
    """Compiled as a whole and for each shape: a part that stayed eager would be an error, not a slower number."""
    return torch.compile(model, fullgraph=True, dynamic=False)  # type: ignore[return-value]


MODES: dict[str, Callable[[nn.Module], nn.Module]] = {"eager": lambda model: model, "compiled": compiled}


def check_compiler(device: torch.device) -> None:
    """Raises ValueError if nothing can be compiled for this device."""
    try:
        torch.compile(lambda x: x.sin() + 1, fullgraph=True)(torch.ones(8, device=device))
    except Exception as error:
        raise ValueError(f"torch.compile does not work here: {reason(error)}; CPUs need a C++ compiler (g++, or CXX), "
                         'GPUs a C compiler and Triton; or take modes = ["eager"]') from error


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
