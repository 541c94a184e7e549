"""SIGKILL of every part of a run, in mid-step and while a checkpoint is written."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.faults.conftest import ALONE, gone_within

pytestmark = [pytest.mark.processes, pytest.mark.fault("SIGKILL")]

# Wide enough for its shards to take a moment to write.
WIDE = "--set=model.size={layers = 2, hidden = 256, heads = 4, intermediate = 1024}"
TRIES = 12
MANIFEST = "manifest.json"
thorough = pytest.mark.thorough


def in_a_step(run: Run, process) -> Callable[[], bool]:
    """In a step after the first checkpoint."""
    run.wait_for(lambda event: event["event"] == "StepDone" and event["step"] >= 7, process)
    return lambda: True


def in_a_save(run: Run, process) -> Callable[[], bool]:
    """While shards are written; the function says whether what is on disk shows it."""
    watch(run, process, lambda part: True)
    return lambda: any(MANIFEST not in names for names in parts(run).values())


def between_shards_and_manifest(run: Run, process) -> Callable[[], bool]:
    """When both ranks have written all they have to write, and nothing is committed yet."""

    def whole(names: list[str]) -> bool:
        written = [name for name in names if name.startswith(".rank_") and name.endswith(".json")]
        return len(written) == 2 and MANIFEST not in names

    watch(run, process, whole)
    return lambda: any(whole(names) for names in parts(run).values())


def parts(run: Run) -> dict[Path, list[str]]:
    """What is being written of checkpoints after the first: folder -> names of files."""
    found = {}
    for part in (run.path / "pretrain/checkpoints").glob("step_*.part"):
        try:
            found[part] = os.listdir(part)
        except FileNotFoundError:  # renamed in this moment
            continue
    return found if run.events("CheckpointSaved") else {}


def watch(run: Run, process, wanted: Callable[[list[str]], bool]) -> None:
    until = time.monotonic() + 120
    while not any(wanted(names) for names in parts(run).values()):
        assert process.poll() is None and time.monotonic() < until, run.output()


@pytest.mark.parametrize(("whom", "moment"), [
    ("rank", in_a_step),
    pytest.param("node", in_a_step, marks=thorough),
    ("agent", in_a_step),
    ("launcher", in_a_step),
    pytest.param("rank", in_a_save, marks=thorough),
    pytest.param("node", in_a_save, marks=thorough),
    pytest.param("agent", in_a_save, marks=thorough),
    ("launcher", in_a_save),
    pytest.param("rank", between_shards_and_manifest, marks=thorough),
    pytest.param("launcher", between_shards_and_manifest, marks=thorough),
], ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_kill(run: Run, undisturbed, whom: str, moment) -> None:
    """Not exit status 0, nothing left after 10 s, and the next start ends in the losses of an undisturbed run."""
    for _ in range(TRIES):
        process = run.start(WIDE, "--set=stages.pretrain.steps=60", recipe=ALONE)
        caught = moment(run, process)
        victims = [process] if whom == "launcher" else run.parts()[whom][-1:]
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        assert process.wait(timeout=40) == (-9 if whom == "launcher" else 1), run.output()
        gone_within(run, 10)
        if caught():
            break
    else:
        raise AssertionError(f"{TRIES} kills missed the moment")
    again = run.launch(WIDE, recipe=ALONE)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "from step" in again.stdout
    assert run.losses("pretrain") == undisturbed(WIDE)
    assert not parts(run), "what never became a checkpoint is gone"


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_kill_everything(run: Run, undisturbed, zero_stage: int) -> None:
    """All processes at once, with the other ZeRO stages."""
    option = f"--set=engine.zero_stage={zero_stage}"
    process = run.start(option, recipe=ALONE)
    in_a_step(run, process)
    for victim in run.processes():
        victim.kill()
    process.wait()
    again = run.launch(option, recipe=ALONE)
    assert again.returncode == 0, again.stdout + again.stderr
    assert run.losses("pretrain") == undisturbed(option)


def test_restarts_as_often_as_the_recipe_says(run: Run, undisturbed) -> None:
    """SIGTERM to the surviving rank, from its node's launcher, must not count as a stop that someone asked for."""
    process = run.start("--set=cluster.max_restarts=1", recipe=ALONE)
    in_a_step(run, process)
    run.ranks()[1].kill()
    assert process.wait(timeout=120) == 0, run.output()
    assert [event["attempt"] for event in run.events("JobStarted")] == [1, 2]
    assert [(event["kind"], event["by"]) for event in run.events("JobFailed")] == [("killed", 1)]
    assert [(event["failures"], event["most"]) for event in run.events("Restarting")] == [(1, 1)]
    assert run.losses("pretrain") == undisturbed()
