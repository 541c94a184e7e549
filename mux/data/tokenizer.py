"""Tokenizers: from the hub, from a folder, or a sentencepiece vocabulary trained on the corpus itself.

Everything after this file sees one kind: a fast `transformers` tokenizer with [PAD], [UNK], [CLS], [SEP],
[MASK].
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
import string
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from mux.data import sources
from mux.data.cache import Progressing, built_once
from mux.recipe import files
from mux.recipe.wording import reason

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 .. 4 of a trained vocabulary
ROLES = ("pad", "unk", "cls", "sep", "mask")
VERSION = 2  # of the training below and of what is kept of it; another number is another folder in the cache
FINGERPRINT = "fingerprint.txt"

# What a vocabulary is trained on, at most: the first documents of the corpus. More changes few of its pieces.
SAMPLE_DOCUMENTS = 200_000
SAMPLE_CHARACTERS = 50_000_000
_LONGEST_SENTENCE = 1 << 20  # bytes; sentencepiece passes over longer ones


def open_tokenizer(source: str, vocabulary: int, corpus_sources: Sequence[str], cache: Path, build: bool,
                   progress: Progressing) -> PreTrainedTokenizerFast:
    """The tokenizer of `hub:ID[@REVISION]`, `path:DIR` or `sentencepiece`, checked against `vocabulary`.

    `build` is True on the one rank that trains a sentencepiece vocabulary (kept in cache/tokenizers/<hash>/);
    the others wait for it. Raises ValueError: not to be had, not a fast tokenizer, a special token missing,
    another size.
    """
    if source == "sentencepiece":
        tokenizer = _trained(vocabulary, corpus_sources, cache, build, progress)
    elif source.startswith("path:"):
        tokenizer = _from_folder(source)
    elif source.startswith("hub:"):
        name, config, revision, split = files.split_hub(source)
        if config or split:
            raise ValueError(f"{source} names no tokenizer; write hub:ID or hub:ID@REVISION")
        tokenizer = _load(source, AutoTokenizer, name, revision=revision or "main")
    else:
        raise ValueError(f"tokenizer source {source!r} is none of hub:ID, path:DIR, sentencepiece")
    _check(tokenizer, source, vocabulary)
    return tokenizer


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """sha256, in hex, of everything that decides which ids a text gets."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    for state in ("truncation", "padding"):  # left behind by the last call, no part of the vocabulary
        content.pop(state, None)
    content["roles"] = [getattr(tokenizer, f"{role}_token_id") for role in ROLES]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check(tokenizer: Any, source: str, vocabulary: int) -> None:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"{source}: {type(tokenizer).__name__} is not a fast tokenizer; "
                         "a folder with tokenizer.json or vocab.txt is needed")
    missing = [role for role in ROLES if getattr(tokenizer, f"{role}_token_id") is None]
    if missing:
        raise ValueError(f"{source}: the tokenizer has no {', '.join(missing)} token; "
                         f"{', '.join(ROLES)} are needed, as BERT's tokenizer has them")
    if len(tokenizer) != vocabulary:
        raise ValueError(f"{source}: the tokenizer has {len(tokenizer):,} tokens, the recipe says "
                         f"tokenizer.vocabulary = {vocabulary:,}; set it to {len(tokenizer)}")


def _from_folder(source: str) -> Any:
    folder = Path(source.removeprefix("path:"))
    if not folder.is_dir():
        raise ValueError(f"{source}: no such folder: {folder.absolute()}")
    bare = (folder / "vocab.txt").exists() and not any((folder / f"tokenizer{end}.json").exists()
                                                       for end in ("", "_config"))
    return _load(source, BertTokenizer if bare else AutoTokenizer, str(folder))


