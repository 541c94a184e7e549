"""Live runs to inject faults into; what each cost is printed in a table at the end (tests.conftest)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.conftest import Run

ALONE = "tests/recipes/pretrain_alone.toml"
LONG = "--set=stages.pretrain.steps=100000"  # a run that is still going on when the fault comes


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
