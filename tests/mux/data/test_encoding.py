from __future__ import annotations

import itertools

import numpy as np
import pytest

from mux.data.encoding import encode
from mux.data.masking import IGNORED
from mux.data.tasks import Examples


def examples(texts: list[str], pairs: list[str] | None = None) -> Examples:
    return Examples(tuple(texts), tuple(pairs) if pairs else None, np.arange(len(texts)))


def test_encoded_rows_are_the_tokenizers(tokenizer, leads):
    encoded = encode(examples(leads[:1200]), tokenizer, 48)
    assert len(encoded) == 1200 and encoded.labels[7] == 7 and encoded.lengths.max() == 48
    for number in (0, 5, 999, 1000, 1199):
        ids = tokenizer(leads[number], truncation=True, max_length=48)["input_ids"]
        assert encoded.ids[encoded.offsets[number] : encoded.offsets[number + 1]].tolist() == ids


def test_a_batch_is_padded_to_its_longest_row(tokenizer):
    encoded = encode(examples(["a town", "the river in the town", "a"]), tokenizer, 64)
    batch = encoded.batch([1, 0, 1])
    expected = tokenizer(["the river in the town", "a town", "the river in the town"], padding=True)
    assert {name: array.tolist() for name, array in batch.items()} == {
        name: expected[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    assert all(array.dtype == np.int64 for array in batch.values())
    assert encoded.batch(np.array([2]))["input_ids"].shape == (1, encoded.lengths[2])
    assert encoded.batch([])["input_ids"].shape == (0, 0)


def test_pairs_have_segments_and_lose_the_longer_text_first(tokenizer):
    encoded = encode(examples(["a town"], ["the river in the land of the people of the west"]), tokenizer, 16)
    batch = encoded.batch([0])
    first = len(tokenizer("a town")["input_ids"])
    assert batch["input_ids"].shape == (1, 16)
    assert batch["input_ids"][0, :first].tolist() == tokenizer("a town")["input_ids"]
    assert batch["input_ids"][0, -1] == tokenizer.sep_token_id
    assert batch["token_type_ids"][0].tolist() == [0] * first + [1] * (16 - first)


def test_batches_can_be_padded_to_the_full_length_and_go_without_segments(tokenizer):
    encoded = encode(examples(["a town", "the river"]), tokenizer, 24, segments=False, pad=True)
    batch = encoded.batch([0, 1])
    assert set(batch) == {"input_ids", "attention_mask"} and batch["input_ids"].shape == (2, 24)
    assert batch["attention_mask"].sum(1).tolist() == encoded.lengths.tolist()


# --- words --------------------------------------------------------------------------------------------------
SENTENCES = [["The", "Encyclopaedia", "of", "Washington"], ["Rivers"], ["towns", "and", "inhabitants"]]


def tagged(sentences: list[list[str]]) -> Examples:
    count = sum(map(len, sentences))
    return Examples(tuple(map(tuple, sentences)), None, np.arange(count), of_words=True)


def test_the_label_of_a_word_stands_at_its_first_piece(tokenizer):
    encoded = encode(tagged(SENTENCES), tokenizer, 64)
    batch = encoded.batch([2, 0])
    labels = encoded.labels_of([2, 0], batch["input_ids"].shape[1])
    assert labels.shape == batch["input_ids"].shape and labels.dtype == np.int64
    for row, sentence, first in ((0, SENTENCES[2], 5), (1, SENTENCES[0], 0)):
        places = np.flatnonzero(labels[row] != IGNORED)
        assert labels[row, places].tolist() == list(range(first, first + len(sentence)))
        bounds = [*places, int(batch["attention_mask"][row].sum()) - 1]  # [SEP]
        pieces = [tokenizer.decode(batch["input_ids"][row, start:stop]).strip()
                  for start, stop in itertools.pairwise(bounds)]
        assert pieces == [word.lower() for word in sentence]
    assert (labels != IGNORED).sum() < batch["attention_mask"].sum() - 4  # some words have several pieces


def test_words_of_a_cut_row_are_not_asked_for(tokenizer):
    encoded = encode(tagged([["town"] * 30, ["river"] * 3]), tokenizer, 16)
    assert encoded.lengths.tolist() == [16, 3 * (encoded.lengths[1] - 2) // 3 + 2]
    asked = encoded.asked([0, 1], 16)
    assert asked[asked >= 0].tolist() == [*range(asked[0].max() + 1), 30, 31, 32] and asked[0].max() < 29


def test_word_ids_of_the_tokenizers_own_words(tokenizer, leads):
    """Against transformers' way: one row at a time, its word_ids."""
    sentences = [text.split()[:40] for text in leads[:30]]
    encoded = encode(tagged(sentences), tokenizer, 48)
    number = 0
    for index, sentence in enumerate(sentences):
        alone = tokenizer(sentence, is_split_into_words=True, truncation=True, max_length=48)
        ids = encoded.ids[encoded.offsets[index] : encoded.offsets[index + 1]]
        assert ids.tolist() == alone["input_ids"]
        seen: set[int | None] = {None}
        for place, word in enumerate(alone.word_ids()):
            expected = -1 if word in seen else number + word
            assert encoded.words[encoded.offsets[index] + place] == expected
            seen.add(word)
        number += len(sentence)


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_labels_of_texts_keep_their_type(tokenizer, dtype):
    made = Examples(("a", "b"), None, np.array([1, 2], dtype=dtype))
    labels = encode(made, tokenizer, 16).labels_of([1, 0], 3)
    assert labels.tolist() == [2, 1] and labels.dtype == dtype
