"""Goal 6: texts of different lengths through `mux predict`'s Predictor, against an N = 1 that sorts by length, too.

Lengths are drawn from a log-normal distribution of mean 27 tokens. Everything counts: tokenising, grouping, padding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from benchmarks.contestants import VOCABULARY, ours
from benchmarks.inference import SINGLE
from benchmarks.protocol import Contestant, race
from benchmarks.records import Record, record
from mux.predict import Predictor
from mux.predict.heads import Text

MEAN, SIGMA, LONGEST = 27, 0.6, 128
GOALS = {5: 4.4, 10: 8.2}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def measure(device: str, short: bool) -> Iterator[Record]:
    texts, rounds, size = 2560, *((3, "SMALL") if short else (9, "BASE"))
    with tempfile.TemporaryDirectory() as folder:
        predictors = {N: Predictor(saved(Path(folder) / str(N), size, N), device=device) for N in (1, *GOALS)}
        contestants = {f"N = {N}": Contestant(predicting(predictor, texts), texts)
                       for N, predictor in predictors.items()}
        found = race(contestants, rounds, device)
    under = f"{texts} texts of {MEAN} tokens on average, fp32, {torch.get_num_threads()} threads, {rounds} rounds"
    for N, goal in GOALS.items():
        yield record("ragged", f"{size}, N = {N}, ragged texts", f"{SINGLE}, sorted by length",
                     found.ratio(f"N = {N}", "N = 1"), goal if size == "BASE" else None, under)


def predicting(predictor: Predictor, count: int) -> Callable[[], Any]:
    draw = np.random.default_rng(0)

    def run() -> None:
        drawn = draw.lognormal(np.log(MEAN) - SIGMA**2 / 2, SIGMA, count).round().astype(int)
        lengths = drawn.clip(3, LONGEST) - 2  # without [CLS] and [SEP]
        texts = [Text(" ".join(f"w{word}" for word in draw.integers(VOCABULARY - len(SPECIAL), size=length)))
                 for length in lengths]
        for first in range(0, count, predictor.window):
            predictor.predict(texts[first : first + predictor.window])

    return run


def saved(folder: Path, size: str, N: int) -> Path:
    """A model folder with a tokenizer of one token a word."""
    ours("sequence", size, N).save_pretrained(folder)  # type: ignore[operator]
    words = {word: number for number, word in
             enumerate([*SPECIAL, *(f"w{number}" for number in range(VOCABULARY - len(SPECIAL)))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LONGEST, pad_token="[PAD]", unk_token="[UNK]",
                            cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]").save_pretrained(folder)
    return folder
