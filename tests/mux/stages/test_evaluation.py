"""Scores over tickets against a plain loop over the same groups, and against what was recorded."""

from __future__ import annotations

import stat

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import f1_score as entity_f1
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from mux.data.encoding import encode
from mux.data.grouping import compose
from mux.data.tasks import Examples
from mux.model import MuxConfig, MuxForSequenceClassification, MuxForTokenClassification
from mux.recipe import TaskDefinition
from mux.stages.evaluation import Evaluation, Part, padding
from mux.stages.predictions import read_predictions

CONFIG = {"num_instances": 3, "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
          "intermediate_size": 64, "max_position_embeddings": 40, "num_labels": 4}
WORDS = [["the", "river", "Washington"], ["towns"] * 30, ["in"], ["a", "national", "congress", "of", "people"],
         ["north", "south"], ["inhabitants", "of", "France"], ["language"]]
TEXTS = tuple(" ".join(sentence) for sentence in WORDS)
TAGS = ("O", "B-PER", "I-PER", "B-LOC")


def evaluation(tokenizer, *parts: Examples, names: tuple[str, ...] = ("a", "b", "c", "d"), length: int = 20,
               **fields) -> Evaluation:
    definition = TaskDefinition(train="builtin:topic_train", test="builtin:topic_test", **fields)
    found = {name: Part(rows, encode(rows, tokenizer, length))
             for name, rows in zip(("test", "other"), parts, strict=False)}
    return Evaluation(definition, names, found, parts[0])


def over_tickets(made: Evaluation, model, copies: int = 1, N: int = 3, **options) -> dict:
    return made.over_tickets(model, N, 2, copies, torch.device("cpu"), lambda done, total, unit: None, **options)


def texts_model(N: int = 3, labels: int = 4) -> MuxForSequenceClassification:
    torch.manual_seed(0)
    return MuxForSequenceClassification(MuxConfig(**CONFIG | {"num_labels": labels, "num_instances": N}))


def words_model() -> MuxForTokenClassification:
    torch.manual_seed(0)
    return MuxForTokenClassification(MuxConfig(**CONFIG))


@pytest.fixture
def words() -> Examples:
    labels = np.arange(sum(map(len, WORDS))) % 4
    return Examples(tuple(map(tuple, WORDS)), None, labels, of_words=True)


@pytest.fixture
def texts() -> Examples:
    return Examples(TEXTS, None, np.arange(7) % 4)


# --- scores ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_words_by_their_first_pieces_with_logits_averaged_over_copies(small_tokenizer, words, copies):
    model = words_model().eval()
    result = over_tickets(evaluation(small_tokenizer, words, tokens="tokens", others=("f1",)), model, copies)

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
@pytest.mark.parametrize("regression", [False, True])
def test_texts_and_numbers(small_tokenizer, texts, tmp_path, copies, regression):
    labels = np.linspace(0, 1, 7, dtype=np.float32) if regression else texts.labels
    made = evaluation(small_tokenizer, Examples(TEXTS, None, labels), names=() if regression else tuple("abcd"),
                      regression=regression, metric="pearson" if regression else "accuracy")
    model = texts_model(labels=1 if regression else 4).eval()
    result = over_tickets(made, model, copies, record=tmp_path / "record.parquet")
    table = read_predictions(tmp_path / "record.parquet")
    for ticket in (0, 1):
        composition = compose(7, 3, seed=ticket, copies=copies)
        batch = small_tokenizer([TEXTS[row] for row in composition.groups.ravel()], truncation=True, max_length=20,
                                padding=True, return_tensors="pt")
        logits = composition.average(model(**batch).logits.detach().numpy())
        expected = np.corrcoef(logits[:, 0], labels)[0, 1] if regression else (logits.argmax(-1) == labels).mean()
        assert result["tickets"][ticket] == pytest.approx(expected, abs=1e-5)
        answered = table[table.ticket == ticket]
        if regression:
            assert answered.prediction.tolist() == pytest.approx(logits[:, 0].tolist(), abs=1e-5)
        else:
            assert answered.prediction.tolist() == ["abcd"[number] for number in logits.argmax(-1)]
            shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            assert answered.confidence.tolist() == pytest.approx(shares.max(axis=1).tolist(), abs=1e-5)
    assert (result["majority"] is None) == regression


