"""`mux predict`: rows in, rows out, in order, with predictions that a plain loop over groups gives."""

import csv
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DistilBertConfig
from transformers import DistilBertForSequenceClassification as DistilBert

from mux.data.encoding import encode
from mux.data.grouping import compose
from mux.data.tasks import Examples
from mux.model import MuxForPreTraining, MuxForSequenceClassification, MuxForTokenClassification
from mux.predict import Interrupted, Predictor, Rows, Text, output_kind, predict_file
from mux.predict.companions import NEUTRAL, FixedCompanions
from mux.predict.heads import merged
from mux.recipe import Refusal

LABELS = {"id2label": {0: "bad", 1: "so", 2: "good"}, "label2id": {"bad": 0, "so": 1, "good": 2}}
TAGS = {"id2label": {0: "O", 1: "B-X", 2: "I-X"}, "label2id": {"O": 0, "B-X": 1, "I-X": 2}}


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@torch.no_grad()
def by_groups(folder, groups, length=None):
    """Logits [N, C] of each group, a list of texts, one group after the other."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    padding = {"padding": "max_length", "max_length": length} if length else {"padding": True}
    return [model(**tokenizer(group, return_tensors="pt", truncation=True, **padding)).logits for group in groups]


@pytest.mark.parametrize("companions", ["length", "given"])
@pytest.mark.parametrize("N", [1, 2, 3])
def test_rows_keep_their_order_and_fields(model_folder, texts, tmp_path, N, companions):
    folder = model_folder(MuxForSequenceClassification, num_instances=N, **LABELS)
    rows = [{"id": index, "text": text, "more": [index]} for index, text in enumerate(texts)]
    source, output = jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    done = []
    predictor = Predictor(folder, batch=2, scores=True, companions=companions)
    count = predict_file(predictor, Rows(source), str(output), progress=done.append)
    assert count == 11 and done[-1] == 11 and done == sorted(done)
    order = list(range(11))
    if companions == "length":
        order.sort(key=lambda index: len(predictor.tokenizer(texts[index])["input_ids"]))
        assert order != list(range(11))
    padded = order + order[: -len(texts) % N]  # the tail's fillers are the first rows
    grouped = [texts[index] for index in padded]
    logits = torch.cat(by_groups(folder, [grouped[first : first + N] for first in range(0, len(padded), N)]))
    chances = logits.softmax(-1)[torch.tensor(order).argsort()]
    found = read(output)
    assert [{key: row[key] for key in ("id", "text", "more")} for row in found] == rows
    assert list(found[0]) == ["id", "text", "more", "prediction", "score", "scores"]
    assert [row["prediction"] for row in found] == [("bad", "so", "good")[best] for best in chances.argmax(-1)]
    np.testing.assert_allclose([list(row["scores"].values()) for row in found], chances, atol=2e-6)
    np.testing.assert_allclose([row["score"] for row in found], chances.max(-1).values, atol=2e-6)
    assert not (tmp_path / "out.jsonl.part").exists()


def test_the_batch_changes_nothing(model_folder, texts):
    folder = model_folder(MuxForSequenceClassification, num_instances=2, **LABELS)
    asked = [Text(text) for text in texts]
    first, *others = [Predictor(folder, batch=batch, copies=2).predict(asked) for batch in (1, 4, 256)]
    for answers in others:
        assert [answer["prediction"] for answer in answers] == [answer["prediction"] for answer in first]
        np.testing.assert_allclose([answer["score"] for answer in answers], [answer["score"] for answer in first],
                                   atol=2e-6)


def test_copies_are_averaged_over_a_seeded_composition(model_folder, texts):
    folder = model_folder(MuxForSequenceClassification, num_instances=3, **LABELS)
    predictor = Predictor(folder, copies=2, scores=True)
    composition = compose(11, 3, seed=0, copies=2)
    logits = torch.cat(by_groups(folder, [[texts[index] for index in group] for group in composition.groups]))
    sums, seen = np.zeros((11, 3)), np.zeros(11)
    for row, index in enumerate(composition.groups.ravel()[:22]):
        sums[index] += logits[row].numpy()
        seen[index] += 1
    assert (seen == 2).all()
    expected = torch.tensor(sums / 2).softmax(-1)
    found = [list(answer["scores"].values()) for answer in predictor.predict([Text(text) for text in texts])]
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("copies", [1, 3])
def test_fixed_companions_make_a_prediction_independent_of_its_neighbours(model_folder, texts, copies):
    folder = model_folder(MuxForSequenceClassification, num_instances=3, **LABELS)
    fixed = Predictor(folder, companions="fixed", copies=copies, scores=True)
    asked = [Text(text) for text in texts]
    answers = fixed.predict(asked)
    order = np.random.default_rng(0).permutation(11)[:7]
    for index, answer in zip(order, fixed.predict([asked[index] for index in order]), strict=True):
        assert answer["scores"] == pytest.approx(answers[index]["scores"], abs=2e-6)
    assert fixed.predict(asked[4:5])[0]["scores"] == pytest.approx(answers[4]["scores"], abs=2e-6)
    given = Predictor(folder, scores=True)
    apart = [abs(given.predict([asked[4], other])[0]["scores"]["bad"] - given.predict([asked[4]])[0]["scores"]["bad"])
             for other in asked[:3]]
    assert max(apart) > 1e-3  # which it otherwise is not


def test_fixed_companions_sit_where_they_are_said_to(model_folder, texts):
    folder = model_folder(MuxForSequenceClassification, num_instances=3, **LABELS)
    first, second = NEUTRAL[:2]
    groups = [[texts[1], first, second], [second, texts[1], first]]
    logits = by_groups(folder, groups)
    expected = ((logits[0][0] + logits[1][1]) / 2).softmax(-1)
    answer = Predictor(folder, companions="fixed", copies=2, scores=True).predict([Text(texts[1])])[0]
    np.testing.assert_allclose(list(answer["scores"].values()), expected, atol=2e-6)
    (folder / "companions.json").write_text(json.dumps(["w1 w2"]))  # one for both slots
    logits = by_groups(folder, [[texts[1], "w1 w2", "w1 w2"]])
    answer = Predictor(folder, companions="fixed", scores=True).predict([Text(texts[1])])[0]
    np.testing.assert_allclose(list(answer["scores"].values()), logits[0][0].softmax(-1), atol=2e-6)
    (folder / "companions.json").write_text('{"w1": 1}')
    with pytest.raises(ValueError, match=r"companions\.json is not a list of texts"):
        Predictor(folder, companions="fixed")


def test_fixed_companions_group_every_copy_in_its_own_slot():
    groups = FixedCompanions(2, 3, 2).groups
    assert groups.tolist() == [[0, 2, 3], [3, 0, 2], [1, 2, 3], [3, 1, 2]]


def test_windows_are_seamless(model_folder, tmp_path, monkeypatch):
    """Several windows give what one would: groups do not straddle their ends, and the tail is the last one's."""
    folder = model_folder(MuxForSequenceClassification, num_instances=2, **LABELS)
    source = jsonl(tmp_path / "in.jsonl", [{"text": f"w{index % 40} w{(3 * index) % 37}"} for index in range(1, 60)])
    predictor = Predictor(folder, companions="given")
    assert predictor.window == 2560
    predict_file(predictor, Rows(source), str(tmp_path / "out.jsonl"))
    found = [(row["prediction"], row["score"]) for row in read(tmp_path / "out.jsonl")]
    monkeypatch.setattr("mux.predict.predictor.WINDOW", 11)
    assert predictor.window == 10
    predict_file(predictor, Rows(source), str(tmp_path / "again.jsonl"))
    again = [(row["prediction"], row["score"]) for row in read(tmp_path / "again.jsonl")]
    assert len(found) == 59
    assert [label for label, _ in found[:-1]] == [label for label, _ in again[:-1]]
    np.testing.assert_allclose([score for _, score in found[:-1]], [score for _, score in again[:-1]], atol=2e-6)


