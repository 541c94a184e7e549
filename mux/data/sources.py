"""Where corpus text comes from: `builtin:NAME`, `path:GLOB` (txt, jsonl), `hub:ID[/CONFIG][@REVISION][:SPLIT]`.

Documents are streamed; a corpus is never in memory as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mux.data.cache import Progressing
from mux.recipe import files
from mux.recipe.wording import reason

if TYPE_CHECKING:
    import datasets

TEXT_COLUMN = "text"
# A text file without blank lines is one document, however long; cut like this it is never in memory as
# tokens.
LONGEST_DOCUMENT = 100_000  # characters
_HASH_CHUNK = 1 << 24  # bytes


class Source(Protocol):
    name: str  # as the recipe has it
    size: int  # bytes, for progress

    def add_to(self, content: Any, progress: Progressing, done: int, total: int) -> None:
        """Feed what identifies the content to a hashlib object."""

    def __iter__(self) -> Iterator[str]: ...


class Files:
    """Text files on disk, identified by their bytes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.paths: list[Path] = files.expand(name)
        self.size = sum(path.stat().st_size for path in self.paths)

    def add_to(self, content: Any, progress: Progressing, done: int, total: int) -> None:
        for path in self.paths:
            content.update(f"file {path.suffix} {path.stat().st_size}\n".encode())
            with open(path, "rb") as file:
                while chunk := file.read(_HASH_CHUNK):
                    content.update(chunk)
                    done += len(chunk)
                    progress("reading the corpus", min(done, total), total, "bytes")

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            yield from files.read_documents(path)


class Hub:
    """A split of a data set of the Hugging Face hub, or of a local folder `datasets` can read; by default "train"."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows = load_hub(name, files.split_hub(name)[3] or "train")
        if TEXT_COLUMN not in self.rows.column_names:
            raise ValueError(f"{name}: no column {TEXT_COLUMN!r}; it has {', '.join(self.rows.column_names)}")
        self.rows = self.rows.select_columns([TEXT_COLUMN])
        self.size = self.rows.data.nbytes

    def add_to(self, content: Any, progress: Progressing, done: int, total: int) -> None:
        where = files.split_hub(self.name)[:3]
        content.update(f"hub {where} {self.rows._fingerprint} {len(self.rows)}\n".encode())

    def __iter__(self) -> Iterator[str]:
        for number, row in enumerate(self.rows, 1):
            text = row[TEXT_COLUMN]
            if not isinstance(text, str):
                raise ValueError(f"{self.name}: row {number}: {TEXT_COLUMN!r} is not text but {text!r}")
            yield text


def open_sources(names: Sequence[str]) -> list[Source]:
    """Raises Refusal or ValueError naming the source that is not there."""
    return [Hub(name) if name.startswith("hub:") else Files(name) for name in names]


def content_hash(sources: Sequence[Source], progress: Progressing) -> str:
    """sha256, in hex, of everything the sources hold, in order."""
    content, done, total = hashlib.sha256(), 0, sum(source.size for source in sources)
    for source in sources:
        source.add_to(content, progress, done, total)
        done += source.size
    return content.hexdigest()


def documents(sources: Sequence[Source]) -> Iterator[str]:
    """Every document that is not blank; one longer than 100,000 characters comes cut at white space."""
    for source in sources:
        for text in source:
            for part in _cut(text):
                if part := part.strip():
                    yield part


def _cut(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > LONGEST_DOCUMENT:
        stop = start + LONGEST_DOCUMENT
        space = max(text.rfind(" ", start, stop), text.rfind("\n", start, stop))
        stop = space if space > start else stop
        yield text[start:stop]
        start = stop
    yield text[start:]


def load_hub(name: str, split: str) -> datasets.Dataset:
    """One split of `hub:ID[/CONFIG][@REVISION]`; ValueError with the reason where it cannot be had."""
    import datasets  # a second of imports that a corpus of files does not need

    identity, config, revision, _ = files.split_hub(name)
    datasets.disable_progress_bars()  # ranks report, the launcher draws
    try:
        return datasets.load_dataset(identity, config, split=split, revision=revision)
    except Exception as error:  # no connection, no such set, configuration or split: it is this source
        raise ValueError(
            f"{name}: split {split!r} cannot be loaded: {reason(error)}. Without a network, download it "
            "beforehand into the Hugging Face cache (HF_HOME), or use path: or builtin:") from error
