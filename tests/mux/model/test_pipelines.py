"""transformers' pipelines over MUX models, against plain loops that call the model on the same groups."""

import io
import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer
from transformers import pipeline as transformers_pipeline

from mux.model import (
    MuxForPreTraining,
    MuxForSequenceClassification,
    MuxForTokenClassification,
    pipeline,
)

CLASSES = {"num_labels": 3}
TAGS = {"id2label": {0: "O", 1: "B-X", 2: "I-X"}, "label2id": {"O": 0, "B-X": 1, "I-X": 2}}


@torch.no_grad()
def plain_loop(kind, folder, inputs, batch):
    """The logits of each input, from batches of so many, padded and tokenized together."""
    model, tokenizer = kind.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    for first in range(0, len(inputs), batch):
        rows += model(**tokenizer(inputs[first : first + batch], padding=True, return_tensors="pt")).logits
    return rows


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 11, 64])  # N = 3 divides few of them
def test_classification_is_the_plain_loop(model_folder, texts, batch):
    folder = model_folder(MuxForSequenceClassification, num_instances=3, **CLASSES)
    classify = transformers_pipeline("text-classification", model=str(folder), batch_size=batch, top_k=None)
    chances = torch.stack(plain_loop(MuxForSequenceClassification, folder, texts, batch)).softmax(-1)
    answers = classify(texts)
    found = [[score["score"] for score in sorted(answer, key=lambda one: one["label"])] for answer in answers]
    np.testing.assert_allclose(found, chances, atol=2e-6)
    assert classify(texts) == answers  # tails are filled in the same way every time


def test_own_pipeline_fills_its_groups_and_takes_transformers_options(model_folder, texts):
    folder = model_folder(MuxForSequenceClassification, num_instances=3, **CLASSES)
    classify = pipeline("sentiment-analysis", folder, top_k=1)
    assert classify._batch_size == 96  # 32 N
    chances = torch.stack(plain_loop(MuxForSequenceClassification, folder, texts, 96)).softmax(-1)
    np.testing.assert_allclose([answer[0]["score"] for answer in classify(texts)], chances.max(-1).values, atol=2e-6)
    assert pipeline("text-classification", folder, batch_size=6)._batch_size == 6
    assert list(classify(text for text in texts))[4][0]["label"] == classify(texts)[4][0]["label"]  # a generator
    assert len(classify(texts[0])) == 1


def test_pairs(model_folder, texts):
    folder = model_folder(MuxForSequenceClassification, num_instances=2, **CLASSES)
    classify = pipeline("text-classification", folder, top_k=None)
    answers = classify([{"text": text, "text_pair": texts[-1]} for text in texts])
    chances = torch.stack(plain_loop(MuxForSequenceClassification, folder, [(text, texts[-1]) for text in texts], 64))
    found = [[score["score"] for score in sorted(answer, key=lambda one: one["label"])] for answer in answers]
    np.testing.assert_allclose(found, chances.softmax(-1), atol=2e-6)


def test_regression_gives_the_number(model_folder, texts):
    folder = model_folder(MuxForSequenceClassification, num_instances=2, num_labels=1, problem_type="regression")
    numbers = torch.stack(plain_loop(MuxForSequenceClassification, folder, texts, 64))[:, 0]
    found = [answer["score"] for answer in pipeline("text-classification", folder)(texts)]
    np.testing.assert_allclose(found, numbers, atol=2e-6)


@pytest.mark.parametrize("demultiplexer", ["rsa", "prefix"])
def test_long_texts_are_cut_to_what_the_model_reads(model_folder, demultiplexer):
    fields = {"num_instances": 2, "demultiplexer": demultiplexer}
    long, short = " ".join(["w1", "w2a"] * 200), "w3"
    for task, kind in (("text-classification", MuxForSequenceClassification), ("fill-mask", MuxForPreTraining),
                       ("token-classification", MuxForTokenClassification)):
        run = pipeline(task, model_folder(kind, **CLASSES, **fields))
        assert run.tokenizer.model_max_length == (64 if demultiplexer == "rsa" else 62)
        mask = "[MASK] " if task == "fill-mask" else ""
        assert len(run([mask + long, mask + short])) == 2


