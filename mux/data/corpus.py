"""The token store: a corpus as packed rows of ids in one flat file, memory-mapped, shared by ranks and runs.

cache/corpora/<hash>/ holds tokens.bin, [rows, sequence_length] of uint16 or uint32, and manifest.json. The
hash covers the text, the tokenizer, the row length and the rules of packing, so a store never goes stale.
Rows train_rows .. rows - 1 are held out: whole documents, in which no training row has a part.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mux.data import packing, sources
from mux.data.cache import Progressing, built_once
from mux.data.tokenizer import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VERSION = 1  # of the rules in this file; another number is another token store
TOKENS, MANIFEST, SEAL = "tokens.bin", "manifest.json", "manifest_sha256"

# Held out is every 10th document until that is about 64 rows, and every 100th throughout.
HELD_OUT_EVERY, HELD_OUT_ROWS, HELD_OUT_EVERY_AFTER = 10, 64, 100

_CHUNK_DOCUMENTS = 1000  # tokenised in one call, by the tokenizer's own threads
_CHUNK_CHARACTERS = 4_000_000
_ROWS_PER_WRITE = 1024
_READ_BYTES = 1 << 24


@dataclass(frozen=True)
class Corpus:
    """An opened token store. `tokens` is read-only and on disk; `take` copies rows out of it."""

    folder: Path
    hash: str
    tokens: np.ndarray  # [rows, sequence_length], uint16 or uint32
    train_rows: int
    pad_id: int
    manifest: dict[str, Any]  # documents, tokens, padding (share of ids that are [PAD]), sources, sha256, ...

    @property
    def rows(self) -> int:
        return self.tokens.shape[0]

    @property
    def sequence_length(self) -> int:
        return self.tokens.shape[1]

    @property
    def held_out(self) -> range:
        """Row numbers that training never sees: at least N, unless the corpus has fewer than 2 N rows."""
        return range(self.train_rows, self.rows)

    def take(self, indices: Sequence[int] | np.ndarray | range) -> np.ndarray:
        """int64 [..., L]: the rows at `indices` [...], so that [groups, N] gives [groups, N, L]."""
        return self.tokens[np.asarray(indices, dtype=np.int64)].astype(np.int64)


def open_corpus(names: Sequence[str], sequence_length: int, tokenizer: PreTrainedTokenizerFast, cache: Path,
                build: bool, progress: Progressing, N: int = 1) -> Corpus:
    """The packed rows of these sources, tokenised now if they are not in the cache.

    `build` is True on the one rank that tokenises and checks the store's sha256; the others wait for it.
    Raises ValueError: no text, fewer rows than one group of N, or a store that is damaged (which file, and
    the way out).
    """
    opened = sources.open_sources(names)
    key = [VERSION, packing.VERSION, packing.OPEN_ROWS, sequence_length, fingerprint(tokenizer),
           sources.content_hash(opened, progress)]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()

    def make(folder: Path) -> None:
        _Builder(folder, name, sequence_length, tokenizer).build(opened, names, progress)

    folder = built_once(cache / "corpora" / name, make, build, progress, "the token store")
    corpus = _open(folder, name, tokenizer.pad_token_id, N)
    if build:
        _check_content(folder, corpus.manifest, progress)
    if corpus.train_rows < N:
        raise ValueError(f"corpus {', '.join(names)}: {corpus.train_rows} training rows of {sequence_length} "
                         f"tokens are too few for one group of N = {N}; give it more text or shorter rows")
    return corpus


# --- opening ------------------------------------------------------------------------------------------------
def _open(folder: Path, name: str, pad_id: int, N: int) -> Corpus:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        rows, length, dtype = manifest["rows"], manifest["sequence_length"], np.dtype(manifest["dtype"])
        train_rows = manifest["train_rows"]
        sealed = manifest.get(SEAL, seal := _seal(manifest)) == seal
        if manifest["hash"] != name or not 0 < train_rows <= rows or not sealed:
            raise ValueError("a manifest of something else")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder / MANIFEST, "it is missing or cannot be read") from error
    path = folder / TOKENS
    if not path.exists():
        raise _damaged(path, "it is missing")
    expected, size = rows * length * dtype.itemsize, path.stat().st_size
    if size != expected:
        raise _damaged(path, f"it has {size:,} bytes instead of {expected:,}")
    tokens = np.memmap(path, dtype=dtype, mode="r", shape=(rows, length))
    if rows >= 2 * N:  # a group to hold out, also of a corpus of few documents, whose text it may then share
        train_rows = min(train_rows, rows - N)
    return Corpus(folder, name, tokens, train_rows, pad_id, manifest)


def _check_content(folder: Path, manifest: dict[str, Any], progress: Progressing) -> None:
    content, path = hashlib.sha256(), folder / TOKENS
    total = path.stat().st_size
    with open(path, "rb") as file:
        while chunk := file.read(_READ_BYTES):
            content.update(chunk)
            progress("checking the token store", file.tell(), total, "bytes")
    if content.hexdigest() != manifest.get("sha256"):
        raise _damaged(path, "its content is not what was written (sha256 differs)")


def _seal(manifest: dict[str, Any]) -> str:
    """sha256 of what else the manifest says; stores of long ago have none."""
    rest = {key: value for key, value in manifest.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path}: the token store is damaged: {reason}; "
                      f"delete the folder {path.parent} to build it again")


# --- building -----------------------------------------------------------------------------------------------
class _Rows:
    """Packed rows on their way into a file."""

    def __init__(self, path: Path, length: int, dtype: np.dtype, tokenizer: PreTrainedTokenizerFast) -> None:
        ids = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
        self.packer = packing.Packer(length, *ids)
        self.path, self.dtype, self.rows, self.tokens = path, dtype, 0, 0
        self._file = open(path, "wb")  # noqa: SIM115  closed by finish() or with the process
        self._waiting: list[list[int]] = []

    def add(self, ids: Sequence[int]) -> None:
        self.tokens += len(ids)
        self._waiting.extend(self.packer.add(ids))
        if len(self._waiting) >= _ROWS_PER_WRITE:
            self._write()

    def finish(self) -> None:
        self._waiting.extend(self.packer.finish())
        self._write()
        self._file.close()

    def _write(self) -> None:
        self.rows += len(self._waiting)
        self._file.write(np.array(self._waiting, dtype=self.dtype).tobytes())
        self._waiting = []


class _Builder:
    def __init__(self, folder: Path, name: str, length: int, tokenizer: PreTrainedTokenizerFast) -> None:
        self.folder, self.name, self.length, self.tokenizer = folder, name, length, tokenizer
        self.dtype = np.dtype("<u2" if len(tokenizer) <= 1 << 16 else "<u4")
        self.train = _Rows(folder / TOKENS, length, self.dtype, tokenizer)
        self.held_out = _Rows(folder / "held_out.bin", length, self.dtype, tokenizer)
        self.documents = 0

    def build(self, opened: Sequence[sources.Source], names: Sequence[str], progress: Progressing) -> None:
        """Fill the folder: all documents into rows, held-out rows behind the others, then the manifest."""
        done, total = 0, sum(source.size for source in opened)
        progress("tokenising", done, total, "bytes")
        for texts in _chunks(sources.documents(opened)):
            self._add(texts)
            done += sum(len(text.encode()) for text in texts)
            progress("tokenising", min(done, total), total, "bytes")
        self.train.finish()
        self.held_out.finish()
        tokens = self.train.tokens + self.held_out.tokens
        if tokens + 1 < self.length:
            raise ValueError(f"corpus {', '.join(names)}: {tokens:,} tokens of text in {self.documents:,} "
                             f"documents do not fill one row of {self.length}; "
                             "give it more text or shorter rows")
        with open(self.train.path, "ab") as file, open(self.held_out.path, "rb") as more:
            shutil.copyfileobj(more, file, _READ_BYTES)
        self.held_out.path.unlink()
        self._write_manifest(names, tokens)
        progress("tokenising", total, total, "bytes")

    def _add(self, texts: list[str]) -> None:
        # Text that spells "[SEP]" is text: a corpus must not be able to write special tokens into rows.
        encoded = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True, truncation=False,
                                 padding=False, return_attention_mask=False, return_token_type_ids=False,
                                 verbose=False)
        for ids in encoded["input_ids"]:
            if ids:
                rows = self.held_out if self._holds_out(self.documents) else self.train
                rows.add(ids)
                self.documents += 1

    def _holds_out(self, number: int) -> bool:
        enough = self.held_out.tokens >= HELD_OUT_ROWS * self.length
        every = HELD_OUT_EVERY_AFTER if enough else HELD_OUT_EVERY
        return number % every == every - 1

    def _write_manifest(self, names: Sequence[str], tokens: int) -> None:
        rows = self.train.rows + self.held_out.rows
        padding = self.train.packer.padding + self.held_out.packer.padding
        with open(self.folder / TOKENS, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        manifest = {"version": VERSION, "hash": self.name, "rows": rows, "train_rows": self.train.rows,
                    "sequence_length": self.length, "dtype": self.dtype.str, "sha256": content,
                    "sources": list(names), "documents": self.documents, "tokens": tokens,
                    "padding": round(padding / (rows * self.length), 6)}
        text = json.dumps(manifest | {SEAL: _seal(manifest)}, indent=1, ensure_ascii=False) + "\n"
        (self.folder / MANIFEST).write_text(text, encoding="utf-8")


def _chunks(documents: Iterator[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    characters = 0
    for text in documents:
        chunk.append(text)
        characters += len(text)
        if len(chunk) == _CHUNK_DOCUMENTS or characters > _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
