from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from mux.data import corpus as corpora
from mux.data import sources
from mux.data.corpus import Corpus, open_corpus
from mux.data.tokenizer import train
from mux.recipe import Refusal

LENGTH = 32


class Stop(Exception):
    pass


def quiet(what: str, done: int, total: int | None, unit: str) -> None:
    pass


@pytest.fixture
def opened(texts: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Corpus:
    return open_corpus([texts], LENGTH, tokenizer, tmp_path / "cache", True, quiet)


def again(tokenizer: PreTrainedTokenizerFast, tmp_path: Path, build: bool = True) -> Corpus:
    return open_corpus(["path:leads.txt"], LENGTH, tokenizer, tmp_path / "cache", build, quiet)


# --- what is in a store -------------------------------------------------------------------------------------
def test_a_store_holds_all_text_as_packed_rows(opened, tokenizer, leads):
    assert opened.tokens.dtype == np.uint16 and opened.sequence_length == LENGTH
    rows = opened.take(range(opened.rows))
    assert rows.shape == (opened.rows, LENGTH) and rows.dtype == np.int64
    assert (rows[:, 0] == tokenizer.cls_token_id).all() and (rows[:, 1:] != tokenizer.cls_token_id).all()
    stored = np.bincount(rows.ravel(), minlength=1000)
    expected = np.bincount(np.concatenate(tokenizer(leads[:100], add_special_tokens=False)["input_ids"]),
                           minlength=1000)
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id]
    stored[special] = 0
    assert np.array_equal(stored, expected)


def test_the_manifest_counts(opened, leads, tokenizer):
    manifest = json.loads((opened.folder / "manifest.json").read_text())
    rows = opened.take(range(opened.rows))
    assert manifest["documents"] == 100 and manifest["sources"] == ["path:leads.txt"]
    assert manifest["tokens"] == sum(map(len, tokenizer(leads[:100], add_special_tokens=False)["input_ids"]))
    assert manifest["padding"] == pytest.approx((rows == opened.pad_id).mean(), abs=1e-6)
    assert manifest["hash"] == opened.hash == opened.folder.name and manifest["dtype"] == "<u2"


def test_held_out_rows_are_whole_documents_of_their_own(opened, tokenizer, leads):
    assert list(opened.held_out) == list(range(opened.train_rows, opened.rows))
    assert 0.07 < len(opened.held_out) / opened.rows < 0.14
    trained = opened.tokens[: opened.train_rows].tobytes()
    held_out = opened.tokens[opened.train_rows :].tobytes()
    encoded = tokenizer(leads[:100], add_special_tokens=False)["input_ids"]
    for number, ids in enumerate(encoded):
        for start in range(0, len(ids), LENGTH - 2):  # the document's pieces
            if len(piece := ids[start : start + LENGTH - 2]) > 7:
                piece_bytes = np.array(piece, dtype=opened.tokens.dtype).tobytes()
                assert (piece_bytes in held_out) == (number % 10 == 9)
                assert (piece_bytes in trained) == (number % 10 != 9)


def test_a_larger_corpus_holds_out_about_64_rows(tokenizer, tmp_path):
    corpus = open_corpus(["builtin:wiki_leads"], LENGTH, tokenizer, tmp_path, True, quiet, N=2)
    assert 64 <= len(corpus.held_out) <= 64 + 0.012 * corpus.rows
    assert corpus.manifest["padding"] < 0.03 and corpus.manifest["documents"] == 2000


def test_a_large_vocabulary_takes_32_bits(opened, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "__len__", lambda self: 70_000)
    wide = open_corpus(["path:leads.txt"], LENGTH, tokenizer, tmp_path / "wide", True, quiet)
    assert wide.tokens.dtype == np.uint32
    assert np.array_equal(wide.take(range(wide.rows)), opened.take(range(opened.rows)))


def test_take_keeps_the_shape_of_its_indices_and_the_store_is_read_only(opened):
    rows = opened.take(np.array([[0, 1], [5, 2], [0, 0]]))
    assert rows.shape == (3, 2, LENGTH) and np.array_equal(rows[1, 1], opened.take([2])[0])
    with pytest.raises(ValueError, match="read-only"):
        opened.tokens[0, 0] = 1


