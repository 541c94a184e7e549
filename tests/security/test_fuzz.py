"""Whatever the bytes: readers answer with a value or with a refusal, soon, and write nothing.

Deterministic, so that a failure here is the same failure everywhere. An alarm ends what hangs.
"""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from launcher import hostfile, plan, start
from launcher.dashboard.display import Lines
from launcher.dashboard.folding import fold
from launcher.dashboard.screen import render
from launcher.dashboard.state import State
from launcher.directory import state_of
from mux import manifest
from mux.event import Event
from mux.journal import EventReader, decode, encode
from mux.plan import Plan
from mux.recipe import Refusal, load
from mux.report.results import read_run
from mux.run import RunDirectory
from tests.security.conftest import RECIPE, content_of

HANG_SECONDS = 10
FUZZ = settings(derandomize=True, deadline=None, max_examples=150, database=None,
                suppress_health_check=list(HealthCheck))


@contextmanager
def guard(folder: Path) -> Iterator[None]:
    """Ends what hangs, and sees that nothing has been written."""
    def hangs(number: int, frame: object) -> None:
        raise AssertionError(f"took more than {HANG_SECONDS} s")

    before = content_of(folder)
    earlier = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)
    assert content_of(folder) == before


def answer(what: Callable[[], Any], *refusals: type[Exception]) -> Any:
    """What it returns; None if it refuses, in printable text."""
    try:
        return what()
    except refusals as refused:
        said = str(refused)
        assert said and all(letter.isprintable() or letter == "\n" for letter in said), ascii(said)
        return None


# --- what files may hold ----------------------------------------------------------------------------------------
SCALARS = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
           | st.sampled_from([10**400, -1, 1e308, "\x1b[31m", "[bold]", "<script>", "\ud800", "../x", "\x00", ""]))
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4)
                      | st.dictionaries(st.text(max_size=10), inner, max_size=4), max_leaves=8)


@st.composite
def changed(draw: st.DrawFn, content: Any) -> Any:
    """JSON like a real one's, a few values of it replaced, taken out or put in."""
    made = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 4))):
        place = made
        while isinstance(place, dict | list) and place and draw(st.integers(0, 3)):
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or not place[key] or not draw(st.integers(0, 2)):
                if draw(st.booleans()):
                    place[key] = draw(VALUES)
                else:
                    del place[key]
                break
            place = place[key]
    return made


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes like real ones: cut, doubled, or with others put in."""
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
    known = st.sampled_from([b"\x00", b"\xff", b"[" * 3000, b"9" * 5000, b"\xef\xbb\xbf"])
    between = draw(st.binary(max_size=20) | known)
    return data[:start] + between + data[end if draw(st.booleans()) else start:]


# --- recipes, changes, hostfiles --------------------------------------------------------------------------------
@FUZZ
@given(damaged(RECIPE.encode()) | st.binary(max_size=300))
def test_recipes(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.toml").write_bytes(data)
    with guard(tmp_path):
        answer(lambda: planned(load(tmp_path / "x.toml"), tmp_path), Refusal)


LINES = RECIPE.split("\n")
TOML = st.sampled_from(["nan", "-inf", "1e400", "0x7fffffffffffffffffff", "[]", "{}", "[[]]", '""', "true", "0.5",
                        "1979-05-27", "{a = {b = []}}", '"\\u001b[31m"', '"\\u0000"', '"../x"', "-1", "0",
                        "999999999999", "'''x'''", '["path:/dev/zero"]', '"$(touch x)"', "[1, 2]", '"hub:a/b@c:d"',
                        '["topic", "topic"]'])


@FUZZ
@given(st.lists(st.tuples(st.integers(0, len(LINES) - 1), TOML), min_size=1, max_size=4),
       st.lists(st.integers(0, len(LINES) - 1), max_size=3))
def test_recipes_of_other_values(tmp_path: Path, changes: list[tuple[int, str]], dropped: list[int]) -> None:
    lines = list(LINES)
    for number, value in changes:
        lines[number] = f"{lines[number].partition('=')[0]}= {value}" if "=" in lines[number] else lines[number]
    (tmp_path / "x.toml").write_text("\n".join(line for number, line in enumerate(lines) if number not in dropped))
    with guard(tmp_path):
        answer(lambda: planned(load(tmp_path / "x.toml"), tmp_path), Refusal)


def planned(loaded: Any, folder: Path) -> Plan:
    return plan.make(loaded, hostfile.this_host(loaded.recipe.cluster.processes), folder / "run")


KEYS = st.sampled_from(["model.N", "stages.retrieval.steps", "stages", "a.b", '"a.b"', "''", "model.size.layers",
                        "x" * 99, "stages.finetune.search.batch", "tasks.define.x.train", "slurm.time", "health.spike"])


@FUZZ
@given(st.lists(st.tuples(KEYS, TOML | st.text(max_size=20)).map("=".join) | st.text(max_size=40), max_size=3))
def test_changes(tmp_path: Path, texts: list[str]) -> None:
    (tmp_path / "x.toml").write_text(RECIPE)
    with guard(tmp_path):
        answer(lambda: planned(load(tmp_path / "x.toml", texts), tmp_path), Refusal)


HOSTS = st.sampled_from(["a slots=1", "b slots=2 # x", "a:4", "c slots=2 max_slots=4", "-o slots=1", "a;b slots=1",
                         "\r", " ", "a\u200b slots=1", "a slots=0", "localhost slots=1", "127.0.0.1 slots=2",
                         "a slots=9999", "#"])


@FUZZ
@given(st.binary(max_size=200) | st.lists(HOSTS | st.text(max_size=30), max_size=5).map(
    lambda lines: "\n".join(lines).encode("utf-8", "replace")))
def test_hostfiles(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(data)
    with guard(tmp_path):
        cluster = answer(lambda: hostfile.read(path), Refusal)
    for host in cluster.hosts if cluster else ():
        assert hostfile.NAME.fullmatch(host.name) and 1 <= host.slots <= hostfile.MAX_SLOTS


# --- what a run holds -------------------------------------------------------------------------------------------
HOST_ROWS = [{"name": "a", "ranks": [0, 1]}]
STAGE_ROWS = [{"id": "pretrain", "kind": "pretrain", "steps": 8, "done": False},
              {"id": "finetune", "kind": "finetune", "steps": None, "done": False, "trainings": [
                  {"name": "topic/seed0", "task": "topic", "seed": 0, "learning_rate": 1e-3, "batch": 4, "steps": 4}]}]
SCORES = {"topic": {"metric": "accuracy", "mean": 0.5, "std": 0.1}}
RESULTS = [{"loss": 1.5, "accuracy": 0.5}, {"tasks": SCORES}, {"copies": {"2": {"tasks": SCORES}}},
           {"compositions": {"length": {"tasks": SCORES}}}, {"rows": [{"N": 2, "ratio_to_n1": 1.5}]},
           {"models": [{"name": "m", "layers": [{"mean_abs": 0.1, "attention_entropy": 1.5}]}]}]
SAMPLES = {"str": ["pretrain"], "int": [3], "float": [1.5], "bool": [True], "list[str]": [["pretrain"]],
           "dict[str, Any]": RESULTS}
NAMED = {("hosts", "list[dict[str, Any]]"): [HOST_ROWS], ("stages", "list[dict[str, Any]]"): [STAGE_ROWS]}


def samples(kind: type[Event]) -> Iterator[dict[str, Any]]:
    """Events of a kind as a run writes them."""
    options = {field.name: NAMED.get((field.name, str(field.type))) or SAMPLES[str(field.type).partition(" | ")[0]]
               for field in fields(kind)}
    for number in range(max(map(len, options.values()))):
        event = kind(**{name: values[number % len(values)] for name, values in options.items()})
        yield json.loads(encode(replace(event, host="a", rank=1)))


EVENTS = [event for kind in Event.kinds.values() for event in samples(kind)]


def test_samples_are_events() -> None:
    assert {event["event"] for event in EVENTS} == set(Event.kinds)
    assert all(decode(json.dumps(event)) is not None for event in EVENTS)


@FUZZ
@given(st.lists(st.sampled_from(EVENTS).flatmap(changed).map(written) | st.binary(max_size=80), max_size=6))
def test_events(tmp_path: Path, lines: list[bytes]) -> None:
    """No event of any content stops those who read, and none gets through to the terminal."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join([*map(written, EVENTS), *lines, b""]))
    out, state = StringIO(), State()
    shown = Lines(out)
    with guard(tmp_path):
        for event in EventReader(path).read():
            state = fold(state, event)
            shown.show(event)
        drawn = drawing(state)
    for text in (out.getvalue(), drawn):
        assert all(letter.isprintable() or letter == "\n" for letter in text), ascii(text)