def test_pairs_and_regression(model_folder, texts, tmp_path):
    folder = model_folder(MuxForSequenceClassification, num_instances=2, num_labels=1, problem_type="regression")
    path = tmp_path / "in.tsv"
    path.write_text("first\tsecond\n" + "".join(f"{text}\t{texts[-1]}\n" for text in texts[:6]))
    predictor = Predictor(folder, companions="given")
    predict_file(predictor, Rows(str(path), "first", "second"), str(tmp_path / "out.csv"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(**tokenizer(texts[:6], [texts[-1]] * 6, padding=True, return_tensors="pt")).logits[:, 0]
    found = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert list(found[0]) == ["first", "second", "prediction"]
    np.testing.assert_allclose([float(row["prediction"]) for row in found], expected, atol=2e-6)


def test_texts_are_cut_to_what_the_model_reads(model_folder):
    long = Text(" ".join(["w1", "w2a"] * 100))
    for fields in ({}, {"demultiplexer": "prefix"}):
        folder = model_folder(MuxForSequenceClassification, num_instances=2, **LABELS, **fields)
        predictor = Predictor(folder)
        assert predictor.length == (62 if fields else 64)
        assert len(predictor.predict([long] * 3)) == 3
        with pytest.raises(ValueError, match=f"this model reads 3 to {predictor.length}"):
            Predictor(folder, max_length=predictor.length + 1)
    assert Predictor(folder, max_length=8).predict([long]) == Predictor(folder).predict([Text("w1 w2a w1 w2a")])


def test_rows_are_padded_to_one_length_where_padding_is_attended(model_folder, texts):
    folder = model_folder(MuxForSequenceClassification, num_instances=2, vocab_size=200, compat="princeton",
                          deterministic_fillers=True, **LABELS)
    groups = [[*texts, texts[0]][first : first + 2] for first in range(0, 12, 2)]
    longest = max(len(AutoTokenizer.from_pretrained(folder)(text)["input_ids"]) for text in texts)
    for recorded, length in ((None, 64), (40, 40), (100, 64)):  # None: 128, if it could read so many
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"padded_length": recorded}))
        expected = torch.cat(by_groups(folder, groups, length=length)).softmax(-1)[:11]
        for max_length in (None, longest):  # which cuts, and pads no shorter
            predictor = Predictor(folder, scores=True, max_length=max_length)
            found = [list(answer["scores"].values()) for answer in predictor.predict([Text(text) for text in texts])]
            np.testing.assert_allclose(found, expected, atol=2e-6)
        with pytest.raises(ValueError, match=f"this model reads 3 to {length}"):
            Predictor(folder, max_length=length + 1)


