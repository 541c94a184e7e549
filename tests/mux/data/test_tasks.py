from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mux.data.tasks import Task, load_task
from mux.recipe import Refusal
from mux.recipe.schema import TaskDefinition


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def row(text: str | None, label: Any, **more: Any) -> dict[str, Any]:
    return {"text": text, "label": label, **more}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """load(train, test, **fields): the task of two files with these texts (jsonl unless suffix says)."""
    monkeypatch.chdir(tmp_path)

    def load(train: str, test: str, suffix: str = "jsonl", **fields: Any) -> Task:
        for name, content in (("train", train), ("test", test)):
            (tmp_path / f"{name}.{suffix}").write_text(content, encoding="utf-8")
        return load_task("mine", TaskDefinition(
            train=f"path:train.{suffix}", test=f"path:test.{suffix}", **fields))

    return load


GOOD = lines(row("a", "no"), row("b", "yes"), row("c", "no"))


# --- reading ------------------------------------------------------------------------------------------------
def test_the_embedded_task():
    task = load_task("topic", TaskDefinition(train="builtin:topic_train", test="builtin:topic_test",
                                             label_name="label_name"))
    assert (len(task.train), len(task.test), task.outputs) == (2000, 901, 11)
    assert task.labels[:3] == ("Arts", "Biology and health sciences", "Everyday life")
    assert task.labels[10] == "Technology" and task.train.pairs is None
    assert task.train.texts[0].startswith("Arabic literature") and task.train.labels[0] == 0
    assert task.train.labels.dtype == np.int64 and set(task.test.labels) == set(range(11))


def test_labels_are_numbered_in_order(load):
    task = load(GOOD, lines(row("d", "yes")))
    assert task.labels == ("no", "yes") and task.train.labels.tolist() == [0, 1, 0]
    assert task.test.labels.tolist() == [1] and task.test.texts == ("d",)


def test_numbers_are_sorted_as_numbers_and_spelt_one_way(load):
    task = load(lines(row("a", 10), row("b", 2), row("c", 2.0), row("d", "10")), lines(row("e", "2")))
    assert task.labels == ("2", "10") and task.train.labels.tolist() == [1, 0, 0, 1]


def test_names_come_from_their_column(load):
    train = lines(row("a", 1, name="good"), row("b", 0, name="bad"))
    assert load(train, train, label_name="name").labels == ("bad", "good")
    torn = lines(row("a", 1, name="good"), row("b", 0, name="bad"), row("c", 1, name="fine"))
    with pytest.raises(ValueError, match=r"train\.jsonl: row 3: label '1' is named 'fine' here and 'good'"):
        load(torn, train, label_name="name")


def test_tables_with_quotes_and_pairs(load):
    table = 'first\tsecond\tgold\n"Odd\tquotes " here\tentails\nb\tc\tnot\n'
    task = load(table, table, suffix="tsv", text="first", text_pair="second", label="gold")
    assert task.train.texts == ('"Odd', "b") and task.train.pairs == ('quotes " here', "c")
    assert task.labels == ("entails", "not")
    table = 'text,label\n"one, two",1\nb,0\n'
    assert load(table, table, suffix="csv").train.texts == ("one, two", "b")


def test_regression_keeps_numbers(load):
    task = load(lines(row("a", "3.5"), row("b", 1)), lines(row("c", 0.25)), regression=True, metric="pearson")
    assert task.labels == () and task.outputs == 1
    assert task.train.labels.dtype == np.float32 and task.train.labels.tolist() == [3.5, 1.0]


@pytest.mark.parametrize("bad", ["many", None, "nan", [1], "inf", 1e39, 10**400])
def test_regression_refuses_what_is_no_number(load, bad):
    with pytest.raises(ValueError, match=r"test\.jsonl: row 2: 'label' is"):
        load(lines(row("a", 1)), lines(row("a", 1), row("b", bad)), regression=True)


def test_hub_splits_carry_their_class_names(hub_folder):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features(sentence=Value("string"), label=ClassLabel(names=["unacceptable", "acceptable"]))
    (hub_folder / "cola").mkdir()
    for split, labels in (("train", [1, 1]), ("validation", [0, 1]), ("test", [-1, -1])):
        Dataset.from_dict({"sentence": ["One.", "Two."], "label": labels}, features=features).to_parquet(
            hub_folder / "cola" / f"{split}.parquet")

    def cola(test: str) -> Task:
        return load_task("cola", TaskDefinition(train="hub:here/cola:train", test=test, text="sentence"))

    task = cola("hub:here/cola:validation")
    assert task.labels == ("unacceptable", "acceptable")  # the hub's order, though train has only one of them
    assert task.train.labels.tolist() == [1, 1] and task.test.labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"hub:here/cola:test: row 1: label '-1' is not among the classes"):
        cola("hub:here/cola:test")
    with pytest.raises(ValueError, match="which split"):
        cola("hub:here/cola")
    with pytest.raises(ValueError, match="hub:here/cola:dev: split 'dev' cannot be loaded"):
        cola("hub:here/cola:dev")


