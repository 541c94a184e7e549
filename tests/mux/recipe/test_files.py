"""Which files a source names, and what is in them."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mux.recipe import lines
from mux.recipe.files import expand, read_documents, split_hub
from mux.recipe.rows import read_rows
from mux.recipe.tasks import TASKS
from tests.mux.recipe.given import refusal, write

ROOT = Path(__file__).parents[3]


# --- sources --------------------------------------------------------------------------------------------------
def test_globs_directories_and_single_files(here: Path) -> None:
    for name in ("t/b.txt", "t/a.txt", "t/c.jsonl", "t/c.txt.xz", "t/d.csv", "t/d.csv.gz",
                 "t/.hidden.txt", "t/deep/e.txt", "t/x[1].txt"):
        write(name, "x")
    (here / "t/folder.txt").mkdir()

    def names(source: str) -> list[str]:
        return [str(path) for path in expand(source)]

    assert names("path:t/*.txt") == ["t/a.txt", "t/b.txt", "t/x[1].txt"]
    assert names("path:t") == ["t/.hidden.txt", "t/a.txt", "t/b.txt", "t/c.jsonl", "t/c.txt.xz", "t/x[1].txt"]
    assert names("path:t/**/*.txt") == ["t/a.txt", "t/b.txt", "t/deep/e.txt", "t/x[1].txt"]
    assert names("path:t/x[1].txt") == ["t/x[1].txt"]
    assert names("path:t/[ab].txt") == ["t/a.txt", "t/b.txt"]
    assert names("path:t/d.csv") == ["t/d.csv"]
    assert names(f"path:{here}/t/a.txt") == [f"{here}/t/a.txt"]


def test_sources_that_name_no_file(here: Path) -> None:
    (here / "empty").mkdir()
    assert refusal(lambda: expand("path:t/*.txt")) == f'"path:t/*.txt" matches no file\n    looked in {here}/t'
    assert refusal(lambda: expand("path:a.txt")) == f'"path:a.txt" matches no file\n    looked in {here}'
    assert refusal(lambda: expand("path:empty")) == f'"path:empty" matches no file\n    looked in {here}/empty'
    assert refusal(lambda: expand("path:a\0b")) == f'"path:a\\u0000b" matches no file\n    looked in {here}'
    assert refusal(lambda: expand(f"path:{'x' * 5000}")).endswith("cannot be read: File name too long")
    assert refusal(lambda: expand("builtin:wiki")) == (
        '"builtin:wiki" does not exist\n    builtin: has wiki_leads, topic_train, topic_test')
    for source in ("path:", "hub:a/b", "a.txt", ""):
        assert refusal(lambda source=source: expand(source)) == (
            f'"{source}" names no files\n    write path:FILES or builtin:NAME')


def test_what_comes_with_the_program() -> None:
    documents = [text for path in expand("builtin:wiki_leads") for text in read_documents(path)]
    assert len(documents) == 2000
    assert documents[0].startswith("Arabic literature is the writing") and "\n" not in documents[0]
    for source in (TASKS["topic"].train, TASKS["topic"].test):
        rows = [row for path in expand(source) for row in read_rows(path)]
        assert len(rows) > 500
        assert all(row.keys() >= {"text", "label", "label_name"} for row in rows)
        assert {row["label"] for row in rows} == set(range(11))


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("hub:glue", ("glue", None, None, None)),
        ("hub:nyu-mll/glue/mnli:validation_matched", ("nyu-mll/glue", "mnli", None, "validation_matched")),
        ("hub:wikimedia/wikipedia/20231101.en", ("wikimedia/wikipedia", "20231101.en", None, None)),
        ("hub:bookcorpus/bookcorpus@refs/convert/parquet",
         ("bookcorpus/bookcorpus", None, "refs/convert/parquet", None)),
        ("hub:a/b/c@main:train[:10%]", ("a/b", "c", "main", "train[:10%]")),
        ("hub:a/b:train+test", ("a/b", None, None, "train+test")),
    ],
)
def test_data_sets_of_the_hub(source: str, parts: tuple[str | None, ...]) -> None:
    assert split_hub(source) == parts


@pytest.mark.parametrize("source", ["hub:", "hub:/b", "hub:a/", "hub:a/b/c/d", "hub:a b", "hub:../x", "hub:-a", "a/b",
                                    "hub:a/b@", "hub:a/b:", "hub:a/b@x y", "hub:a/b\n", "path:a"])
def test_no_data_sets_of_the_hub(source: str) -> None:
    assert "names no data set of the hub" in refusal(lambda: split_hub(source))


# --- contents -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "data", "documents"),
    [
        ("a.txt", "one\n two \n\n\n \t\nthree\n", ["one two", "three"]),
        ("a.txt", "\n\none", ["one"]),
        ("a.txt", "", []),
        ("a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree\r\n", ["one two", "three"]),
        ("a.txt", "one\x0btwo\u2028three\n", ["one\x0btwo\u2028three"]),
        ("a.tokens", " \n = Heading = \n \n One <unk> . \n", ["= Heading =", "One <unk> ."]),
        ("a.jsonl", '{"text": " one\\ntwo "}\n\n{"text": "", "x": 1}\n{"text": "three"}', ["one\ntwo", "three"]),
    ],
)
def test_documents(here: Path, name: str, data: str | bytes, documents: list[str]) -> None:
    assert list(read_documents(write(name, data))) == documents


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.txt", b"one\n\ntwo \xff\n", "a.txt:3: is not UTF-8: byte 0xff"),
        ("a.jsonl", '{"text": "x"}\n{"text": 3}', 'a.jsonl:2: has no text under "text"\n    its keys: text'),
        ("a.jsonl", '{"texts": "x"}', 'a.jsonl:1: has no text under "text"\n    its keys: texts'),
        ("a.jsonl", '{"text": "x"}\n\n{"text": ', "a.jsonl:3: is not JSON, column 10: Expecting value"),
        ("a.jsonl", "[1]", 'a.jsonl:1: is not a JSON object\n    {"text": "..."}, one a line'),
        ("a.jsonl", "[" * 100_000, "a.jsonl:1: is not JSON: it is nested too deeply"),
        ("a.jsonl", '{"text": ' + "1" * 5000, "a.jsonl:1: is not JSON: Exceeds the limit (4300 digits)"),
        ("a.jsonl", b'{"text": "\xff"}', "a.jsonl:1: is not UTF-8: byte 0xff"),
        ("a.md", "one", "a.md: must be a .txt, .tokens or .jsonl file"),
        ("a", "one", "a: must be a .txt, .tokens or .jsonl file"),
    ],
)
def test_bad_documents(here: Path, name: str, data: str | bytes, told: str) -> None:
    path = write(name, data)
    assert refusal(lambda: read_documents(path)).startswith(told)


def test_unreadable_files(here: Path) -> None:
    (here / "d.txt").mkdir()
    assert refusal(lambda: read_documents(Path("nope.txt"))) == "nope.txt: cannot be read: No such file or directory"
    assert refusal(lambda: read_documents(Path("d.txt"))) == "d.txt: cannot be read: Is a directory"


def test_lines_without_an_end(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST", 20)
    told = "a.txt:2: is longer than 20 bytes"
    assert refusal(lambda: read_documents(write("a.txt", "x\n" + "y" * 21))) == told
    assert refusal(lambda: read_documents(write("a.txt.gz", gzip.compress(b"x\n" + b"y" * 10**6)))) == (
        told.replace("txt", "txt.gz"))
    assert list(read_documents(write("a.txt", "x\n" + "y" * 19 + "\nz"))) == ["x " + "y" * 19 + " z"]


@pytest.mark.parametrize(("name", "head", "memory"), [("a.txt", b"", 500), ("a.jsonl", b'{"text": "', 500),
                                                      ("a.jsonl", b'{"text": "', 900)])
def test_a_line_that_memory_does_not_hold(here: Path, name: str, head: bytes, memory: int) -> None:
    """A small file whose one line is 300 MB: that is told, wherever the memory ends, be it when JSON is read."""
    with gzip.open(f"{name}.gz", "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(300):
            file.write(bytes(1_000_000).replace(b"\0", b"x"))
        file.write(b'"}' if head else b"")
    code = ("import resource, sys; from pathlib import Path; from mux.recipe.files import read_documents\n"
            "resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]) * 10**6,) * 2)\n"
            "list(read_documents(Path(sys.argv[1])))")
    done = subprocess.run([sys.executable, "-c", code, f"{name}.gz", str(memory)], capture_output=True,
                          text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert f"{name}.gz:1: is too long for the memory that is left" in done.stderr
    assert "MemoryError" not in done.stderr


# --- packed files ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_packed_documents_are_the_same(here: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    texts = "one \u2028 two\n\nthree\n"
    assert list(read_documents(write(f"a.txt{suffix}", pack(texts.encode())))) == ["one \u2028 two", "three"]
    assert list(read_documents(write(f"a.jsonl{suffix}", pack(b'{"text": "one"}')))) == ["one"]
    packed = pack(b"word\n" * 100_000)
    for name, data in (("short", packed[: len(packed) // 2]), ("foreign", b"not packed"),
                       ("spoilt", packed[:30] + b"\xff" * 40 + packed[70:])):
        path = write(f"{name}.txt{suffix}", data)
        assert refusal(lambda path=path: read_documents(path)).startswith(f"{path}: is damaged: "), name
    assert refusal(lambda: read_documents(write(f"a.txt{suffix}", pack(b"a\n\xff")))) == (
        f"a.txt{suffix}:2: is not UTF-8: byte 0xff")
    other = write(f"a.md{suffix}", pack(b"a"))
    assert refusal(lambda: read_documents(other)).startswith(f"a.md{suffix}: must be a .txt, .tokens or .jsonl")