@torch.no_grad()
def test_words_get_the_tag_of_their_first_piece(model_folder, tmp_path):
    folder = model_folder(MuxForTokenClassification, num_instances=2, **TAGS)
    words = [["w1ab", "w2", "w3c"], ["w4", "w5a"], ["w6abc"]]
    source = jsonl(tmp_path / "in.jsonl", [{"tokens": row} for row in words])
    given = Predictor(folder, companions="given", scores=True)
    predict_file(given, Rows(source, "tokens"), str(tmp_path / "out.jsonl"))
    tokenizer, found = AutoTokenizer.from_pretrained(folder), read(tmp_path / "out.jsonl")
    model = MuxForTokenClassification.from_pretrained(folder).eval()
    batch = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
    chances = model(**batch).logits.softmax(-1)
    for row, firsts in enumerate(([1, 4, 5], [1, 2], [1])):  # behind [CLS]; w1ab is three pieces
        expected = chances[row, firsts]
        assert found[row]["prediction"] == [("O", "B-X", "I-X")[best] for best in expected.argmax(-1)]
        np.testing.assert_allclose([list(each.values()) for each in found[row]["scores"]], expected, atol=2e-6)
    text = given.predict([Text("w1ab w2  w3c"), Text("w4 w5a"), Text("w6abc")])
    assert [answer["words"] for answer in text] == words
    assert [answer["prediction"] for answer in text] == [row["prediction"] for row in found]
    cut = Predictor(folder, max_length=5).predict([Text(words[0])])[0]  # [CLS] w1 ##a ##b [SEP]
    assert cut["prediction"][0] is not None and cut["prediction"][1:] == [None, None]
    assert cut["score"][1:] == [None, None]