def test_text_that_spells_special_tokens_is_text(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "the [SEP] of [PAD] and [MASK] in [CLS] " * 20
    (tmp_path / "bad.jsonl").write_text(json.dumps({"text": text}) + "\n")
    corpus = open_corpus(["path:bad.jsonl"], LENGTH, tokenizer, tmp_path / "cache", True, quiet)
    rows = corpus.take(range(corpus.rows))
    assert (rows[:, 0] == 2).all() and (rows == tokenizer.mask_token_id).sum() == 0
    assert (rows == 2).sum() == (rows == 3).sum() == corpus.rows  # one piece a row


def test_a_very_long_document_is_cut_at_white_space(monkeypatch):
    monkeypatch.setattr(sources, "LONGEST_DOCUMENT", 20)
    parts = list(sources.documents([["one two three four five six seven eight", "  ", "x" * 45]]))
    assert parts == ["one two three four", "five six seven", "eight", "x" * 20, "x" * 20, "x" * 5]


# --- the cache ----------------------------------------------------------------------------------------------
def test_a_store_is_built_once_and_shared(opened, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "_Builder", None)  # building again would fail
    for build in (True, False):
        second = again(tokenizer, tmp_path, build)
        assert second.hash == opened.hash and np.array_equal(second.tokens, opened.tokens)


def test_the_hash_is_of_text_tokenizer_and_length_not_of_names(opened, tokenizer, tmp_path):
    (tmp_path / "other.txt").write_bytes((tmp_path / "leads.txt").read_bytes())
    cache = tmp_path / "cache"
    assert open_corpus(["path:other.txt"], LENGTH, tokenizer, cache, True, quiet).hash == opened.hash
    assert open_corpus(["path:other.txt"], LENGTH + 1, tokenizer, cache, True, quiet).hash != opened.hash
    with open(tmp_path / "other.txt", "a") as file:
        file.write(" one")
    assert open_corpus(["path:other.txt"], LENGTH, tokenizer, cache, True, quiet).hash != opened.hash
    assert open_corpus(["path:*.txt"], LENGTH, tokenizer, cache, True, quiet).manifest["documents"] == 200


def test_another_tokenizer_is_another_store(opened, leads, tmp_path):
    smaller = train(iter(leads[:100]), 500)
    other = open_corpus(["path:leads.txt"], LENGTH, smaller, tmp_path / "cache", True, quiet)
    assert other.hash != opened.hash and other.tokens.max() < 500 <= opened.tokens.max()


def test_progress_ends_at_the_total(texts, tokenizer, tmp_path):
    calls: list[tuple[str, int, int | None, str]] = []
    open_corpus([texts], LENGTH, tokenizer, tmp_path / "cache", True, lambda *call: calls.append(call))
    size = (tmp_path / "leads.txt").stat().st_size
    tokenising = [call for call in calls if call[0] == "tokenising"]
    assert tokenising[0] == ("tokenising", 0, size, "bytes")
    assert tokenising[-1] == ("tokenising", size, size, "bytes")
    assert [done for _, done, _, _ in tokenising] == sorted(done for _, done, _, _ in tokenising)


@pytest.mark.parametrize("at", ["tokenising", "reading the corpus"])
def test_a_stop_leaves_nothing_half_written(texts, tokenizer, tmp_path, at):
    def stop(what: str, done: int, total: int | None, unit: str) -> None:
        if what == at and done > 0:
            raise Stop

    with pytest.raises(Stop):
        open_corpus([texts], LENGTH, tokenizer, tmp_path / "cache", True, stop)
    assert not [path for path in tmp_path.glob("cache/corpora/**/*") if path != tmp_path / "cache/corpora"]
    assert not list(tmp_path.glob("cache/corpora/.*"))
    assert open_corpus([texts], LENGTH, tokenizer, tmp_path / "cache", True, quiet).rows > 100


def test_two_processes_build_at_once(texts, tokenizer, tmp_path):
    """Both start to build before either has finished: each sees the other's temporary folder first."""
    both_here = multiprocessing.get_context("fork").Barrier(2)

    def build() -> None:
        def progress(what: str, done: int, total: int | None, unit: str) -> None:
            if what == "tokenising" and done == 0:
                both_here.wait(60)

        open_corpus([texts], LENGTH, tokenizer, tmp_path / "cache", True, progress)

    processes = [multiprocessing.get_context("fork").Process(target=build) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    (folder,) = (tmp_path / "cache/corpora").iterdir()
    assert again(tokenizer, tmp_path).folder == folder


# --- damage -------------------------------------------------------------------------------------------------
def damaged(opened: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, build: bool = True) -> str:
    with pytest.raises(ValueError) as refused:
        again(tokenizer, tmp_path, build)
    message = str(refused.value)
    assert "the token store is damaged" in message
    assert f"delete the folder {opened.folder} to build it again" in message
    return message


@pytest.mark.parametrize("build", [True, False])
def test_a_truncated_token_file_is_refused_by_every_rank(opened, tokenizer, tmp_path, build):
    path = opened.folder / "tokens.bin"
    path.write_bytes(path.read_bytes()[:-2])
    assert f"{path}: the token store is damaged: it has" in damaged(opened, tokenizer, tmp_path, build)


def test_a_flipped_bit_is_refused_by_the_builder(opened, tokenizer, tmp_path):
    path = opened.folder / "tokens.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert str(path) in damaged(opened, tokenizer, tmp_path)


def test_missing_files_and_bad_manifests_are_refused(opened, tokenizer, tmp_path):
    manifest = opened.folder / "manifest.json"
    text = manifest.read_text()
    for bad in ("", "{", "[]", text.replace('"rows"', '"lines"'), text.replace(opened.hash, "0" * 64),
                text.replace("<u2", "<x2"),
                text.replace(f'"train_rows": {opened.manifest["train_rows"]}', '"train_rows": 1')):
        manifest.write_text(bad)
        assert str(manifest) in damaged(opened, tokenizer, tmp_path)
    manifest.unlink()
    assert str(manifest) in damaged(opened, tokenizer, tmp_path)
    manifest.write_text(text)
    assert again(tokenizer, tmp_path).rows == opened.rows
    (opened.folder / "tokens.bin").unlink()
    assert "tokens.bin: the token store is damaged: it is missing" in damaged(opened, tokenizer, tmp_path)


def test_a_deleted_store_is_built_again(opened, tokenizer, tmp_path):
    before = np.array(opened.tokens)
    for path in opened.folder.iterdir():
        path.unlink()
    opened.folder.rmdir()
    assert np.array_equal(again(tokenizer, tmp_path).tokens, before)


# --- too little text ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["", "\n\n \n\n", "Five words are not enough."])
def test_a_corpus_without_a_full_row_is_refused_by_name(tokenizer, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.txt").write_text(text)
    with pytest.raises(ValueError, match=r"corpus path:small\.txt: \d+ tokens .* do not fill one row of 32"):
        open_corpus(["path:small.txt"], LENGTH, tokenizer, tmp_path / "cache", True, quiet)
    assert not list((tmp_path / "cache/corpora").iterdir())


def test_a_small_corpus_still_holds_out_a_group_and_fewer_rows_than_a_group_are_refused(
        tokenizer, leads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.txt").write_text(" ".join(leads[:5]))  # one document

    def open_with(N: int) -> Corpus:
        return open_corpus(["path:small.txt"], LENGTH, tokenizer, tmp_path / "cache", True, quiet, N)

    rows = open_with(1).rows
    assert rows > 8
    for N in (1, 2, rows // 2):
        corpus = open_with(N)
        assert corpus.train_rows == rows - N and len(corpus.held_out) == N
    with pytest.raises(ValueError, match=f"corpus path:small.txt: .* too few for .* N = {rows + 1}"):
        open_with(rows + 1)


# --- sources ------------------------------------------------------------------------------------------------
def test_what_is_not_there_is_refused(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in ("path:none/*.txt", "builtin:none"):
        with pytest.raises(Refusal, match="none"):
            open_corpus([source], LENGTH, tokenizer, tmp_path, True, quiet)


def test_a_hub_data_set_is_read_from_a_local_folder(hub_folder, texts, tokenizer, leads, tmp_path):
    (hub_folder / "wiki").mkdir()
    lines = [json.dumps({"id": number, "text": text}) for number, text in enumerate(leads[:100])]
    (hub_folder / "wiki" / "train.jsonl").write_text("\n".join(lines))
    from_hub = open_corpus(["hub:here/wiki"], LENGTH, tokenizer, tmp_path / "cache", True, quiet)
    from_file = open_corpus([texts], LENGTH, tokenizer, tmp_path / "cache", True, quiet)
    assert from_hub.hash != from_file.hash
    assert np.array_equal(from_hub.tokens, from_file.tokens)
    both = open_corpus(["hub:here/wiki", texts], LENGTH, tokenizer, tmp_path / "cache", True, quiet)
    assert both.manifest["documents"] == 200


def test_a_split_of_a_hub_data_set_is_read_where_one_is_named(hub_folder, tokenizer, leads, tmp_path):
    (hub_folder / "wiki").mkdir()
    half = len(leads) // 2
    for split, texts in (("train", leads[:half]), ("validation", leads[half:])):
        lines = [json.dumps({"text": text}) for text in texts]
        (hub_folder / "wiki" / f"{split}.jsonl").write_text("\n".join(lines))
    found = {name: open_corpus([name], LENGTH, tokenizer, tmp_path / "cache", True, quiet)
             for name in ("hub:here/wiki", "hub:here/wiki:train", "hub:here/wiki:validation")}
    usual, train, validation = found.values()
    assert usual.hash == train.hash != validation.hash
    assert [corpus.manifest["documents"] for corpus in (train, validation)] == [half, len(leads) - half]
    assert not np.array_equal(train.tokens[:5], validation.tokens[:5])


def test_a_hub_data_set_that_cannot_be_had_is_refused_with_the_way_out(hub_folder, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"hub:no/such: split 'train' cannot be loaded: .* Without a net"):
        open_corpus(["hub:no/such"], LENGTH, tokenizer, tmp_path, True, quiet)
    (hub_folder / "columns").mkdir()
    (hub_folder / "columns/train.jsonl").write_text('{"content": "a"}\n')
    with pytest.raises(ValueError, match="hub:here/columns: no column 'text'; it has content"):
        open_corpus(["hub:here/columns"], LENGTH, tokenizer, tmp_path, True, quiet)
    (hub_folder / "numbers").mkdir()
    (hub_folder / "numbers/train.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    with pytest.raises(ValueError, match="hub:here/numbers: row 2: 'text' is not text but None"):
        open_corpus(["hub:here/numbers"], LENGTH, tokenizer, tmp_path, True, quiet)
