"""The formats of rows, to the line."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mux.recipe.rows import LeftOut, read_rows
from tests.mux.recipe.given import refusal, write


@pytest.mark.parametrize(
    ("name", "data", "rows"),
    [
        ("a.tsv", 'text\tlabel\r\na "b\t1\r\n\t2\n', [{"text": 'a "b', "label": "1"}, {"text": "", "label": "2"}]),
        ("a.csv", 'text,label\n"a, ""b""\nc",1\n\nd,2\n', [{"text": 'a, "b"\nc', "label": "1"},
                                                        {"text": "d", "label": "2"}]),
        ("a.jsonl", '{"text": "x", "label": 1}\n', [{"text": "x", "label": 1}]),
        ("a.csv", b"\xef\xbb\xbftext\nx\n", [{"text": "x"}]),
        ("a.csv", "text\n" + "x" * 200_000, [{"text": "x" * 200_000}]),
        ("a.tsv", "text\n", []),
    ],
)
def test_rows(here: Path, name: str, data: str | bytes, rows: list[dict[str, Any]]) -> None:
    assert list(read_rows(write(name, data))) == rows


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.tsv", "text\tlabel\na\t1\nb\n", "a.tsv:3: has 1 values, the first line names 2 columns"),
        ("a.csv", 'text,label\n"a\nb",1\nb,2,3\n', "a.csv:4: has 3 values, the first line names 2 columns"),
        ("a.csv", 'text,label\n"a"x,1\n', "a.csv:2: is not CSV: "),
        ("a.csv", 'text\n"a\nb\n', "a.csv:3: is not CSV: unexpected end of data"),
        ("a.tsv", "a\tb\ta\n", "a.tsv:1: names a column twice: a, b, a"),
        ("a.tsv", "", "a.tsv: is empty: the first line must name the columns"),
        ("a.csv", b"a\n\xff\n", "a.csv:2: is not UTF-8: byte 0xff"),
        ("a.jsonl", '{"label": NaN}', "a.jsonl:1: is not JSON: NaN is no number of JSON"),
        ("a.txt", "x", "a.txt: must be a .jsonl, .tsv, .csv, .conll or .conllu file"),
    ],
)
def test_bad_rows(here: Path, name: str, data: str | bytes, told: str) -> None:
    path = write(name, data)
    assert refusal(lambda: read_rows(path)).startswith(told)


def test_a_file_that_is_not_there(here: Path) -> None:
    assert refusal(lambda: read_rows(Path("nope.tsv"))) == "nope.tsv: cannot be read: No such file or directory"


# --- tables ---------------------------------------------------------------------------------------------------
ODD = 'a "quoted\u00a0word\u2028\u2029\x85\x0b\x0c\x1c end'  # str.splitlines would cut it into pieces


def test_quotes_and_odd_characters_of_tsv_survive(here: Path) -> None:
    path = write("a.tsv", f'text\tlabel\n{ODD}\t1\n"\t0\n""x"" "\t1\n')
    assert [row["text"] for row in read_rows(path)] == [ODD, '"', '""x"" "']
    path = write("a.csv", f'text,label\n"{ODD.replace(chr(34), chr(34) * 2)}",1\n')
    assert [row["text"] for row in read_rows(path)] == [ODD]


def test_columns_are_named_where_no_first_line_does(here: Path) -> None:
    path = write("a.tsv", "gj04\t1\t\tOne.\ngj04\t0\t*\tTwo.\n")
    names = ("source", "label", "mark", "sentence")
    assert list(read_rows(path, columns=names)) == [
        {"source": "gj04", "label": "1", "mark": "", "sentence": "One."},
        {"source": "gj04", "label": "0", "mark": "*", "sentence": "Two."}]
    assert refusal(lambda: read_rows(path, columns=names[:3])) == "a.tsv:1: has 4 values, the task names 3 columns"
    assert list(read_rows(write("a.csv", "a,1\n"), columns=("x", "y"))) == [{"x": "a", "y": "1"}]


def test_some_broken_lines_are_left_out_and_counted(here: Path) -> None:
    path = write("a.tsv", "a\tb\n1\t2\nhalf\n3\t4\nx\ty\tz\n")
    left_out = LeftOut(2)
    assert [row["a"] for row in read_rows(path, left_out=left_out)] == ["1", "3"]
    assert left_out.places == ["a.tsv:3", "a.tsv:5"]
    assert refusal(lambda: read_rows(path, left_out=LeftOut(1))) == (
        "a.tsv:5: has 3 values, the first line names 2 columns")


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, lzma.compress])
def test_the_format_is_the_suffix_or_what_is_said(here: Path, pack: Callable[[bytes], bytes]) -> None:
    suffix = {gzip.compress: ".gz", lzma.compress: ".xz"}.get(pack, "")
    assert list(read_rows(write(f"a.tsv{suffix}", pack(b"a\nb\n")))) == [{"a": "b"}]
    assert list(read_rows(write(f"a.txt{suffix}", pack(b"a\nb\n")), "csv")) == [{"a": "b"}]
    assert list(read_rows(write(f"b{suffix}", pack(b"Ada B-PER\n")), "conll")) == [
        {"tokens": ["Ada"], "labels": ["B-PER"]}]


# --- words in columns -----------------------------------------------------------------------------------------
CONLL = """\
-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