def expected_tags(folder, text_rows, strategy):
    """Word by word what transformers documents: the first piece's, the mean, or the surest piece's class."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = []
    for text, logits in zip(text_rows, plain_loop(MuxForTokenClassification, folder, text_rows, 64), strict=True):
        chances, places = logits.softmax(-1), tokenizer(text).word_ids()
        row = []
        for word in sorted({place for place in places if place is not None}):
            pieces = chances[[index for index, place in enumerate(places) if place == word]]
            chosen = {"first": pieces[0], "average": pieces.mean(0), "max": pieces[pieces.max(-1).values.argmax()]}
            row.append(int(chosen[strategy].argmax()))
        words.append(row)
    return words


@pytest.mark.parametrize("strategy", ["first", "average", "max"])
def test_words_are_aggregated_from_their_pieces(model_folder, strategy):
    folder = model_folder(MuxForTokenClassification, num_instances=2, **TAGS)
    rows = ["w1ab w2 w3c", "w4abc w5a w6 w7", "w8 w9ca w10bb", "w11 w12ab", "w13c w14b w15a w16"]
    tag = pipeline("token-classification", folder, aggregation_strategy=strategy, ignore_labels=[])
    number = {"O": 0, "X": 1}  # a group's name has no B- or I-
    for row, spans, expected in zip(rows, tag(rows), expected_tags(folder, rows, strategy), strict=True):
        starts = [start for start in range(len(row)) if start == 0 or row[start - 1] == " "]
        covering = [next(span for span in spans if span["start"] <= start < span["end"]) for start in starts]
        assert [number[span["entity_group"]] for span in covering] == [min(tag, 1) for tag in expected]


def test_simple_aggregation_and_plain_tokens(model_folder):
    folder = model_folder(MuxForTokenClassification, num_instances=2, **TAGS)
    rows = ["w1ab w2 w3c", "w4", "w5a w6"]
    tag = pipeline("ner", folder, ignore_labels=[])
    answers, logits = tag(rows), plain_loop(MuxForTokenClassification, folder, rows, 64)
    for answer, row in zip(answers, logits, strict=True):
        chances = row.softmax(-1)[1 : len(answer) + 1]  # behind [CLS]
        np.testing.assert_allclose([piece["score"] for piece in answer], chances.max(-1).values, atol=2e-6)
    assert [len(answer) for answer in answers] == [6, 1, 3]
    simple = pipeline("ner", folder, ignore_labels=[], aggregation_strategy="simple")(rows)
    assert simple == pipeline("ner", folder, ignore_labels=[], aggregation_strategy="simple")(rows)
    assert all(span["entity_group"] in ("O", "X") for spans in simple for span in spans)


@pytest.mark.parametrize("N", [1, 2, 3])
def test_masks_are_filled(model_folder, N):
    folder = model_folder(MuxForPreTraining, num_instances=N)
    rows = ["w1 [MASK] w3", "[MASK] w5a w6 w7", "w8 w9 w10 w11 [MASK]", "w1 [MASK]"]
    answers = pipeline("fill-mask", folder, top_k=3)(rows)
    logits = plain_loop(MuxForPreTraining, folder, rows, 64)
    for answer, row, position in zip(answers, logits, (2, 1, 5, 2), strict=True):
        best = row[position].softmax(-1).topk(3)
        assert [guess["token"] for guess in answer] == best.indices.tolist()
        np.testing.assert_allclose([guess["score"] for guess in answer], best.values, atol=2e-6)


def test_what_a_model_cannot_do_is_said(model_folder, texts):
    electra = model_folder(MuxForPreTraining, num_instances=2, family="electra")
    with pytest.raises(ValueError, match=r"is an ELECTRA: .* fills no masks"):
        pipeline("fill-mask", electra)
    with pytest.raises(ValueError, match="fills no masks"):
        transformers_pipeline("fill-mask", model=str(electra))
    with pytest.raises(ValueError, match="text-classification needs MuxForSequenceClassification"):
        pipeline("text-classification", electra)
    with pytest.raises(ValueError, match="MUX models have pipelines for text-classification, token-"):
        pipeline("feature-extraction", electra)
    folder = model_folder(MuxForSequenceClassification, num_instances=2)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer that can be loaded; save the one"):
        pipeline("text-classification", folder)


@pytest.mark.parametrize(("task", "kind"), [
    ("text-classification", MuxForSequenceClassification), ("token-classification", MuxForTokenClassification),
    ("fill-mask", MuxForPreTraining),
])
def test_rows_are_padded_to_one_length_where_padding_is_attended(model_folder, texts, task, kind):
    """Groups give the same whatever longer texts there are in their batch."""
    folder = model_folder(kind, num_instances=2, vocab_size=200, compat="princeton", deterministic_fillers=True,
                          **CLASSES)
    run = pipeline(task, folder)
    rows = [f"[MASK] {text}" if task == "fill-mask" else text for text in texts[:10]]

    def scores(inputs):
        answers = [answer if isinstance(answer, list) else [answer] for answer in run(inputs)]
        assert len(answers) == len(inputs) and all(answers)
        return [one["score"] for answer in answers for one in answer]

    by_two = [score for first in range(0, 10, 2) for score in scores(rows[first : first + 2])]
    np.testing.assert_allclose(scores(rows), by_two, atol=2e-6)


def test_words_can_be_given_where_padding_is_attended(model_folder, texts):
    folder = model_folder(MuxForTokenClassification, num_instances=2, vocab_size=200, compat="princeton",
                          deterministic_fillers=True, **TAGS)
    tag = pipeline("token-classification", folder, ignore_labels=[])
    of_words = tag([text.split() for text in texts[:4]], is_split_into_words=True)
    of_texts = tag(texts[:4])  # the call before leaves nothing behind
    assert [[piece["score"] for piece in row] for row in of_words] == [
        pytest.approx([piece["score"] for piece in row], abs=2e-6) for row in of_texts]


@pytest.mark.parametrize(("recorded", "length"), [(None, 64), (24, 24), (100, 64)])  # None: 128; 64 is what it can read
def test_the_padded_length_is_that_of_training(model_folder, texts, recorded, length):
    folder = model_folder(MuxForSequenceClassification, num_instances=2, vocab_size=200, compat="princeton",
                          deterministic_fillers=True, padded_length=recorded, **CLASSES)
    classify = pipeline("text-classification", folder, top_k=None)
    assert classify.tokenizer.model_max_length == length
    model = MuxForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        chances = model(**tokenizer(texts[:4], padding="max_length", truncation=True, max_length=length,
                                    return_tensors="pt")).logits.softmax(-1)
    found = [[score["score"] for score in sorted(answer, key=lambda one: one["label"])]
             for answer in classify(texts[:4])]
    np.testing.assert_allclose(found, chances, atol=2e-6)


def test_code_in_a_folder_is_not_run_whatever_stdin_says(model_folder, tmp_path, monkeypatch):
    folder = model_folder(MuxForSequenceClassification, num_instances=2, **CLASSES)
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(ValueError, match=r"makes no configuration of it: .* contains custom code"):
        pipeline("text-classification", folder)
    assert not (tmp_path / "trace").exists()