def test_a_long_row_of_words_takes_the_room_of_what_is_read(model_folder):
    """Some words have no tokens, wherever they stand; those that are cut off have none either."""
    predictor = Predictor(model_folder(MuxForTokenClassification, num_instances=2, **TAGS), scores=True)
    texts = [Text([" "] * 2000 + ["w1", "w2a"] * 1000), Text(["w3", "w4ab"])]
    rows = predictor._encode(texts)
    assert [len(row.firsts) for row in rows] == [42, 2]  # of 62 tokens
    logits = predictor._logits(rows, np.array([[0, 1]]), lambda share: None)
    assert logits.shape == (2, 42, 3)
    long, short = predictor.predict(texts)
    for field in ("prediction", "score", "scores"):
        assert [place for place, value in enumerate(long[field]) if value is not None] == list(range(2000, 2042))
        assert len(long[field]) == 4000 and None not in short[field] and len(short[field]) == 2
    assert predictor.predict([Text([" "])])[0]["prediction"] == [None]
    assert long["score"] == [chances and max(chances.values()) for chances in long["scores"]]


@pytest.mark.parametrize("length", [None, 8])
def test_texts_are_encoded_as_in_training(model_folder, texts, length):
    def same(predictor, asked, examples):
        expected = encode(examples, predictor.tokenizer, predictor.length)
        rows, first_word = predictor._encode(asked), 0
        assert len(rows) == len(expected)
        for row, text, start, end in zip(rows, asked, expected.offsets, expected.offsets[1:], strict=False):
            assert row.ids == expected.ids[start:end].tolist()
            assert row.segments == expected.segments[start:end].tolist()
            if expected.words is not None:
                words = expected.words[start:end]
                assert row.firsts == {words[at] - first_word: at for at in np.flatnonzero(words >= 0)}
                first_word += len(text.text)

    labels = np.zeros(11)
    sequences = Predictor(model_folder(MuxForSequenceClassification, num_instances=2, **LABELS), max_length=length)
    same(sequences, [Text(text) for text in texts], Examples(tuple(texts), None, labels))
    pairs = tuple(" ".join(texts[: 1 + index]) for index in reversed(range(11)))
    same(sequences, [Text(*both) for both in zip(texts, pairs, strict=True)], Examples(tuple(texts), pairs, labels))
    words = (*((*text.split(), " ", ".", "w1a") for text in texts), ("w3ab",) * 50)
    tokens = Predictor(model_folder(MuxForTokenClassification, num_instances=2, **TAGS), max_length=length)
    same(tokens, [Text(list(row)) for row in words],
         Examples(words, None, np.zeros(sum(map(len, words))), of_words=True))


def test_tags_become_spans():
    words = "in New York City , Ada Lovelace and Bob"
    places = [(0, 2), (3, 6), (7, 11), (12, 16), (17, 18), (19, 22), (23, 31), (32, 35), (36, 39)]
    tags = ["O", "B-LOC", "I-LOC", "I-LOC", "O", "B-PER", "B-PER", None, "I-PER"]
    spans = merged(words, places, tags, [0.5, 0.2, 0.4, 0.6, 0.9, 0.7, 0.8, None, 0.3])
    assert spans == [
        {"label": "LOC", "start": 3, "end": 16, "score": 0.4, "text": "New York City"},
        {"label": "PER", "start": 19, "end": 22, "score": 0.7, "text": "Ada"},
        {"label": "PER", "start": 23, "end": 31, "score": 0.8, "text": "Lovelace"},
        {"label": "PER", "start": 36, "end": 39, "score": 0.3, "text": "Bob"},
    ]
    listed = merged(["a", "b"], [(0, 1), (1, 2)], ["NOUN", "NOUN"], [1.0, 0.5])
    assert listed == [{"label": "NOUN", "start": 0, "end": 2, "score": 0.75, "text": "a b"}]