-DOCSTART- -X- -X- O
\t
Peter\tNNP B-NP B-PER
a\u00a0b NN I-NP I-PER
"""


def test_conll(here: Path) -> None:
    for data in (CONLL, CONLL.replace("\n", "\r\n"), CONLL.rstrip()):
        assert list(read_rows(write("a.conll", data))) == [
            {"tokens": ["EU", "rejects"], "labels": ["B-ORG", "O"]},
            {"tokens": ["Peter", "a\u00a0b"], "labels": ["B-PER", "I-PER"]}]
    assert list(read_rows(write("a.conll", "\n\n-DOCSTART- O\n\n"))) == []


CONLLU = """\
# newdoc id = x
# text = He doesn't.
1\tHe\the\tPRON\tPRP\t_\t2\tnsubj\t_\t_
2-3\tdoesn't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdoes\tdo\tAUX\tVBZ\t_\t0\troot\t_\t_
3\tn't\tnot\tPART\tRB\t_\t2\tadvmod\t_\t_
3.1\tgo\tgo\tVERB\tVB\t_\t_\t_\t2:conj\t_

# text = # 1 000
1\t#\t#\tSYM\t#\t_\t0\troot\t_\t_
2\t1 000\t1 000\tNUM\tCD\t_\t1\tnummod\t_\t_
"""


def test_conllu(here: Path) -> None:
    first, second = read_rows(write("a.conllu", CONLLU))
    assert first["form"] == ["He", "does", "n't"] and first["upos"] == ["PRON", "AUX", "PART"]
    assert first["xpos"] == ["PRP", "VBZ", "RB"] and first["id"] == ["1", "2", "3"]
    assert second["form"] == ["#", "1 000"]


@pytest.mark.parametrize(("name", "data", "told"), [
    ("a.conll", "EU B-ORG\nrejects\n", "a.conll:2: has 1 of 2 columns"),
    ("a.conll", "EU B-ORG\n\nin the O\n", "a.conll:3: has 3 of 2 columns"),
    ("a.conll", "EU\n", "a.conll:1: has 1 of 2 columns"),
    ("a.conll", b"EU O\n\xff O\n", "a.conll:2: is not UTF-8: byte 0xff"),
    ("a.conllu", "# x\n1\tHe\the\tPRON\n", "a.conllu:2: has 4 of 10 columns"),
    ("a.conllu", "1 He he PRON PRP _ 2 nsubj _ _\n", "a.conllu:1: has 1 of 10 columns\n    columns are parted"),
])
def test_bad_words(here: Path, name: str, data: str | bytes, told: str) -> None:
    path = write(name, data)
    assert refusal(lambda: read_rows(path)).startswith(told)
