"""Runs of the real command for tests: real processes, real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from tests.faults.ledger import Entry, steps_lost, table

FAULTS = pytest.StashKey[list[Entry]]()
ROOT = Path(__file__).parent.parent
COMMAND = [str(Path(sys.executable).parent / "mux-launch")]
TINY = "tests/recipes/tiny.toml"



def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="run the tests with the mark `thorough`, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longer half of the fault suite is for `make faults`; pytest counts what is left out as deselected."""
    if not config.getoption("--thorough"):
        longer = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=longer)
        items[:] = [item for item in items if item not in longer]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Enter faults that were injected into the table of what they cost."""
    report = yield
    mark = item.get_closest_marker("fault")
    if mark is not None and report.when == "call":
        runs = [value for value in item.funcargs.values() if isinstance(value, Run)]
        events = runs[0].events() if runs else []
        item.config.stash.setdefault(FAULTS, []).append(Entry(
            mark.args[0], f"{item.path.stem}: {item.name}".replace("test_", ""), report.passed,
            sum(event["event"] == "JobStarted" for event in events), steps_lost(events)))
    return report


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if entries := config.stash.get(FAULTS, None):
        terminalreporter.section("faults")
        for line in table(entries):
            terminalreporter.write_line(line)


# Of this process: tiny models are far slower where threads wait for each other on busy cores. Ranks have their own.
torch.set_num_threads(1)


class Run:
    """A run directory and the launches in it."""

    def __init__(self, path: Path, cache: Path) -> None:
        self.path = path
        self.environment = os.environ | {"MUX_CACHE": str(cache), "COLUMNS": "100"}

    def command(self, *options: str, recipe: str = TINY) -> list[str]:
        return [*COMMAND, recipe, "--plain", "--run-dir", str(self.path), *options]

    def launch(self, *options: str, recipe: str = TINY) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(self.command(*options, recipe=recipe), cwd=ROOT, env=self.environment,
                              capture_output=True, text=True, timeout=300)

    def start(self, *options: str, recipe: str = TINY) -> subprocess.Popen[str]:
        """Run in the background, with its output in <run>.out."""
        with open(f"{self.path}.out", "a") as output:
            return subprocess.Popen(self.command(*options, recipe=recipe), cwd=ROOT, env=self.environment,
                                    stdout=output, stderr=subprocess.STDOUT, text=True)

    def output(self) -> str:
        return Path(f"{self.path}.out").read_text()

    def events(self, *kinds: str) -> list[dict]:
        path = self.path / "events.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        events = []
        for line in lines:
            with suppress(ValueError):  # one that its writer was killed in
                events.append(json.loads(line))
        return [event for event in events if not kinds or event["event"] in kinds]

    def wait_for(self, what: Callable[[dict], bool], process: subprocess.Popen[str], seconds: float = 120) -> dict:
        """The first event that `what` is true of."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for event in self.events():
                if what(event):
                    return event
            assert process.poll() is None, f"ended with {process.returncode}:\n{self.output()}"
            time.sleep(0.02)
        raise AssertionError(f"not seen in {seconds} s:\n{self.output()}")

    def wait_for_a_step(self, process: subprocess.Popen[str]) -> None:
        """One after the first checkpoint, which is written in the background, so any number of steps may be before."""
        saved = self.wait_for(lambda event: event["event"] == "CheckpointSaved", process)
        self.wait_for(lambda event: event["event"] == "StepDone" and event["step"] >= saved["step"] + 2, process)

    def wait_for_events(self, kind: str, process: subprocess.Popen, more_than: int = 0, seconds: float = 120) -> None:
        """Wait until there are more events of a kind than so many."""
        until = time.monotonic() + seconds
        while len(self.events(kind)) <= more_than:
            assert process.poll() is None and time.monotonic() < until, f"{kind}: {len(self.events(kind))} seen"
            time.sleep(0.02)

    def losses(self, stage: str) -> dict[int, tuple]:
        """step -> (loss, grad norm), the last time the step was done."""
        return {event["step"]: (event["loss"], event["grad_norm"]) for event in self.events("StepDone")
                if event["stage"] == stage}

    def results(self) -> dict:
        return json.loads((self.path / "results.json").read_text())

    def stage(self, name: str) -> dict:
        return next(stage for stage in self.results()["stages"] if stage["id"] == name)

    def processes(self) -> list[psutil.Process]:
        """Everything alive whose command line names the run directory."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            if str(self.path) in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def parts(self) -> dict[str, list[psutil.Process]]:
        """The living processes of the run, by what they are: launcher, agent, rank."""
        modules = {"launcher.agent": "agent", "mux.worker": "rank"}
        found: dict[str, list[psutil.Process]] = {}
        for process in self.processes():
            words = process.info["cmdline"]
            module = words[words.index("-m") + 1] if "-m" in words[:4] else ""
            found.setdefault(modules.get(module, "launcher"), []).append(process)
        return found

    def ranks(self) -> list[psutil.Process]:
        """The rank processes, in rank order."""
        pids = [event["pid"] for event in sorted(self.events("RankStarted"), key=lambda event: event["rank"])]
        return [process for pid in pids for process in self.processes() if process.pid == pid]


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """One tokenizer and token store for all runs of a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path) -> Path:
    """Where `run` is; tests with a disk of their own have another one."""
    return tmp_path


@pytest.fixture
def variables() -> dict[str, str]:
    """What `run` finds in its environment besides; tests with hosts have others."""
    return {}


@pytest.fixture
def run(place, variables, cache):
    made = Run(place / "run", cache)
    made.environment |= variables
    yield made
    for process in made.processes():
        process.kill()


@pytest.fixture(scope="session")
def finished(tmp_path_factory, cache) -> Run:
    """The tiny recipe, run to its end once."""
    made = Run(tmp_path_factory.mktemp("finished") / "run", cache)
    done = made.launch()
    assert done.returncode == 0, done.stdout + done.stderr
    made.printed = done.stdout
    return made
