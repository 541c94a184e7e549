"""A model that predicts for any number of texts: grouped, encoded, averaged over copies.

R rows, L positions, N slots.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mux.data.grouping import Composition, batches, by_length, compose, in_order
from mux.model.muxed import placed
from mux.model.opening import open_config, open_model
from mux.model.pipelines import longest_row, open_tokenizer, padded_length, token_positions
from mux.model.precision import multiplied, to_precision
from mux.predict.companions import FixedCompanions, fixed_texts
from mux.predict.heads import Answer, Encoding, Text, head_of

WINDOW = 2560  # rows that are composed, encoded and averaged together; the memory of a prediction is bounded by it
LARGEST = 256  # groups of a batch
LONGEST = 512  # tokens, of a model that does not say
COMPANIONS = ("length", "given", "fixed")


class Predictor:
    """Predictions of the classification model in `folder`, which any Auto class may have saved.

    Texts of similar length share a group and a batch, or with companions = "given" neighbours as they come; the answers
    are in the order of the texts. With `copies` = k each one is read k times, all rows of a window permuted together,
    and its k logits are averaged (paper section 5.4). With companions = "fixed" each text has a group of its own, and
    its prediction is the same whatever other texts there are. `batch` groups go through the model at once. Texts are
    cut to `max_length` tokens; where padding is attended the rows stay as long as in training. `precision`: see
    `mux.model.precision`; `scores` and `spans`: `mux.predict.heads`. Code that comes with a model is not run. Raises
    ValueError for a folder that cannot predict and for values that do not fit the model.
    """

    def __init__(self, folder: Path, *, batch: int = 32, copies: int = 1, companions: str = "length",
                 max_length: int | None = None, device: str | None = None, precision: str = "fp32",
                 scores: bool = False, spans: bool = False) -> None:
        self.config = open_config(folder)
        self.N = getattr(self.config, "num_instances", 1)
        self.head = head_of(self.config, str(folder))
        if companions not in COMPANIONS:
            raise ValueError(f"companions are {', '.join(COMPANIONS)}: not {companions!r}")
        if spans and not self.head.takes_words:
            raise ValueError(f"{folder} classifies whole texts: there are no spans in its predictions")
        if not 1 <= copies <= self.N:
            raise ValueError(f"{copies} copies: a model of N = {self.N} takes 1 to {self.N}")
        if not 1 <= batch <= LARGEST:
            raise ValueError(f"a batch of {batch} groups: 1 to {LARGEST} are possible")
        self.batch, self.copies, self.fixed = batch, copies, companions == "fixed"
        self.scores, self.spans, self.precision = scores, spans, precision
        self.tokenizer = open_tokenizer(folder, self.config)
        self.padded = padded_length(self.config)
        self.sorts = companions == "length" and copies == 1 and self.padded is None  # else all rows are equally long
        self.device = device_of(device)
        model: Any = to_precision(open_model(self.head.auto_class, folder), precision, self.device)
        self.model = model
        self.inputs = set(inspect.signature(self.model.forward).parameters)
        self.length = self._length(max_length)
        self.companions = self._encode([Text(text) for text in fixed_texts(folder, self.N - 1)]) if self.fixed else []

    def _length(self, asked: int | None) -> int:
        positions = token_positions(self.model) or LONGEST
        longest = self.padded or min(longest_row(self.config) or LONGEST, positions)
        if asked is not None and not 3 <= asked <= longest:
            raise ValueError(f"a length of {asked} tokens: this model reads 3 to {longest}")
        return asked or min(longest, self.tokenizer.model_max_length)

    def added(self, text: Text) -> tuple[str, ...]:
        """The fields that the answer to a text will have."""
        return self.head.added(text, self.scores, self.spans)

    @property
    def window(self) -> int:
        """How many texts `predict` takes at once."""
        groups = max(1, WINDOW // self.N)
        return max(1, groups * (1 if self.fixed else self.N) // self.copies)

    def predict(self, texts: Sequence[Text], progress: Callable[[float], None] = lambda share: None) -> list[Answer]:
        """The answers for one window of texts, in order. `progress` is called with the share of it that is done."""
        rows = self._encode(texts)
        composition = self._composition(rows)
        logits = composition.average(self._logits(rows + self.companions, composition.groups, progress))
        return [self.head.answer(*row, self.scores, self.spans) for row in zip(texts, rows, logits, strict=True)]

    def _encode(self, texts: Sequence[Text]) -> list[Encoding]:
        return self.head.encode(texts, self.tokenizer, self.length) if texts else []

    def _composition(self, rows: Sequence[Encoding]) -> Composition | FixedCompanions:
        if self.fixed:
            return FixedCompanions(len(rows), self.N, self.copies)
        if self.copies > 1:
            return compose(len(rows), self.N, seed=0, copies=self.copies)
        if self.sorts:
            return by_length(np.array([len(row.ids) for row in rows]), self.N)
        return in_order(len(rows), self.N)

    @torch.inference_mode()
    def _logits(self, rows: Sequence[Encoding], groups: np.ndarray, progress: Callable[[float], None]) -> np.ndarray:
        """What the head reads of each row of `groups` [G, N]: [G * N, ...]."""
        words = max((len(row.firsts) for row in rows), default=0)
        lengths_G = np.array([len(row.ids) for row in rows])[groups].max(axis=1)
        collected = []
        for batch in batches(lengths_G, self.batch, self.sorts):
            chosen = [rows[index] for index in groups[batch].ravel()]
            with multiplied(self.precision):
                logits = self.model(**self._tensors(chosen)).logits
            collected.append(self.head.read(logits.float(), chosen, words).cpu())
            progress(batch.stop / len(groups))
        logits = torch.cat(collected)
        if not torch.isfinite(logits).all():
            raise ValueError("the model answers NaN or infinity: its weights are damaged or its precision is too low")
        return logits.numpy()

    def _tensors(self, rows: Sequence[Encoding]) -> dict[str, Tensor]:
        """The model's inputs [R, L]: as long as the longest row, or always the same where padding is attended."""
        length = self.padded or max(len(row.ids) for row in rows)
        pad: Any = self.tokenizer.pad_token_id or 0
        ids, mask, segments = (np.full((len(rows), length), value) for value in (pad, 0, 0))
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = row.ids
            mask[index, : len(row.ids)] = 1
            segments[index, : len(row.ids)] = row.segments
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if name in self.inputs}
        return placed(self.model, tensors, self.device)


def device_of(name: str | None) -> torch.device:
    """The device of that name; without one a GPU if there is any. Raises ValueError if it is not there."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name}: {str(error).splitlines()[0]}") from None
    if device.type == "meta":
        raise ValueError("device meta holds no numbers")
    return device
