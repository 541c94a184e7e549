from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mux.data import tokenizer as tokenizers
from mux.data.tokenizer import fingerprint, open_tokenizer, train
from mux.recipe import Refusal

LETTERS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "mux", "##ed", "text"]


class Stop(Exception):
    pass


def quiet(what: str, done: int, total: int | None, unit: str) -> None:
    pass


def trained(source: str, cache: Path, vocabulary: int = 500, build: bool = True, progress=quiet):
    return open_tokenizer("sentencepiece", vocabulary, [source], cache, build, progress)


def bert_folder(folder: Path, words: list[str]) -> str:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return f"path:{folder}"


# --- trained ------------------------------------------------------------------------------------------------
def test_training_gives_exactly_the_pieces_asked_for_and_berts_special_tokens(tokenizer):
    assert len(tokenizer) == 1000
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 1, 2, 3, 4]
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.cls_token_id) == (0, 1, 2)
    assert (tokenizer.sep_token_id, tokenizer.mask_token_id) == (3, 4)


def test_real_text_comes_back_lowercased_without_accents(tokenizer, leads):
    assert tokenizer.decode(tokenizer("Née in  Köln,\n1870!")["input_ids"], skip_special_tokens=True) \
        == "nee in koln, 1870!"
    plain = [text for text in leads if text.isascii()][:300]
    assert len(plain) == 300
    for text in plain:
        ids = tokenizer(text)["input_ids"]
        if tokenizer.unk_token_id not in ids:
            assert tokenizer.decode(ids, skip_special_tokens=True) == " ".join(text.lower().split())
    unknown = [id for text in plain for id in tokenizer(text)["input_ids"] if id == tokenizer.unk_token_id]
    assert len(unknown) < 50


def test_a_pair_has_two_separators_and_segments(tokenizer):
    single, pair = tokenizer("a town"), tokenizer("a town", "the river")
    first, second = len(single["input_ids"]), len(pair["input_ids"])
    assert single["input_ids"][0] == 2 and single["input_ids"][-1] == 3
    assert pair["input_ids"][:first] == single["input_ids"] and pair["input_ids"][-1] == 3
    assert pair["token_type_ids"] == [0] * first + [1] * (second - first)


def test_pieces_and_scores_are_sentencepieces(leads, tokenizer):
    """The converted tokenizer cuts real text as sentencepiece itself does."""
    normalizer = tokenizers._normalizer()
    model = tokenizers._model((normalizer.normalize_str(text) for text in leads[:600]), 1000)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in leads[600:900]:
        ours = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ours == pieces.encode(normalizer.normalize_str(text)), text


def test_training_is_deterministic_and_saved_folders_are_the_same_tokenizer(tokenizer, leads, tmp_path):
    again = train(iter(leads[:600]), 1000)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    again.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("Data multiplexing", "in one pass") == tokenizer("Data multiplexing", "in one pass")
    assert fingerprint(loaded) == fingerprint(tokenizer)


def test_the_fingerprint_sees_the_vocabulary_and_not_the_last_call(tokenizer, leads):
    before = fingerprint(tokenizer)
    tokenizer(leads[:2], truncation=True, max_length=8, padding=True)
    assert fingerprint(tokenizer) == before
    assert fingerprint(train(iter(leads[:500]), 1000)) != before


def test_too_many_and_too_few_pieces_are_refused_with_the_number_that_fits(leads):
    too_small = r"too small for tokenizer\.vocabulary = 90,000: at most (\d+)"
    with pytest.raises(ValueError, match=too_small) as refused:
        train(iter(leads[:100]), 90_000)
    fits = int(str(refused.value).split("at most ")[1].split()[0])
    assert len(train(iter(leads[:100]), fits)) == fits
    with pytest.raises(ValueError, match=r"vocabulary = 20 is too small .* its characters alone need \d+"):
        train(iter(leads[:100]), 20)
    with pytest.raises(ValueError, match="no text to train a vocabulary on"):
        train(iter([]), 100)


# --- the cache ----------------------------------------------------------------------------------------------
def test_a_vocabulary_is_trained_once_for_a_corpus(texts, tmp_path, monkeypatch):
    first = trained(texts, tmp_path / "cache")
    monkeypatch.setattr(tokenizers, "train", None)  # a second training would fail
    second = trained(texts, tmp_path / "cache")
    assert isinstance(second, PreTrainedTokenizerFast) and len(second) == 500
    assert fingerprint(first) == fingerprint(second)
    with pytest.raises(TypeError):
        trained(texts, tmp_path / "cache", vocabulary=400)


def test_another_text_is_another_vocabulary(texts, tmp_path):
    trained(texts, tmp_path / "cache")
    with open(tmp_path / "leads.txt", "a") as file:
        file.write("\n\nOne more paragraph.")
    trained(texts, tmp_path / "cache")
    assert len(list((tmp_path / "cache/tokenizers").iterdir())) == 2


