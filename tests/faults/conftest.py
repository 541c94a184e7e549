"""Faults are injected into live runs; what each cost is printed in a table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.conftest import Run
from tests.faults.ledger import Entry, steps_lost, table

ALONE = "tests/recipes/pretrain_alone.toml"
LONG = "--set=stages.pretrain.steps=100000"  # a run that is still going on when the fault comes
ENTRIES = pytest.StashKey[list[Entry]]()
PASSED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ENTRIES] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture(autouse=True)
def _entered(request):
    """Enter the fault into the table when its test is over."""
    yield
    mark = request.node.get_closest_marker("fault")
    run = request.node.funcargs.get("run")
    if mark is None or PASSED not in request.node.stash:
        return
    events = run.events() if isinstance(run, Run) else []
    request.config.stash[ENTRIES].append(Entry(
        mark.args[0], request.node.name.removeprefix("test_"), request.node.stash[PASSED],
        sum(event["event"] == "JobStarted" for event in events), steps_lost(events)))


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if config.stash[ENTRIES]:
        terminalreporter.section("faults")
        for line in table(config.stash[ENTRIES]):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, cache) -> Callable[..., dict]:
    """(loss, gradient norm) by step of the pre-training stage of runs that nothing happened to, by their options."""
    known: dict[tuple[str, ...], dict] = {}

    def losses(*options: str) -> dict:
        if options not in known:
            made = Run(tmp_path_factory.mktemp("undisturbed") / "run", cache)
            done = made.launch(*options, recipe=ALONE)
            assert done.returncode == 0, done.stdout + done.stderr
            known[options] = made.losses("pretrain")
        return known[options]

    return losses


def gone_within(run: Run, seconds: float) -> None:
    """No process of the run is alive `seconds` from now."""
    until = time.monotonic() + seconds
    while run.processes() and time.monotonic() < until:
        time.sleep(0.1)
    left = run.processes()
    assert not left, [(process.pid, process.cmdline()) for process in left]