def test_named_classes_are_spelt_by_name_or_number(load):
    train, test = lines(row("a", 1), row("b", "no"), row("c", "0")), lines(row("d", "maybe"), row("e", 2.0))
    task = load(train, test, labels=("no", "yes", "maybe"))
    assert task.labels == ("no", "yes", "maybe") and task.outputs == 3
    assert task.train.labels.tolist() == [1, 0, 0] and task.test.labels.tolist() == [2, 2]
    with pytest.raises(ValueError, match=r"test\.jsonl: row 1: label .3. is not among the classes .*: no, yes, maybe"):
        load(train, lines(row("d", 3)), labels=("no", "yes", "maybe"))
    with pytest.raises(ValueError, match="label '0' is not among"):  # names that are numbers leave no other numbers
        load(lines(row("a", 0)), test, labels=("1", "2"))


def test_named_classes_order_the_hubs(hub_folder):
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = Features(tokens=List(Value("string")), tags=List(ClassLabel(names=["X", "_", "NOUN"])))
    for part, tags in (("train", [0, 2]), ("test", [2, 0]), ("more", [1, 0])):
        (hub_folder / part).mkdir()
        Dataset.from_dict({"tokens": [["a", "b"]], "tags": [tags]}, features=features).to_parquet(
            hub_folder / part / "train.parquet")

    def pos(test: str) -> Task:
        return load_task("pos", TaskDefinition(train="hub:here/train:train", test=test, tokens="tokens", label="tags",
                                               labels=("NOUN", "X")))

    task = pos("hub:here/test:train")
    assert task.labels == ("NOUN", "X") and task.train.labels.tolist() == [1, 0] and task.test.labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match="row 1: item 1: label '1' is not among the classes"):
        pos("hub:here/more:train")


def test_further_rows_and_rows_to_choose_on(load, tmp_path):
    for name, label in (("dev", "yes"), ("far", "no")):
        (tmp_path / f"{name}.jsonl").write_text(lines(row(name, label)))
    parts = {"dev": "path:dev.jsonl", "also": {"far": "path:far.jsonl"}}
    task = load(GOOD, GOOD, **parts)
    assert task.dev is None and task.also.keys() == {"far"}
    assert task.also["far"].texts == ("far",) and task.also["far"].labels.tolist() == [0]
    with_dev = load_task("mine", task.definition, dev=True)
    assert with_dev.dev is not None and with_dev.dev.labels.tolist() == [1]
    assert with_dev.content_hash == task.content_hash != load(GOOD, GOOD).content_hash
    assert load_task("mine", load(GOOD, GOOD).definition, dev=True).dev is None  # the definition has none
    (tmp_path / "dev.jsonl").write_text(lines(row("x", "maybe")))
    assert load(GOOD, GOOD, **parts).dev is None
    with pytest.raises(ValueError, match=r"dev\.jsonl: row 1: label 'maybe'"):
        load_task("mine", task.definition, dev=True)


# --- a part of the train rows ---------------------------------------------------------------------------------
def numbered_texts(part) -> list[int]:
    return [int(text) for text in part.texts]


@pytest.mark.parametrize("share", [0.001, 0.1, 1 / 3, 0.5, 0.999])
def test_held_out_rows_have_each_class_in_its_share(load, share):
    rows = lines(*(row(str(number), "rare" if number % 10 == 0 else "often") for number in range(300)))
    task = load(rows, GOOD.replace('"no"', '"rare"').replace('"yes"', '"often"'))
    rest, part = task.held_out(share)
    assert sorted(numbered_texts(rest) + numbered_texts(part)) == list(range(300))
    assert numbered_texts(part) == sorted(numbered_texts(part)) and len(part) == min(max(1, round(300 * share)), 299)
    for labels in (rest.labels, part.labels):
        assert abs(np.sum(labels == task.labels.index("rare")) - len(labels) / 10) <= 1
    for texts, labels in ((rest.texts, rest.labels), (part.texts, part.labels)):
        assert [task.labels[number] for number in labels] == [
            "rare" if int(text) % 10 == 0 else "often" for text in texts]