def test_any_encoder_of_transformers(tmp_path, model_folder, texts):
    """DistilBERT takes no segment ids."""
    ours = model_folder(MuxForSequenceClassification, num_instances=2, **LABELS)
    folder = tmp_path / "distilbert"
    torch.manual_seed(0)
    DistilBert(DistilBertConfig(vocab_size=60, dim=32, n_layers=1, n_heads=2, hidden_dim=64, max_position_embeddings=64,
                                **LABELS)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(ours).save_pretrained(folder)
    expected = torch.cat(by_groups_without_segments(folder, texts)).softmax(-1)
    found = Predictor(folder, scores=True).predict([Text(text) for text in texts])
    np.testing.assert_allclose([list(answer["scores"].values()) for answer in found], expected, atol=2e-6)


@torch.no_grad()
def by_groups_without_segments(folder, texts):
    tokenizer, model = AutoTokenizer.from_pretrained(folder), DistilBert.from_pretrained(folder).eval()
    return [model(tokenizer(text, return_tensors="pt")["input_ids"]).logits for text in texts]


@pytest.mark.parametrize(("name", "content", "says"), [
    ("in.jsonl", '{"text": "w1"}\n\n{"text": 3}\n', "in.jsonl:3: 'text' is not text but int"),
    ("in.jsonl", '{"text": "w1"}\n{"text": "w2"\n', "in.jsonl:2: is not JSON"),
    ("in.jsonl", '["w1"]\n', "in.jsonl:1: is not a JSON object"),
    ("in.jsonl", '{"text": "w1", "score": 1}\n', "in.jsonl:1: has a column 'score' already"),
    ("in.jsonl", '{"text": " "}\n', "in.jsonl:1: 'text' is empty"),
    ("in.jsonl", '{"text": "w1"}\n{"text": "w\\ud800"}\n', "in.jsonl:2: 'text' holds half a character"),
    ("in.jsonl", '{"text": "w1", "v": NaN}\n', "in.jsonl:1: is not JSON: NaN is no number of JSON"),
    ("in.csv", "id,text\n1,w1\n2\n", "in.csv:3: has 1 values, the first line names 2 columns"),
    ("in.csv", 'text\n"w1\n', "in.csv:2: is not CSV"),
    ("in.csv", "", "in.csv: is empty: the first line must name the columns"),
    ("in.tsv", "words\tid\nw1\t1\n", "in.tsv:2: has no column 'text'"),
    ("in.tsv", "text\ttext\nw1\t1\n", "in.tsv:1: names a column twice"),
    ("in.txt", "w1\n\udcff\n", "in.txt:2: is not UTF-8: byte 0xff"),
    ("in.parquet", "w1\n", r"in.parquet: must be a .jsonl, .tsv, .csv or .txt file"),
])
def test_a_bad_row_is_named_and_nothing_is_written(model_folder, tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    rows = Rows(str(tmp_path / name))
    predictor = Predictor(model_folder(MuxForSequenceClassification, num_instances=2, **LABELS))
    with pytest.raises(Refusal) as refusal:
        rows.count(False, predictor.added)
    assert says in str(refusal.value).replace(f"{tmp_path}/", "")
    with pytest.raises(Refusal):
        predict_file(predictor, rows, str(tmp_path / "out.jsonl"))
    assert not list(tmp_path.glob("out.jsonl*"))


def test_an_interrupted_file_leaves_its_part_and_says_so(model_folder, tmp_path):
    predictor = Predictor(model_folder(MuxForSequenceClassification, num_instances=2, **LABELS))
    count = predictor.window + 1
    source = jsonl(tmp_path / "in.jsonl", [*({"text": "w1"} for _ in range(count)), {"text": None}])
    output = tmp_path / "out.jsonl"
    output.write_text("of an earlier time")
    with pytest.raises(Interrupted, match=r"out\.jsonl\.part") as interrupted:
        predict_file(predictor, Rows(source), str(output))
    assert f"in.jsonl:{count + 1}" in str(interrupted.value.__cause__)
    assert output.read_text() == "of an earlier time"
    assert len(read(tmp_path / "out.jsonl.part")) == predictor.window

    def stop(done):
        if done > predictor.window:
            raise KeyboardInterrupt

    source = jsonl(tmp_path / "in.jsonl", [{"text": "w1"}] * count)
    with pytest.raises(Interrupted) as interrupted:
        predict_file(predictor, Rows(source), str(output), progress=stop)
    assert isinstance(interrupted.value.__cause__, KeyboardInterrupt)
    predict_file(predictor, Rows(source), str(output))
    assert len(read(output)) == count and not (tmp_path / "out.jsonl.part").exists()


def test_formats_follow_the_names(tmp_path):
    rows = Rows("a.csv")
    assert output_kind(rows, "-", None) == "csv" and output_kind(rows, "b.tsv", None) == "tsv"
    assert output_kind(rows, "b.tsv", "jsonl") == "jsonl" and output_kind(Rows("a.txt"), "-", None) == "jsonl"
    assert Rows("-").kind == "txt" and Rows("-", format="csv").kind == "csv"
    with pytest.raises(Refusal, match=r"b\.xlsx: must be a \.jsonl, \.csv or \.tsv file"):
        output_kind(rows, "b.xlsx", None)
    with pytest.raises(Refusal, match="is no folder to write to"):
        output_kind(rows, str(tmp_path / "none" / "b.csv"), None)


def test_what_csv_and_tsv_hold_comes_back(model_folder, tmp_path):
    predictor = Predictor(model_folder(MuxForSequenceClassification, num_instances=2, **LABELS), scores=True)
    rows = [{"text": 'w1, "w2"\nw3', "id": "1"}, {"text": "w4\tw5", "id": "2"}]
    source = jsonl(tmp_path / "in.jsonl", rows)
    predict_file(predictor, Rows(source), str(tmp_path / "out.csv"))
    with open(tmp_path / "out.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [{"text": row["text"], "id": row["id"]} for row in found] == rows
    assert set(json.loads(found[0]["scores"])) == {"bad", "so", "good"}
    with pytest.raises(Interrupted) as error:
        predict_file(predictor, Rows(source), str(tmp_path / "out.tsv"))
    assert "in.jsonl:1: has a tab or a line end" in str(error.value.__cause__)
    jsonl(tmp_path / "in.jsonl", [rows[0], {"text": "w1"}])
    with pytest.raises(Interrupted) as error:
        predict_file(predictor, Rows(source), str(tmp_path / "out.csv"))
    assert "in.jsonl:2: has the columns" in str(error.value.__cause__)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
@pytest.mark.parametrize("kind", [MuxForSequenceClassification, MuxForTokenClassification])
def test_other_precisions_are_a_little_off(model_folder, texts, precision, kind):
    folder = model_folder(kind, num_instances=2, **(LABELS if kind is MuxForSequenceClassification else TAGS))
    asked = [Text(text) for text in texts]
    exact, near = (Predictor(folder, precision=one, scores=True) for one in ("fp32", precision))
    weights = {module.weight().dtype if callable(module.weight) else module.weight.dtype
               for name, module in near.model.named_modules() if name.endswith("intermediate.dense")}
    assert weights == {{"bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.qint8}[precision]}
    apart = np.abs(np.array(scores(exact.predict(asked))) - scores(near.predict(asked)))
    assert 0 < apart.max() < 0.05


def test_medium_holds_while_the_model_runs(model_folder, texts):
    """What a processor makes of it is its own: some multiply as before."""
    folder = model_folder(MuxForSequenceClassification, num_instances=2, **LABELS)
    asked = [Text(text) for text in texts]
    exact, near = (Predictor(folder, precision=one, scores=True) for one in ("fp32", "fp32-medium"))
    held = []
    for predictor in (exact, near):
        predictor.model.register_forward_hook(lambda *_: held.append(torch.get_float32_matmul_precision()))
    assert scores(near.predict(asked)) == pytest.approx(scores(exact.predict(asked)), abs=1e-3)
    assert near.model.dtype == torch.float32
    assert held == ["medium"] * (len(held) // 2) + ["highest"] * (len(held) // 2) and held
    near.model.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        near.predict(asked)
    assert torch.get_float32_matmul_precision() == "highest"


def scores(answers: list[dict]) -> list[float]:
    found = []
    for answer in answers:
        for row in answer["scores"] if isinstance(answer["scores"], list) else [answer["scores"]]:
            found += row.values()
    return found


def test_values_that_do_not_fit_the_model_are_refused(model_folder, tmp_path):
    folder = model_folder(MuxForSequenceClassification, num_instances=2, **LABELS)
    for options, says in (({"copies": 3}, "takes 1 to 2"), ({"copies": 0}, "takes 1 to 2"), ({"batch": 0}, "1 to 256"),
                          ({"companions": "none"}, "length, given, fixed"), ({"spans": True}, "no spans"),
                          ({"device": "abacus"}, "device abacus"), ({"precision": "int4"}, "no precision 'int4'")):
        with pytest.raises(ValueError, match=says):
            Predictor(folder, **options)
    with pytest.raises(ValueError, match="holds MuxForPreTraining"):
        Predictor(model_folder(MuxForPreTraining, num_instances=2))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match="has no tokenizer"):
        Predictor(folder)


def test_columns_are_taken_only_by_what_is_written(model_folder, tmp_path):
    """STS-B's own column of scores is no obstacle to a regression, nor a list of words to tags."""
    (tmp_path / "in.jsonl").write_text('{"text": "w1", "score": 2.5}\n')
    regression = Predictor(model_folder(MuxForSequenceClassification, num_instances=2, num_labels=1))
    predict_file(regression, Rows(str(tmp_path / "in.jsonl")), str(tmp_path / "out.jsonl"))
    assert {"text", "score", "prediction"} == set(json.loads((tmp_path / "out.jsonl").read_text()))
    (tmp_path / "in.jsonl").write_text('{"words": ["w1", "w2"]}\n')
    tagger = Predictor(model_folder(MuxForTokenClassification, num_instances=2, **LABELS))
    predict_file(tagger, Rows(str(tmp_path / "in.jsonl"), text="words"), str(tmp_path / "out.jsonl"))
    assert json.loads((tmp_path / "out.jsonl").read_text())["words"] == ["w1", "w2"]


def test_pipes_are_written_to_and_links_stay(model_folder, tmp_path):
    (tmp_path / "in.txt").write_text("w1\nw2\n")
    predictor, rows = Predictor(model_folder(MuxForSequenceClassification, num_instances=2, **LABELS)), Rows(
        str(tmp_path / "in.txt"))
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as reader:
        read = reader.submit((tmp_path / "pipe").read_text)
        predict_file(predictor, rows, str(tmp_path / "pipe"), "jsonl")
        assert len(read.result(timeout=20).splitlines()) == 2
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    predict_file(predictor, rows, str(tmp_path / "link.jsonl"))
    assert (tmp_path / "link.jsonl").is_symlink() and len((tmp_path / "real.jsonl").read_text().splitlines()) == 2
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(Refusal, match="is a folder"):
        predict_file(predictor, rows, str(tmp_path / "folder.jsonl"))


def test_a_long_field_of_csv_is_read(tmp_path):
    (tmp_path / "in.csv").write_text("text\n" + "w1 " * 100_000 + "\n")
    assert Rows(str(tmp_path / "in.csv")).count(False) == 1


def test_damaged_weights_answer_nothing(model_folder):
    predictor = Predictor(model_folder(MuxForSequenceClassification, num_instances=2, **LABELS))
    predictor.model.classifier.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="answers NaN or infinity"):
        predictor.predict([Text("w1")])