def _load(source: str, kind: Any, name: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(name, trust_remote_code=False, **options)
    except Exception as error:  # tokenizers raises bare Exception where a file is damaged
        way_out = ("Without a network, download it beforehand into the Hugging Face cache (HF_HOME), or use "
                   "path:DIR or sentencepiece" if source.startswith("hub:")
                   else "A folder with a sound tokenizer.json or vocab.txt is needed")
        raise ValueError(f"{source}: the tokenizer cannot be loaded: {reason(error)} {way_out}") from error


# --- a vocabulary trained on the corpus ---------------------------------------------------------------------
def _trained(vocabulary: int, corpus_sources: Sequence[str], cache: Path, build: bool,
             progress: Progressing) -> PreTrainedTokenizerFast:
    corpus = sources.open_sources(corpus_sources)
    settings = [VERSION, vocabulary, SAMPLE_DOCUMENTS, SAMPLE_CHARACTERS,
                sources.content_hash(corpus, progress)]
    name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def make(folder: Path) -> None:
        progress("training the vocabulary", 0, None, "")
        tokenizer = train(sources.documents(corpus), vocabulary,
                          check=lambda: progress("training the vocabulary", 0, None, ""))
        tokenizer.save_pretrained(folder)
        (folder / FINGERPRINT).write_text(fingerprint(_kept(folder)) + "\n")

    folder = built_once(cache / "tokenizers" / name, make, build, progress, "the vocabulary")
    try:
        tokenizer = _kept(folder)
        if fingerprint(tokenizer) != (folder / FINGERPRINT).read_text().strip():
            raise ValueError("it is not the tokenizer that was kept here")
    except Exception as error:  # a damaged file shows in many ways; tokenizers raises bare Exception
        raise ValueError(f"{folder}: the tokenizer kept here is damaged; delete the folder to train it again"
                         ) from error
    return tokenizer


def _kept(folder: Path) -> PreTrainedTokenizerFast:
    return cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))


def train(documents: Iterator[str], vocabulary: int, check: Callable[[], None] = lambda: None
          ) -> PreTrainedTokenizerFast:
    """A unigram vocabulary (Kudo 2018) of exactly `vocabulary` pieces, the five special tokens among them.

    Deterministic: one thread, the first documents in order. `check` is called now and then while
    sentencepiece reads and may raise. ValueError if the corpus has too few different pieces, naming how many
    it has.
    """
    normalizer = _normalizer()
    failed: list[Exception] = []

    def sentences() -> Iterator[str]:
        # sentencepiece loses an exception raised while it reads: end the corpus, and raise it afterwards.
        read = 0
        try:
            for number, document in enumerate(itertools.islice(documents, SAMPLE_DOCUMENTS)):
                if read > SAMPLE_CHARACTERS:
                    return
                if number % 1000 == 0:
                    check()
                read += len(document)
                yield normalizer.normalize_str(document)
        except Exception as error:
            failed.append(error)

    try:
        model = _model(sentences(), vocabulary)
    finally:
        if failed:
            raise failed[0]
    return _convert(model, normalizer)


def _model(sentences: Iterator[str], vocabulary: int) -> bytes:
    """sentencepiece's own model file, trained on normalised text. Printable ASCII always has its pieces."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences, model_writer=model, model_type="unigram", vocab_size=vocabulary,
            num_threads=1, normalization_rule_name="identity", max_sentence_length=_LONGEST_SENTENCE,
            required_chars=string.ascii_lowercase + string.digits + string.punctuation,
            pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, pad_piece=SPECIAL[0], unk_piece=SPECIAL[1],
            control_symbols=list(SPECIAL[2:]), minloglevel=2)
    except RuntimeError as error:
        raise ValueError(_why_not(str(error), vocabulary)) from error
    return model.getvalue()


def _why_not(message: str, vocabulary: int) -> str:
    """sentencepiece's reasons in the words of a recipe."""
    if found := re.search(r"too high.*<= (\d+)", message):
        return (f"the corpus is too small for tokenizer.vocabulary = {vocabulary:,}: "
                f"at most {int(found[1])} pieces can be trained on it")
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (f"tokenizer.vocabulary = {vocabulary:,} is too small for this corpus: "
                f"its characters alone need {int(found[1])}")
    if "sentences_.empty()" in message:
        return "the corpus has no text to train a vocabulary on"
    return f"sentencepiece could not train a vocabulary: {message}"


def _normalizer() -> normalizers.Normalizer:
    """What bert-base-uncased does to text (lower case, no accents, no control characters), after NFKC."""
    return normalizers.Sequence([
        normalizers.NFKC(),
        normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ])


def _convert(model: bytes, normalizer: normalizers.Normalizer) -> PreTrainedTokenizerFast:
    """A sentencepiece model as a fast tokenizer: same pieces, same scores, BERT's [CLS] A [SEP] B [SEP]."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    backend = Tokenizer(models.Unigram(
        [(pieces.id_to_piece(number), pieces.get_score(number)) for number in range(pieces.get_piece_size())],
        unk_id=SPECIAL.index("[UNK]")))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{role}_token": token for role, token in zip(ROLES, SPECIAL, strict=True)})