def test_held_out_rows_are_a_function_of_content_and_seed(load):
    rows = lines(*(row(str(number), number % 2) for number in range(100)))
    task = load(rows, GOOD.replace('"no"', "0").replace('"yes"', "1"))
    again = load_task("other", task.definition)
    assert task.held_out(0.2)[1].texts == again.held_out(0.2)[1].texts
    assert task.held_out(0.2, seed=1)[1].texts != task.held_out(0.2)[1].texts
    changed = load(rows.replace('"7"', '"x7"'), GOOD.replace('"no"', "0").replace('"yes"', "1"))
    assert changed.held_out(0.2)[1].texts != task.held_out(0.2)[1].texts


def test_held_out_numbers_are_of_all_heights(load):
    rows = lines(*(row(str(number), number / 10) for number in range(50)))
    _, part = load(rows, rows, regression=True, metric="pearson").held_out(0.2)
    assert np.floor(np.sort(part.labels)).astype(int).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_of_words_whole_rows_are_held_out(load):
    rows = lines(*(words([str(number)] * (1 + number % 3), ["A", "B", "A"][: 1 + number % 3]) for number in range(30)))
    rest, part = of_words(load, rows, rows).held_out(0.3)
    assert len(rest) == 21 and len(part) == 9 and part.of_words
    for examples in (rest, part):
        assert len(examples.labels) == sum(map(len, examples.texts)) == examples.offsets[-1]
        for index, texts in enumerate(examples.texts):
            labels = examples.labels[examples.offsets[index] : examples.offsets[index + 1]]
            assert labels.tolist() == [0, 1, 0][: len(texts)]


def test_pairs_stay_together_and_one_row_cannot_be_parted(load):
    rows = lines(*({"text": str(number), "second": f"-{number}", "label": number % 2} for number in range(10)))
    rest, part = load(rows, rows, text_pair="second").held_out(0.5)
    for examples in (rest, part):
        assert [f"-{text}" for text in examples.texts] == list(examples.pairs)
    one = lines(row("a", 1))
    with pytest.raises(ValueError, match="task mine: there is one train row, so none can be held out"):
        load(one, one, regression=True, metric="pearson").held_out(0.5)


def test_the_row_of_each_answer(load):
    task = of_words(load, TAGGED, lines(words(["a", "b"], ["O", "PER"]), words(["c"], ["O"])))
    assert task.test.offsets.tolist() == [0, 2, 3] and task.test.rows.tolist() == [0, 0, 1]
    chosen = task.test.select([1, 0])
    assert chosen.texts == (("c",), ("a", "b")) and chosen.labels.tolist() == [0, 0, 1]
    texts = load(GOOD, GOOD).train
    assert texts.offsets.tolist() == [0, 1, 2, 3] and texts.rows.tolist() == [0, 1, 2]
    assert len(texts.select([])) == 0 and texts.select([]).labels.dtype == np.int64


# --- refusals -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("train", "test", "message"), [
    (GOOD, lines(row("a", "no"), row("b", "maybe")),
     r"test\.jsonl: row 2: label 'maybe' is not among the classes of path:train\.jsonl: no, yes"),
    (lines(row("a", "no"), row("b", None)), GOOD, r"train\.jsonl: row 2: 'label' is empty"),
    (lines(row("a", "no"), row(None, "yes")), GOOD, r"train\.jsonl: row 2: 'text' is empty"),
    (lines(row("a", "no"), row("  ", "yes")), GOOD, r"train\.jsonl: row 2: 'text' is empty"),
    (lines(row("a", "no"), {"text": "b"}), GOOD, r"train\.jsonl: row 2: no column 'label'; it has text"),
    (lines({"texts": "a", "label": 1}), GOOD,
     r"row 1: no column 'text'; it has texts, label; did you mean 'texts'"),
    (lines(row("a", "no"), row(7, "yes")), GOOD, r"train\.jsonl: row 2: 'text' is not text but 7"),
    ('{"text": "a \\ud800 b", "label": "no"}\n', GOOD, r"train\.jsonl: row 1: 'text' has half a character"),
    (lines(row("a", "no"), row("b", ["yes"])), GOOD, r"train\.jsonl: row 2: \['yes'\] is no label"),
    (lines(row("a", "no"), row("b", "no")), GOOD,
     r"path:train\.jsonl: column 'label' has only the class 'no'"),
    ("", GOOD, r"path:train\.jsonl: there are no rows"),
    (GOOD, "", r"path:test\.jsonl: there are no rows"),
])
def test_bad_rows_are_refused_by_file_and_row(load, train, test, message):
    with pytest.raises(ValueError, match=message):
        load(train, test)


def test_files_that_cannot_be_read_are_refused_by_line(load):
    with pytest.raises(Refusal, match=r"test\.jsonl:2"):
        load(GOOD, '{"text": "a", "label": "no"}\n{"text"\n')
    with pytest.raises(Refusal, match="nothing"):
        load_task("mine", TaskDefinition(train="path:nothing.jsonl", test="path:nothing.jsonl"))