def test_other_ranks_wait_for_the_builder(texts, tmp_path):
    waited = threading.Event()
    found: list[PreTrainedTokenizerFast] = []

    def progress(what: str, done: int, total: int | None, unit: str) -> None:
        if what.startswith("waiting"):
            waited.set()

    thread = threading.Thread(
        target=lambda: found.append(trained(texts, tmp_path / "cache", build=False, progress=progress)))
    thread.start()
    assert waited.wait(10)
    built = trained(texts, tmp_path / "cache")
    thread.join(30)
    assert fingerprint(found[0]) == fingerprint(built)


@pytest.mark.parametrize("build", [True, False])
def test_a_stop_leaves_nothing_behind(texts, tmp_path, build):
    def stop(what: str, done: int, total: int | None, unit: str) -> None:
        if what != "reading the corpus":
            raise Stop

    with pytest.raises(Stop):
        trained(texts, tmp_path / "cache", build=build, progress=stop)
    assert not list(tmp_path.glob("cache/tokenizers/*")) and not list(tmp_path.glob("cache/tokenizers/.*"))
    assert len(trained(texts, tmp_path / "cache")) == 500


def test_a_stop_while_sentencepiece_reads_is_not_lost(leads):
    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        train(iter(leads), 500, check=stop)


def test_a_damaged_tokenizer_is_refused_by_name(texts, tmp_path):
    trained(texts, tmp_path / "cache")
    (folder,) = (tmp_path / "cache/tokenizers").iterdir()
    text = (folder / "tokenizer.json").read_text()
    place = text.index('"▁the"')  # a piece of another spelling is a sound tokenizer, but another one
    for bad in ('{"model"', text[:place] + '"▁thf"' + text[place + 6 :]):
        (folder / "tokenizer.json").write_text(bad)
        with pytest.raises(ValueError, match=f"{folder}.* is damaged; delete the folder"):
            trained(texts, tmp_path / "cache")
    (folder / "tokenizer.json").write_text(text)
    trained(texts, tmp_path / "cache")


# --- folders and the hub ------------------------------------------------------------------------------------
def test_a_folder_with_vocab_txt_alone_is_a_bert_tokenizer(tmp_path):
    opened = open_tokenizer(bert_folder(tmp_path / "bert", LETTERS), 8, [], tmp_path, True, quiet)
    assert opened("Muxed text")["input_ids"] == [2, 5, 6, 7, 3]


def test_a_saved_folder_opens(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "saved")
    opened = open_tokenizer(f"path:{tmp_path / 'saved'}", 1000, [], tmp_path, False, quiet)
    assert fingerprint(opened) == fingerprint(tokenizer)


def test_the_real_size_must_be_the_recipes(tmp_path):
    with pytest.raises(ValueError, match=r"has 8 tokens, the recipe says tokenizer\.vocabulary = 30,522"):
        open_tokenizer(bert_folder(tmp_path / "bert", LETTERS), 30_522, [], tmp_path, True, quiet)


def test_a_special_token_that_is_missing_is_named(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "bare")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = tmp_path / "bare" / name
        if path.exists():
            settings = json.loads(path.read_text())
            settings = {key: settings[key] for key in settings if key not in ("mask_token", "cls_token")}
            path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="no cls, mask token"):
        open_tokenizer(f"path:{tmp_path / 'bare'}", 1000, [], tmp_path, True, quiet)


def test_what_is_not_there_is_refused(tmp_path, hub_folder):
    with pytest.raises(ValueError, match=f"no such folder: {tmp_path}/nowhere"):
        open_tokenizer("path:nowhere", 8, [], tmp_path, True, quiet)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"path:empty: the tokenizer cannot be loaded.*vocab\.txt is needed"):
        open_tokenizer("path:empty", 8, [], tmp_path, True, quiet)
    (tmp_path / "empty/tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="path:empty: the tokenizer cannot be loaded"):
        open_tokenizer("path:empty", 8, [], tmp_path, True, quiet)
    with pytest.raises(ValueError, match=r"hub:no/such: the tokenizer cannot be loaded.*Without a network"):
        open_tokenizer("hub:no/such", 8, [], tmp_path, True, quiet)
    with pytest.raises(ValueError, match="names no tokenizer"):
        open_tokenizer("hub:no/such/config", 8, [], tmp_path, True, quiet)
    with pytest.raises(ValueError, match="none of hub:ID"):
        open_tokenizer("wordpiece", 8, [], tmp_path, True, quiet)
    with pytest.raises(Refusal, match="nothing"):
        trained("path:nothing/*.txt", tmp_path)
