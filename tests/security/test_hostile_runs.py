"""Run directories that someone else has filled: what looks at them shows text, and nothing that acts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run
from tests.security.conftest import HANG_SECONDS, MUX

pytestmark = pytest.mark.processes

HOSTILE = "x\x1b]0;title\x07\x1b[31m\u202e[link=http://evil]y[/link]<script>alert(1)</script>\"'><img src=x onerror=z>"


def poisoned(value: Any, keep: tuple[str, ...] = ()) -> Any:
    """Every text and every key of a table of names, made hostile; `keep`: keys whose values programs rely on."""
    if isinstance(value, dict):
        return {key: inner if key in keep else poisoned(inner, keep) for key, inner in value.items()}
    if isinstance(value, list):
        return [poisoned(inner, keep) for inner in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) else value


@pytest.fixture(scope="module")
def hostile(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "run"
    shutil.copytree(finished.path, folder)
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(poisoned(results, ("kind", "status", "id", "model"))))
    plan = json.loads((folder / "plan.json").read_text())
    plan["cluster"]["source"] += HOSTILE
    plan["name"] += HOSTILE
    (folder / "plan.json").write_text(json.dumps(plan))
    lines = (folder / "events.jsonl").read_text().splitlines()
    events = [poisoned(json.loads(line), ("event", "stage", "id", "kind")) for line in lines]
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    return folder


def shown(*words: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([MUX, *map(str, words)], capture_output=True, timeout=HANG_SECONDS, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("words", [["runs", "show"], ["watch", "--replay", "--plain"], ["runs", "verify"]])
def test_what_is_printed_is_text(hostile: Path, words: list[str]) -> None:
    done = shown(*words, hostile)
    text = done.stdout + done.stderr
    assert len(text) > 100 and all(letter.isprintable() or letter == "\n" for letter in text), ascii(text)
    assert words == ["runs", "verify"] or "[link=http" in text  # as it stands there: markup, too, is text


def test_lists_and_comparisons_are_text(hostile: Path, finished: Run) -> None:
    for words in (["runs", "ls", hostile.parent], ["runs", "diff", hostile, finished.path],
                  ["choose", hostile, "--accuracy", "0"]):
        done = shown(*words)
        assert all(letter.isprintable() or letter == "\n" for letter in done.stdout + done.stderr), ascii(done.stdout)


class Page(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))


def test_the_report_acts_on_nothing(hostile: Path, finished: Run, tmp_path: Path) -> None:
    """It has the same elements as that of the sound run: names have become text, and none an element."""
    pages = {}
    for name, run in (("hostile", hostile), ("sound", finished.path)):
        done = shown("report", run, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        pages[name] = Page((tmp_path / name / "index.html").read_text())
    kinds = [{tag for tag, _ in page.elements} for page in pages.values()]
    assert kinds[0] <= kinds[1] and "h1" in kinds[0]
    attributes = [attribute for _, found in pages["hostile"].elements for attribute in found]
    assert not [attribute for attribute in attributes if attribute.startswith("on")]
    scripts = [sum(tag == "script" for tag, _ in page.elements) for page in pages.values()]
    assert scripts[0] == scripts[1]
    for text in texts_of(tmp_path / "hostile"):
        assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
        assert not re.search(r"(?<!\\)<(script>alert|img src=x)", text)  # markdown escapes with a backslash


def texts_of(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.suffix in (".html", ".svg", ".md"):
            yield path.read_text()


@pytest.mark.parametrize(("name", "content"), [
    ("results.json", "[" * 100_000), ("results.json", "[]"), ("results.json", '{"schema": 1}'),
    ("results.json", "\x00"),
    ("results.json", '{"schema": 1, "name": "\x1b[31m", "status": "done", "stages": [{"id": 3}]}'),
    ("plan.json", "[]"), ("plan.json", "[" * 100_000), ("plan.json", '{"stages": "\\u001b[31m"}'),
])
def test_files_of_another_shape_are_refused_in_words(finished: Run, tmp_path: Path, name: str, content: str) -> None:
    for file in ("plan.json", "results.json", "events.jsonl"):
        shutil.copy(finished.path / file, tmp_path / file)
    (tmp_path / name).write_text(content)
    for words in (["runs", "show", tmp_path], ["export", tmp_path, tmp_path / "out"],
                  ["report", tmp_path, "--out", tmp_path / "report"]):
        done = shown(*words)
        assert done.returncode in (1, 2) and str(tmp_path) in done.stderr, (words, done.stdout, done.stderr)
        assert all(letter.isprintable() or letter == "\n" for letter in done.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.jsonl", "plan.json", "results.json"]
    assert shown("runs", "ls", tmp_path.parent).returncode == 0