@pytest.mark.parametrize("pair", [("", "b"), ("a", " ")])
def test_one_text_of_a_pair_may_be_empty(load, pair):
    rows = lines(*({"text": first, "second": second, "label": label}
                   for first, second, label in ((*pair, 0), ("c", "d", 1))))
    task = load(rows, rows, text_pair="second")
    assert (task.train.texts[0], task.train.pairs[0]) == pair
    neither = lines({"text": " ", "second": "", "label": 0})
    with pytest.raises(ValueError, match=r"train\.jsonl: row 3: 'text' and 'second' are empty"):
        load(rows + neither, rows, text_pair="second")


def test_the_content_hash_is_of_rows_and_labels(load):
    first = load(GOOD, GOOD).content_hash
    assert load(GOOD, GOOD).content_hash == first
    changed = [load(GOOD.replace('"c"', '"d"'), GOOD), load(GOOD, GOOD.replace('"b"', '"d"')),
               load(GOOD.replace("no", "yes", 1), GOOD)]
    assert len({first, *(task.content_hash for task in changed)}) == 4


# --- words --------------------------------------------------------------------------------------------------
def words(tokens: Any, labels: Any) -> dict[str, Any]:
    return {"tokens": tokens, "labels": labels}


def of_words(load, train: str, test: str, suffix: str = "jsonl") -> Task:
    return load(train, test, suffix, tokens="tokens", label="labels")


TAGGED = lines(words(["Ada", "wrote"], ["PER", "O"]), words(["no"], ["O"]))


def test_rows_of_words_have_a_class_for_each_word(load):
    task = of_words(load, TAGGED, lines(words(["Grace", "Hopper", "wrote"], ["PER", "PER", "O"])))
    assert task.labels == ("O", "PER") and task.outputs == 2
    assert task.train.texts == (("Ada", "wrote"), ("no",)) and task.train.of_words and task.train.pairs is None
    assert task.train.labels.tolist() == [1, 0, 0] and task.train.labels.dtype == np.int64
    assert len(task.test) == 1 and task.test.labels.tolist() == [1, 1, 0]
    other = of_words(load, TAGGED.replace('["O"]', '["PER"]'), TAGGED)
    assert other.content_hash != of_words(load, TAGGED, TAGGED).content_hash


def test_hub_lists_carry_their_class_names(hub_folder):
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = Features(tokens=List(Value("string")), labels=List(ClassLabel(names=["O", "PER", "LOC"])))
    (hub_folder / "ner").mkdir()
    for split in ("train", "test"):
        Dataset.from_dict({"tokens": [["Ada", "wrote"]], "labels": [[1, 0]]}, features=features).to_parquet(
            hub_folder / "ner" / f"{split}.parquet")
    task = load_task("ner", TaskDefinition(train="hub:here/ner:train", test="hub:here/ner:test", tokens="tokens",
                                           label="labels"))
    assert task.labels == ("O", "PER", "LOC") and task.train.labels.tolist() == [1, 0]


@pytest.mark.parametrize(("bad", "message"), [
    (words(["a", "b"], ["O"]), "row 3: 2 words in 'tokens', but 1 labels in 'labels'"),
    (words([], []), "row 3: 'tokens' is empty"),
    (words("a b", ["O", "O"]), r"row 3: 'tokens' is not a list but 'a b' \(jsonl has lists"),
    (words(["a"], "O"), "row 3: 'labels' is not a list but 'O'"),
    (words(["a", " "], ["O", "O"]), "row 3: item 2 of 'tokens' is empty"),
    (words(["a", 7], ["O", "O"]), "row 3: item 2: 'tokens' is not text but 7"),
    (words(["a", "\ud800"], ["O", "O"]), "row 3: 'tokens' has half a character"),
    (words(["a", "b"], ["O", None]), "row 3: item 2 of 'labels' is empty"),
    (words(["a", "b"], ["O", ["O"]]), r"row 3: item 2: \['O'\] is no label"),
    ({"tokens": ["a"]}, "row 3: no column 'labels'"),
])
def test_bad_words_are_refused_by_row_and_item(load, bad, message):
    with pytest.raises(ValueError, match=rf"train\.jsonl: {message}"):
        of_words(load, TAGGED + lines(bad), TAGGED)


def test_a_class_that_only_the_test_words_have_is_refused(load):
    with pytest.raises(ValueError, match=r"test\.jsonl: row 1: item 2: label 'LOC' is not among the classes"):
        of_words(load, TAGGED, lines(words(["in", "Rome"], ["O", "LOC"])))


def test_tables_hold_no_lists(load):
    table = "tokens\tlabels\nAda wrote\tPER O\n"
    with pytest.raises(ValueError, match="tsv and csv do not"):
        of_words(load, table, table, "tsv")