def test_what_an_entry_says(small_tokenizer, texts):
    other = Examples(TEXTS[:4], None, texts.labels[:4])
    told: list[tuple[int, int, str]] = []
    made = evaluation(small_tokenizer, texts, other, others=("f1", "matthews"))
    result = made.over_tickets(texts_model(), 3, 2, 1, torch.device("cpu"), lambda *words: told.append(words))
    assert told == [(done, 4, "tickets") for done in range(5)]
    assert result["mean"] == pytest.approx(np.mean(result["tickets"])) and len(result["tickets"]) == 2
    assert result["std"] == pytest.approx(np.std(result["tickets"], ddof=1))
    assert (result["max"], result["min"]) == (max(result["tickets"]), min(result["tickets"]))
    assert set(result["others"]) == {"f1", "matthews"} and result["instances_per_second"] > 0
    assert result["diagnostics"]["slots"] and 0 <= result["diagnostics"]["companions"]["changed"] <= 1
    beside = result["also"]["other"]
    assert beside["test_rows"] == 4 and len(beside["tickets"]) == 2 and beside["majority"] == 1 / 4
    assert set(beside) >= {"metric", "mean", "std", "max", "min", "others"}


def test_at_one_instance_there_are_no_companions(small_tokenizer, texts):
    told: list[tuple[int, int, str]] = []
    result = evaluation(small_tokenizer, texts).over_tickets(texts_model(N=1), 1, 2, 1, torch.device("cpu"),
                                                             lambda *words: told.append(words))
    assert told == [(0, 1, "tickets"), (1, 1, "tickets")]  # one ticket stands for all
    assert result["std"] == 0 and result["padding"] == 0 and len(result["tickets"]) == 2
    assert result["diagnostics"]["companions"] is None and result["diagnostics"]["slot_p"] is None
    assert [slot["count"] for slot in result["diagnostics"]["slots"]] == [14]


def test_padding_by_hand(small_tokenizer, texts):
    encoded = encode(texts, small_tokenizer, 20)
    composition = compose(7, 3, seed=0)
    tokens = [[int(encoded.lengths[row]) for row in group] for group in composition.groups]
    computed = sum(3 * max(group) for group in tokens)
    assert padding(encoded, composition) == pytest.approx(1 - sum(map(sum, tokens)) / computed)
    fixed = encode(texts, small_tokenizer, 20, pad=True)
    assert padding(fixed, composition) == pytest.approx(1 - sum(map(sum, tokens)) / (20 * 9))


@pytest.mark.parametrize("composition", ["length", "similar", "dissimilar"])
def test_other_compositions(small_tokenizer, texts, composition):
    texts = Examples(TEXTS * 10, tuple(reversed(TEXTS * 10)), np.arange(70) % 4)
    made, model = evaluation(small_tokenizer, texts), texts_model()
    result, random = over_tickets(made, model, composition=composition), over_tickets(made, model)
    assert result["test_rows"] == 70 and result["diagnostics"]["confusion"] != random["diagnostics"]["confusion"]
    if composition == "length":
        assert result["padding"] < random["padding"]
    if composition == "similar":  # companions that say the same are companions all the same
        assert made.parts["test"].rows.texts[1] == f"{TEXTS[1]} {TEXTS[5]}"


# --- what was recorded -------------------------------------------------------------------------------------------
def check(record, scores: dict, measures: dict, tickets: int = 2, part: str = "test") -> None:
    """Every score of every ticket again, by the measures of scikit-learn, scipy and seqeval, from the file alone."""
    table = read_predictions(record)
    assert set(table[table.part == part].ticket) == set(range(tickets))
    for name, measure in measures.items():
        found = [measure(rows.label, rows.prediction, rows)
                 for _, rows in table[table.part == part].groupby("ticket", sort=True)]
        if name == scores["metric"]:
            assert scores["tickets"] == pytest.approx(found)
        else:
            assert scores["others"][name]["mean"] == pytest.approx(np.mean(found))
            assert scores["others"][name]["std"] == pytest.approx(np.std(found, ddof=1))
            assert scores["others"][name]["max"] == pytest.approx(max(found))


