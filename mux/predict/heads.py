"""What the logits of a head say about a text.

R rows, L positions, W words, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

Answer = dict[str, Any]  # the fields that a row gets


@dataclass(frozen=True)
class Text:
    """What is to be predicted from: a text, two texts, or a list of words."""

    text: str | list[str]
    pair: str | None = None


@dataclass(frozen=True)
class Encoding:
    ids: list[int]
    segments: list[int]
    firsts: dict[int, int]  # word -> position of its first token, of words that have one; empty for sequences


class SequenceHead:
    """A class or a number for a text."""

    auto_class = AutoModelForSequenceClassification
    takes_words = False

    def __init__(self, config: PreTrainedConfig) -> None:
        self.labels = labels(config)
        self.regression = config.problem_type == "regression" or config.num_labels == 1
        if config.problem_type == "multi_label_classification":
            raise ValueError("the model gives a text several labels at once, which predict does not know")

    def encode(self, texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, length: int) -> list[Encoding]:
        pairs = [text.pair for text in texts]
        encoded = tokenizer([text.text for text in texts], pairs if pairs[0] is not None else None,  # type: ignore
                            truncation="longest_first", max_length=length, return_token_type_ids=True,
                            return_attention_mask=False, verbose=False)
        return [Encoding(ids, segments, {}) for ids, segments in
                zip(encoded["input_ids"], encoded["token_type_ids"], strict=True)]

    def read(self, logits_RC: Tensor, rows: Sequence[Encoding], words: int) -> Tensor:
        return logits_RC

    def added(self, text: Text, scores: bool, spans: bool) -> tuple[str, ...]:
        """The fields of an answer."""
        return ("prediction",) if self.regression else ("prediction", "score", *(["scores"] if scores else []))

    def answer(self, text: Text, row: Encoding, logits_C: np.ndarray, scores: bool, spans: bool) -> Answer:
        if self.regression:
            return {"prediction": rounded(logits_C[0])}
        chances = softmax(logits_C)
        answer = {"prediction": self.labels[chances.argmax()], "score": rounded(chances.max())}
        if scores:
            answer["scores"] = {label: rounded(chance) for label, chance in zip(self.labels, chances, strict=True)}
        return answer


class TokenHead:
    """A tag for each word: that of its first token, as the models are trained. A text is split at white space.

    Words behind the last token that the model reads get none. W, of a batch, is how many words get one: at most L.
    """

    auto_class = AutoModelForTokenClassification
    takes_words = True

    def __init__(self, config: PreTrainedConfig) -> None:
        self.labels = labels(config)

    def encode(self, texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, length: int) -> list[Encoding]:
        split = [words_of(text.text) for text in texts]
        encoded = tokenizer(split, is_split_into_words=True, truncation=True, max_length=length,
                            return_token_type_ids=True, return_attention_mask=False, verbose=False)
        encodings = []
        for row in range(len(split)):
            firsts: dict[int, int] = {}
            for position, word in enumerate(encoded.word_ids(row)):
                if word is not None:
                    firsts.setdefault(word, position)
            encodings.append(Encoding(encoded["input_ids"][row], encoded["token_type_ids"][row], firsts))
        return encodings

    def read(self, logits_RLC: Tensor, rows: Sequence[Encoding], words: int) -> Tensor:
        """[R, W, C] at the first tokens of a row's words, in order; anything behind them."""
        firsts_RW = torch.zeros(len(rows), words, dtype=torch.long)
        for row, encoding in enumerate(rows):
            firsts_RW[row, : len(encoding.firsts)] = torch.tensor(list(encoding.firsts.values()))
        firsts_RW = firsts_RW.to(logits_RLC.device)
        return logits_RLC[torch.arange(len(rows), device=firsts_RW.device)[:, None], firsts_RW]

    def added(self, text: Text, scores: bool, spans: bool) -> tuple[str, ...]:
        """The fields of an answer."""
        if spans:
            return ("prediction",)
        words = ["words"] if isinstance(text.text, str) else []
        return (*words, "prediction", "score", *(["scores"] if scores else []))

    def answer(self, text: Text, row: Encoding, logits_WC: np.ndarray, scores: bool, spans: bool) -> Answer:
        places = word_places(text.text)
        read = dict(zip(row.firsts, softmax(logits_WC[: len(row.firsts)]), strict=True))
        chances = [read.get(word) for word in range(len(places))]
        tags = [None if chance is None else self.labels[chance.argmax()] for chance in chances]
        certain = [None if chance is None else rounded(chance.max()) for chance in chances]
        if spans:
            return {"prediction": merged(text.text, places, tags, certain)}
        answer: Answer = {"prediction": tags, "score": certain}
        if isinstance(text.text, str):
            answer = {"words": words_of(text.text)} | answer
        if scores:
            answer["scores"] = [
                None if chance is None else dict(zip(self.labels, map(rounded, chance), strict=True))
                for chance in chances]
        return answer


HEADS: dict[str, type[SequenceHead] | type[TokenHead]] = {
    "ForSequenceClassification": SequenceHead, "ForTokenClassification": TokenHead,
}


def head_of(config: PreTrainedConfig, folder: str) -> SequenceHead | TokenHead:
    """The head that the folder's weights are for. Raises ValueError if it predicts nothing about a text."""
    names = config.architectures or []
    for ending, head in HEADS.items():
        if any(name.endswith(ending) for name in names):
            return head(config)
    raise ValueError(f"{folder} holds {' or '.join(names) or 'no head'}: predictions need a sequence or token "
                     "classification model, which fine-tuning makes")


def labels(config: PreTrainedConfig) -> list[str]:
    """The names of the classes, in the order of their logits."""
    return [str(name) for _, name in sorted((config.id2label or {}).items())]


def word_places(text: str | list[str]) -> list[tuple[int, int]]:
    """Where each word starts and ends: characters of a text, split at white space, or items of a list."""
    if isinstance(text, str):
        return [match.span() for match in re.finditer(r"\S+", text)]
    return [(index, index + 1) for index in range(len(text))]


def words_of(text: str | list[str]) -> list[str]:
    return [text[start:end] for start, end in word_places(text)] if isinstance(text, str) else text


def merged(text: str | list[str], places: Sequence[tuple[int, int]], tags: Sequence[str | None],
           scores: Sequence[float | None]) -> list[Answer]:
    """Neighbouring words of one entity as one span: B-X begins one, I-X goes on with it, as do equal bare tags.

    `start` and `end` are characters of a text or items of a list of words; words tagged O are in no span.
    """
    spans: list[Answer] = []
    previous = None  # the label of the span that ends at the word before
    for (start, end), tag, score in zip(places, tags, scores, strict=True):
        begins, label = (tag[0] == "B", tag[2:]) if tag and tag[:2] in ("B-", "I-") else (False, tag)
        if label in (None, "O"):
            previous = None
            continue
        if begins or label != previous:
            spans.append({"label": label, "start": start, "end": end, "score": []})
        spans[-1]["end"] = end
        spans[-1]["score"].append(score)
        previous = label
    for span in spans:
        words = text[span["start"] : span["end"]]
        span["text"] = words if isinstance(words, str) else " ".join(words)
        span["score"] = rounded(np.mean(span["score"]))
    return spans


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def rounded(value: Any) -> float:
    """To six places: what differs beyond them are rounding errors of the arithmetic."""
    return round(float(value), 6)
