"""Metrics against numbers worked out by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from mux.data.metrics import MEASURES, MISSING, majority, score
from mux.data.tasks import Examples, load_task
from mux.recipe.schema import TaskDefinition
from mux.recipe.tasks import UPOS

YES_NO = ("no", "yes")
TRUTH = np.array([0, 1, 1, 0, 1, 1, 0, 1])
GUESS = np.array([0, 1, 0, 0, 1, 1, 1, 1])
NUMBERS = ("spearman", "pearson")


def texts(labels: np.ndarray | list) -> Examples:
    return Examples(("x",) * len(labels), None, np.asarray(labels))


def of_words(names: tuple[str, ...], *sentences: str) -> tuple[np.ndarray, Examples]:
    """([answers], examples) of sentences of tags; "?" is a word without a prediction."""
    tags = [sentence.split() for sentence in sentences]
    numbers = [MISSING if tag == "?" else names.index(tag) for sentence in tags for tag in sentence]
    return np.array(numbers), Examples(tuple(tuple("w" * len(row)) for row in tags), None, np.array(numbers), True)


def word_score(metric: str, names: tuple[str, ...], truth: list[str], found: list[str]) -> float:
    return score(metric, of_words(names, *found)[0], of_words(names, *truth)[1], names)


def test_classes_and_numbers():
    # 4 true positives, 1 false positive, 1 false negative, 2 true negatives
    assert score("accuracy", GUESS, texts(TRUTH), YES_NO) == 6 / 8
    assert score("f1", GUESS, texts(TRUTH), YES_NO) == pytest.approx(8 / 10)
    assert score("matthews", GUESS, texts(TRUTH), YES_NO) == pytest.approx((4 * 2 - 1 * 1) / np.sqrt(5 * 5 * 3 * 3))
    assert score("pearson", np.array([1.0, 2.0, 4.0]), texts([2.0, 4.0, 8.0]), ()) == pytest.approx(1)
    # deviations from the means: 1, 0, -1 and 1, -2, 1
    assert score("pearson", np.array([3.0, 2.0, 1.0]), texts([4.0, 1.0, 4.0]), ()) == pytest.approx(0)
    # ranks 1 2 4 3 against 1 2 3 4: 1 - 6 (0 + 0 + 1 + 1) / (4 (16 - 1))
    assert score("spearman", np.array([1.0, 5.0, 100.0, 7.0]), texts([0.1, 0.2, 0.3, 0.4]), ()) == pytest.approx(0.8)


def test_f1_of_several_classes_is_their_mean():
    assert score("f1", np.array([0, 1, 1, 1]), texts([0, 0, 1, 2]), ("a", "b", "c")) == pytest.approx(
        np.mean([2 / 3, 1 / 2, 0]))


def test_words_that_were_cut_are_misses_and_no_class():
    assert word_score("accuracy", ("a", "b"), ["a a b b"], ["a ? b a"]) == 1 / 2
    # class a: 1 right of 2 named and 2 there; class b: 1 right of 1 named and 2 there
    assert word_score("f1", ("a", "b"), ["a a b b"], ["a ? b a"]) == pytest.approx(np.mean([1 / 2, 2 / 3]))
    # of texts with two classes it is the F1 of the second, of words always the mean
    assert score("f1", np.array([0, 1, 1, 1]), texts([0, 0, 1, 1]), ("a", "b")) == pytest.approx(4 / 5)
    assert word_score("f1", ("a", "b"), ["a a b b"], ["a b b b"]) == pytest.approx(np.mean([2 / 3, 4 / 5]))


NER = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")


@pytest.mark.parametrize(("truth", "found", "expected"), [
    # there: PER of two words, LOC, ORG; named: that PER, an ORG in place of the LOC, an ORG that is too long
    (["B-PER I-PER O B-LOC", "B-ORG O"], ["B-PER I-PER O B-ORG", "B-ORG I-ORG"], 1 / 3),
    (["B-PER I-PER O B-LOC"], ["B-PER I-PER O B-LOC"], 1),
    (["B-PER I-PER O"], ["B-PER O O"], 0),
    (["B-PER", "I-PER"], ["B-PER", "B-PER"], 1),  # an entity does not go on in the next sentence
    # IOB1: there are a PER and two LOC beside each other; named are the PER and one LOC of two words
    (["I-PER I-PER O I-LOC B-LOC"], ["I-PER I-PER O I-LOC I-LOC"], 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)),
    (["O B-PER O"], ["? B-PER ?"], 1),  # no entity is named where no word was seen
    (["B-PER I-PER O B-LOC"], ["B-PER ? O B-LOC"], 1 / 2),
    (["O O"], ["O O"], 0),
    (["B-PER O"], ["O O"], 0),
])
def test_f1_of_entities(truth: list[str], found: list[str], expected: float):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert word_score("entity_f1", NER, truth, found) == pytest.approx(expected)


@pytest.mark.parametrize(("truth", "found", "expected"), [
    ("DET NOUN NOUN PUNCT", "DET NOUN NOUN VERB", 2 / 3),  # DET, both NOUN together; not PUNCT
    ("NOUN NOUN VERB", "NOUN VERB VERB", 0),  # two words of three are right, no group is
    ("DET NOUN", "DET ?", 1 / 2),
    ("DET CCONJ", "DET SCONJ", 1),  # seqeval parts a tag after its first letter
    ("DET X", "DET X", 1),
])
def test_f1_of_tags_without_b_and_i_is_of_neighbours(truth: str, found: str, expected: float):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # seqeval has one for each tag of this kind
        assert word_score("entity_f1", UPOS, [truth], [found]) == pytest.approx(expected)


@pytest.mark.parametrize("metric", MEASURES)
def test_a_constant_answer_is_a_number_without_warnings(metric: str):
    truth = TRUTH.astype(float) if metric in NUMBERS else TRUTH
    rows = Examples(tuple(("w",) for _ in TRUTH), None, truth, metric == "entity_f1")
    names = () if metric in NUMBERS else ("O", "B-X") if metric == "entity_f1" else YES_NO
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score(metric, np.zeros_like(truth), rows, names) == (3 / 8 if metric == "accuracy" else 0.0)
        assert np.isfinite(score(metric, truth[:1], rows.select([0]), names))


def test_nan_predictions_do_not_make_nan_metrics():
    for metric in NUMBERS:
        assert score(metric, np.array([np.nan, 1.0, 2.0]), texts([1.0, 2.0, 3.0]), ()) == 0.0


def test_the_majority_of_the_embedded_task_is_what_its_readme_says():
    task = load_task("topic", TaskDefinition(train="builtin:topic_train", test="builtin:topic_test"))
    assert majority("accuracy", task.train, task.test, task.labels) == pytest.approx(0.212, abs=5e-4)


def test_the_majority_is_the_test_rows_and_a_tie_goes_to_the_train_rows():
    assert majority("accuracy", texts([0, 0, 0, 1]), texts([1, 1, 0]), YES_NO) == pytest.approx(2 / 3)
    assert majority("f1", texts([1, 1, 0]), texts([0, 1]), YES_NO) == pytest.approx(2 / 3)
    assert majority("f1", texts([0, 0, 1]), texts([0, 1]), YES_NO) == 0.0


def test_the_majority_of_words():
    names, test = ("O", "B-X"), of_words(("O", "B-X"), "O O B-X", "B-X O")[1]
    assert majority("accuracy", test, test, names) == 3 / 5
    assert majority("entity_f1", test, test, names) == 0.0


def test_regression_has_no_majority():
    assert majority("spearman", texts([0.5, 1.5]), texts([0.5, 1.5]), ()) is None