def drawing(state: State) -> str:
    out = StringIO()
    Console(file=out, width=100, height=40, color_system=None).print(render(state, 2e9, 100, 40))
    return out.getvalue()


MANIFEST = manifest.Manifest(step=3, time=1.5, recipe_digest="d", stage="s", world_size=2, zero_stage=1,
                             precision="fp32", rng="seeded", progress={"instances": 3},
                             files={"a.pt": manifest.FileEntry(bytes=1, sha256="0" * 64)})


@FUZZ
@given(st.data())
def test_manifests(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "checkpoints" / "step_00000003"
    folder.mkdir(parents=True, exist_ok=True)
    manifest.write(folder, MANIFEST)
    whole = (folder / manifest.MANIFEST).read_bytes()
    (folder / "a.pt").write_bytes(b"x")
    (folder / manifest.MANIFEST).write_bytes(
        data.draw(damaged(whole) | changed(json.loads(whole)).map(written) | st.binary(max_size=99)))
    with guard(tmp_path):
        read = answer(lambda: manifest.read(folder), manifest.InvalidCheckpoint)
        assert answer(lambda: manifest.verify(folder), manifest.InvalidCheckpoint) is None
        assert manifest.steps(folder.parent) == [3]
    assert read is None or read == MANIFEST  # it is sealed


@pytest.fixture(scope="session")
def finished_files(finished) -> dict[str, bytes]:
    return {name: (finished.path / name).read_bytes() for name in ("results.json", "plan.json", "environment.json")}


@pytest.mark.processes
@FUZZ
@given(st.data())
def test_results_and_plans(tmp_path: Path, finished_files: dict[str, bytes], data: st.DataObject) -> None:
    """As `mux runs show`, `mux report` and the next start read them."""
    for name, content in finished_files.items():
        (tmp_path / name).write_bytes(content)
    name = data.draw(st.sampled_from(sorted(finished_files)))
    content = finished_files[name]
    (tmp_path / name).write_bytes(data.draw(damaged(content) | changed(json.loads(content)).map(written)))
    run = RunDirectory(tmp_path)
    with guard(tmp_path):
        answer(lambda: start.print_summary(run), Refusal, ValueError)
        answer(lambda: read_run(tmp_path), ValueError)
        answer(lambda: state_of(run, Plan.model_validate_json(finished_files["plan.json"]), "auto", False), Refusal)