@pytest.mark.parametrize("copies", [1, 2])
def test_scores_of_texts_are_those_of_the_record(small_tokenizer, texts, tmp_path, copies):
    record = tmp_path / "finetune" / "texts.parquet"
    made = evaluation(small_tokenizer, texts, Examples(TEXTS[:5], None, texts.labels[2:]), others=("f1", "matthews"))
    scores = over_tickets(made, texts_model(), copies, record=record)
    measures = {"accuracy": lambda truth, found, _: accuracy_score(truth, found),
                "matthews": lambda truth, found, _: matthews_corrcoef(truth, found) if found.nunique() > 1 else 0,
                "f1": lambda truth, found, _: f1_score(truth, found, average="macro", zero_division=0)}
    check(record, scores, measures)
    check(record, scores["also"]["other"], measures, part="other")

    table = read_predictions(record)
    assert list(table) == ["part", "ticket", "row", "word", "slot", "label", "prediction", "confidence"]
    assert stat.S_IMODE(record.stat().st_mode) == 0o600 and list(record.parent.iterdir()) == [record]
    assert len(table) == 2 * (7 + 5) and set(table.word) == {-1}
    assert set(table.slot) == ({1, 2, 3} if copies == 1 else {0})
    first = table[(table.part == "test") & (table.ticket == 0)]
    assert first.row.tolist() == list(range(7)) and first.label.tolist() == list("abcdabc")
    composition = compose(7, 3, seed=0)
    if copies == 1:
        assert [composition.groups.ravel().tolist().index(row) % 3 + 1 for row in range(7)] == first.slot.tolist()
    assert table.confidence.between(0.25, 1).all()


def test_scores_of_numbers_are_those_of_the_record(small_tokenizer, tmp_path):
    rows = Examples(TEXTS, None, np.linspace(0, 5, 7, dtype=np.float32))
    made = evaluation(small_tokenizer, rows, names=(), regression=True, metric="spearman", others=("pearson",))
    scores = over_tickets(made, texts_model(labels=1), record=tmp_path / "numbers.parquet")
    check(tmp_path / "numbers.parquet", scores, {
        "spearman": lambda truth, found, _: spearmanr(truth, found).statistic,
        "pearson": lambda truth, found, _: pearsonr(truth, found).statistic})
    table = read_predictions(tmp_path / "numbers.parquet")
    assert table.label[:7].tolist() == rows.labels.tolist() and table.confidence.isna().all()
    assert scores["diagnostics"]["confusion"] is None and scores["diagnostics"]["calibration"] is None


def test_scores_of_words_are_those_of_the_record(small_tokenizer, words, tmp_path):
    made = evaluation(small_tokenizer, words, names=TAGS, tokens="tokens", metric="entity_f1", others=("accuracy",))
    scores = over_tickets(made, words_model(), record=tmp_path / "words.parquet")

    def entities(truth, found, rows) -> float:
        tags = [[sentence.label.tolist(), sentence.prediction.replace("", "O").tolist()]
                for _, sentence in rows.groupby("row", sort=True)]
        return entity_f1([truth for truth, _ in tags], [found for _, found in tags])

    check(tmp_path / "words.parquet", scores, {
        "entity_f1": entities, "accuracy": lambda truth, found, _: accuracy_score(truth, found)})
    table = read_predictions(tmp_path / "words.parquet")
    assert table[table.row == 3].word.tolist() == [0, 1, 2, 3, 4] * 2
    cut = table[table.prediction == ""]
    assert len(cut) and set(cut.row) == {1} and cut.confidence.isna().all()
    assert table[table.prediction != ""].confidence.notna().all()
    assert (table.groupby(["ticket", "row"]).slot.nunique() == 1).all()
