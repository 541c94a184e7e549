"""Sources that recipes name: which files they are, and the documents in them. Standard library only.

    path:GLOB       files, relative to the current directory; of a directory those that hold documents
    builtin:NAME    files that come with the program
    hub:ID[/CONFIG][@REVISION][:SPLIT]    a data set of the Hugging Face hub; `mux.data` reads those

Whatever is wrong with a file is a Refusal that names it, and the line where there is one. `mux.recipe.rows` reads rows.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mux.recipe.lines import lines_of, refusal, suffix_of
from mux.recipe.refusal import Problem, Refusal
from mux.recipe.rows import objects
from mux.recipe.wording import listed, printable, shown, some

CORPORA = ("wiki_leads",)  # builtin: documents
ROWS = ("topic_train", "topic_test")  # builtin: rows of a task

_BUILTIN = Path(__file__).resolve().parents[1] / "data" / "builtin"

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB = re.compile(
    rf"hub:(?P<id>{_NAME}(?:/{_NAME})?)(?:/(?P<config>[^\s/@:]+))?"
    r"(?:@(?P<revision>[^\s@:]+))?(?::(?P<split>[\w.\[\]%:+-]+))?"
)


# --- sources ------------------------------------------------------------------------------------------------
def expand(source: str) -> list[Path]:
    """The files of a `path:` or `builtin:` source, sorted. Refuses a source that is no file at all."""
    scheme, _, rest = source.partition(":")
    if scheme == "builtin" and rest in CORPORA + ROWS:
        return [_BUILTIN / f"{rest}{'.txt' if rest in CORPORA else '.jsonl'}"]
    if scheme == "builtin":
        hint = f"builtin: has {', '.join(CORPORA + ROWS)}"
        raise Refusal(Problem(f"{shown(source)} does not exist", hint=hint))
    if scheme != "path" or not rest:
        raise Refusal(Problem(f"{shown(source)} names no files", hint="write path:FILES or builtin:NAME"))
    try:
        files = _matches(rest)
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        reason = getattr(error, "strerror", None) or str(error)
        raise Refusal(f"{shown(source)} cannot be read: {reason}") from None
    if not files:
        place = printable(str(_fixed_part(rest)))
        raise Refusal(Problem(f"{shown(source)} matches no file", hint=f"looked in {place}"))
    return files


def _matches(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        return sorted(file for file in path.iterdir() if suffix_of(file) in DOCUMENTS and file.is_file())
    if path.is_file():  # also one whose name looks like a pattern
        return [path]
    return sorted(file for name in glob.glob(pattern, recursive=True) if (file := Path(name)).is_file())


def _fixed_part(pattern: str) -> Path:
    """The directory, absolute, in which the files of a pattern were looked for."""
    path = Path(pattern).absolute()
    if path.is_dir():
        return path
    fixed = Path(*[part for part in _before_magic(path.parts)])
    return fixed if fixed != path else path.parent


def _before_magic(parts: tuple[str, ...]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def split_hub(source: str) -> tuple[str, str | None, str | None, str | None]:
    """`hub:ID[/CONFIG][@REVISION][:SPLIT]` -> (ID, CONFIG, REVISION, SPLIT); ID is `name` or `owner/name`.

    Two names are an owner and a name: the configuration of a set without an owner cannot be written.
    """
    match = _HUB.fullmatch(source)
    if match is None:
        hint = "write hub:ID[/CONFIG][@REVISION][:SPLIT], as in hub:wikimedia/wikipedia/20231101.en"
        raise Refusal(Problem(f"{shown(source)} names no data set of the hub", hint=hint))
    return match["id"], match["config"], match["revision"], match["split"]


# --- documents ----------------------------------------------------------------------------------------------
def read_documents(path: Path) -> Iterator[str]:
    """The texts in a file, none of them empty.

    .txt, .tokens (WikiText's name for it): documents stand between blank lines, and their lines are joined by spaces;
    .jsonl: an object a line, with the text under "text". Each may be packed, as in .txt.xz.
    """
    reader = DOCUMENTS.get(suffix_of(path))
    if reader is None:
        raise Refusal(Problem(f"must be a {listed(DOCUMENTS, 'or')} file", where=printable(str(path))))
    yield from reader(path)


def _paragraphs(path: Path) -> Iterator[str]:
    lines: list[str] = []
    for _, line in lines_of(path):
        if line.strip():
            lines.append(line.strip())
        elif lines:
            yield " ".join(lines)
            lines = []
    if lines:
        yield " ".join(lines)


def _texts(path: Path) -> Iterator[str]:
    for number, row in objects(lines_of(path), str(path)):
        text = row.get("text")
        if not isinstance(text, str):
            raise refusal(str(path), number, 'has no text under "text"', f"its keys: {some(row)}")
        if text.strip():
            yield text.strip()


DOCUMENTS: dict[str, Callable[[Path], Iterator[str]]] = {".txt": _paragraphs, ".tokens": _paragraphs, ".jsonl": _texts}
