"""Strategies of composition: their properties on anything, and what they do to real evaluation sets."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from mux.data.compositions import COMPOSITIONS, PART, Rows
from mux.data.grouping import Composition
from mux.recipe.section import CompositionName
from tests.conftest import ROOT

DATA = ROOT.parent / "shared" / "data"
WORDS = ["river", "town", "of", "the", "!", "Å", "1990"]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=40)


def rows_of(texts: list[str]) -> Rows:
    return Rows(np.array([len(text.split()) + 2 for text in texts]), texts)


def together(composition: Composition) -> set[frozenset[int]]:
    """Who shares a full group."""
    return {frozenset(group.tolist()) for group in composition.groups[: composition.rows // len(composition.groups[0])]}


def test_every_strategy_of_a_recipe_is_there():
    assert tuple(COMPOSITIONS) == CompositionName.__args__


@pytest.mark.parametrize("strategy", COMPOSITIONS)
@given(texts=TEXTS, N=st.integers(1, 10), seed=st.integers(0, 5))
def test_every_row_is_there_exactly_once(strategy, texts, N, seed):
    composition = COMPOSITIONS[strategy](rows_of(texts), N, seed, 1)
    assert composition.groups.shape == (-(-len(texts) // N), N) and composition.copies == 1
    assert sorted(composition.groups[composition.counted]) == list(range(len(texts)))


@pytest.mark.parametrize("strategy", COMPOSITIONS)
@pytest.mark.parametrize("N", [2, 7, PART + 3])
@pytest.mark.parametrize("text", ["row {}", "the same", "{0} {1} {2} {3}"])
def test_more_rows_than_are_searched_at_once(strategy, N, text):
    """Also where no two rows have a word in common, or all rows are one."""
    texts = [text.format(*range(4 * row, 4 * row + 4)) for row in range(3 * PART + 5)]
    composition = COMPOSITIONS[strategy](rows_of(texts), N, 3, 1)
    assert sorted(composition.groups[composition.counted]) == list(range(len(texts)))


@pytest.mark.parametrize("strategy", COMPOSITIONS)
def test_a_ticket_is_its_seed(strategy):
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, size=draw.integers(1, 9))) for _ in range(203)]
    first, again, other = (COMPOSITIONS[strategy](rows_of(texts), 4, seed, 1) for seed in (0, 0, 1))
    assert np.array_equal(first.groups, again.groups)
    assert len(together(first) & together(other)) < 0.2 * len(together(first))


@pytest.mark.parametrize("strategy", COMPOSITIONS)
def test_a_slot_says_nothing_of_the_row(strategy):
    texts = ["word " * (1 + row // 50) + f"{row % 9} {row % 7}" for row in range(2000)]
    rows = rows_of(texts)
    lengths = rows.lengths[COMPOSITIONS[strategy](rows, 4, 0, 1).groups].mean(axis=0)
    assert np.ptp(lengths) < 4 * rows.lengths.std() / np.sqrt(500)  # of four means of 500 draws


def test_rows_of_equal_length_meet():
    rows = rows_of([" ".join(["word"] * (1 + row % 10)) for row in range(400)])
    for N in (2, 4, 5):
        lengths = rows.lengths[COMPOSITIONS["length"](rows, N, 0, 1).groups]
        assert (np.ptp(lengths, axis=1) == 0).all()


def test_twins_meet_and_are_kept_apart():
    rows = rows_of([f"{row // 2}a {row // 2}b the" for row in range(100)])
    twins = {frozenset({row, row + 1}) for row in range(0, 100, 2)}
    assert together(COMPOSITIONS["similar"](rows, 2, 0, 1)) == twins
    assert not together(COMPOSITIONS["dissimilar"](rows, 2, 0, 1)) & twins


@pytest.mark.parametrize("strategy", ["length", "similar", "dissimilar"])
def test_copies_are_composed_at_random_only(strategy):
    with pytest.raises(ValueError, match="2 copies of a row are composed at random only"):
        COMPOSITIONS[strategy](rows_of(["a", "b"]), 2, 0, 2)


# --- real evaluation sets ----------------------------------------------------------------------------------------
def columns(path: str, *numbers: int) -> Iterator[str]:
    with open(DATA / path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    yield from (" ".join(row[number] for number in numbers) for row in rows)


def sentences(path: Path) -> Iterator[str]:
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        if block.strip():
            yield " ".join(line.split()[0] for line in block.strip().split("\n"))


@pytest.fixture(scope="module", params=["sst2", "mrpc", "stsb", "conll"])
def real(request) -> Rows:
    texts = {"sst2": lambda: columns("glue/SST-2/dev.tsv", 0), "mrpc": lambda: columns("glue/MRPC/dev.tsv", 3, 4),
             "stsb": lambda: columns("glue/STS-B/dev.tsv", 7, 8),
             "conll": lambda: sentences(DATA / "conll2003/valid.txt")}
    return rows_of(list(texts[request.param]()))


def cosine(rows: Rows, composition: Composition) -> float:
    """The mean TF-IDF cosine of two rows of a group."""
    words = TfidfVectorizer().fit_transform(rows.texts)
    count, N = composition.groups.shape
    sums = sum(words[composition.groups[:, slot]] for slot in range(N))
    own = words.multiply(words).sum(axis=1)[composition.groups].sum()
    return float((sums.multiply(sums).sum() - own) / (count * N * (N - 1)))


def padding(rows: Rows, composition: Composition) -> float:
    lengths = rows.lengths[composition.groups]
    return 1 - lengths.sum() / (lengths.max(axis=1).sum() * lengths.shape[1])


@pytest.mark.parametrize("N", [2, 5, 10])
def test_what_the_strategies_do_to_real_rows(real, N):
    made = {name: [strategy(real, N, seed, 1) for seed in (0, 1)] for name, strategy in COMPOSITIONS.items()}
    cosines = {name: np.mean([cosine(real, composition) for composition in made[name]]) for name in made}
    assert cosines["similar"] > 2 * cosines["random"]
    assert cosines["random"] > 1.3 * cosines["dissimilar"]
    assert np.mean([padding(real, composition) for composition in made["length"]]) < 0.03
    assert np.mean([padding(real, composition) for composition in made["random"]]) > 0.1
    assert max(len(together(first) & together(other)) / len(together(first)) for first, other in made.values()) < 0.4
