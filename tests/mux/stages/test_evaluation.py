"""Scores over tickets against a plain loop over the same groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mux.data.encoding import encode
from mux.data.grouping import compose
from mux.data.tasks import Examples
from mux.model import MuxConfig, MuxForSequenceClassification, MuxForTokenClassification
from mux.recipe import TaskDefinition
from mux.stages.evaluation import Evaluation

CONFIG = {"num_instances": 3, "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
          "intermediate_size": 64, "max_position_embeddings": 40, "num_labels": 4}
WORDS = [["the", "river", "Washington"], ["towns"] * 30, ["in"], ["a", "national", "congress", "of", "people"],
         ["north", "south"], ["inhabitants", "of", "France"], ["language"]]


def evaluation(rows: Examples, tokenizer, **fields) -> Evaluation:
    definition = TaskDefinition(train="builtin:topic_train", test="builtin:topic_test", others=("f1",), **fields)
    return Evaluation(definition, rows, encode(rows, tokenizer, 20), rows)


def over_tickets(made: Evaluation, model, copies: int) -> dict:
    return made.over_tickets(model, 3, 2, copies, torch.device("cpu"), lambda done, total, unit: None)


@pytest.fixture
def words() -> Examples:
    labels = np.arange(sum(map(len, WORDS))) % 4
    return Examples(tuple(map(tuple, WORDS)), None, labels, of_words=True)


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_words_by_their_first_pieces_with_logits_averaged_over_copies(small_tokenizer, words, copies):
    torch.manual_seed(0)
    model = MuxForTokenClassification(MuxConfig(**CONFIG)).eval()
    result = over_tickets(evaluation(words, small_tokenizer, tokens="tokens"), model, copies)

    for ticket in (0, 1):
        composition = compose(len(WORDS), 3, seed=ticket, copies=copies)
        batch = small_tokenizer([WORDS[row] for row in composition.groups.ravel()], is_split_into_words=True,
                                truncation=True, max_length=20, padding=True, return_tensors="pt")
        logits = model(**batch).logits.detach()
        answers: dict[tuple[int, int], list] = {}
        for index, row in enumerate(composition.groups.ravel()[: composition.rows]):
            seen: set[int | None] = {None}
            for place, word in enumerate(batch.word_ids(index)):
                if word not in seen:
                    answers.setdefault((row, word), []).append(logits[index, place])
                seen.add(word)
        right, number = 0, 0
        for row, sentence in enumerate(WORDS):
            for word in range(len(sentence)):
                found = answers.get((row, word), [])
                assert len(found) in (0, copies)
                right += bool(found) and int(torch.stack(found).mean(0).argmax()) == words.labels[number]
                number += 1
        assert len(answers) < number  # the row of 30 words is cut
        assert result["tickets"][ticket] == pytest.approx(right / number)
    assert result["test_rows"] == 7 and 0 <= result["others"]["f1"]["mean"] < 1
    assert result["majority"] == pytest.approx(np.bincount(words.labels).max() / len(words.labels))


@pytest.mark.parametrize("copies", [1, 2])
def test_texts_and_numbers(small_tokenizer, copies):
    torch.manual_seed(0)
    texts = tuple(" ".join(sentence) for sentence in WORDS)
    for fields, regression in (({}, False), ({"regression": True, "metric": "pearson"}, True)):
        labels = np.linspace(0, 1, 7, dtype=np.float32) if regression else np.arange(7) % 4
        made = evaluation(Examples(texts, None, labels), small_tokenizer, **fields) if not regression else Evaluation(
            TaskDefinition(train="builtin:topic_train", test="builtin:topic_test", **fields),
            Examples(texts, None, labels), encode(Examples(texts, None, labels), small_tokenizer, 20),
            Examples(texts, None, labels))
        model = MuxForSequenceClassification(MuxConfig(**CONFIG | {"num_labels": 1 if regression else 4})).eval()
        result = over_tickets(made, model, copies)
        for ticket in (0, 1):
            composition = compose(7, 3, seed=ticket, copies=copies)
            batch = small_tokenizer([texts[row] for row in composition.groups.ravel()], truncation=True, max_length=20,
                                    padding=True, return_tensors="pt")
            logits = composition.average(model(**batch).logits.detach().numpy())
            expected = (np.corrcoef(logits[:, 0], labels)[0, 1] if regression
                        else (logits.argmax(-1) == labels).mean())
            assert result["tickets"][ticket] == pytest.approx(expected, abs=1e-5)
        assert (result["majority"] is None) == regression
