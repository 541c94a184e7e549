"""SIGKILL of every part of a run in mid-step."""

import signal

import pytest

from tests.conftest import Run
from tests.faults.conftest import ALONE, gone_within

pytestmark = [pytest.mark.processes, pytest.mark.fault("SIGKILL in a step")]


@pytest.mark.parametrize("whom", [
    "agent", "launcher", pytest.param("rank", marks=pytest.mark.thorough)])
def test_kill(run: Run, undisturbed, whom: str) -> None:
    """Not exit status 0, nothing left after 10 s, and the next start ends in the losses of an undisturbed run."""
    process = run.start(recipe=ALONE)
    run.wait_for_a_step(process)
    (process if whom == "launcher" else run.parts()[whom][-1]).send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == (-signal.SIGKILL if whom == "launcher" else 1), run.output()
    gone_within(run, 10)
    assert whom == "launcher" or run.results()["status"] == "failed"
    again = run.launch(recipe=ALONE)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "from step" in again.stdout
    assert run.losses("pretrain") == undisturbed()
    assert run.events()[-1]["event"] == "RunFinished"


@pytest.mark.parametrize("zero_stage", [
    pytest.param(0, marks=pytest.mark.thorough), pytest.param(2, marks=pytest.mark.thorough), 3])
def test_kill_everything(run: Run, undisturbed, zero_stage: int) -> None:
    """All processes at once, with the other ZeRO stages."""
    option = f"--set=engine.zero_stage={zero_stage}"
    process = run.start(option, recipe=ALONE)
    run.wait_for_a_step(process)
    for victim in run.processes():
        victim.kill()
    process.wait()
    again = run.launch(option, recipe=ALONE)
    assert again.returncode == 0, again.stdout + again.stderr
    assert run.losses("pretrain") == undisturbed(option)


def test_restarts_as_often_as_the_recipe_says(run: Run, undisturbed) -> None:
    """The end of the surviving rank, which its agent sees to, must not count as a stop that someone asked for."""
    process = run.start("--set=cluster.max_restarts=1", recipe=ALONE)
    run.wait_for_a_step(process)
    run.ranks()[1].kill()
    assert process.wait(timeout=120) == 0, run.output()
    assert [event["attempt"] for event in run.events("JobStarted")] == [1, 2]
    assert [(event["kind"], event["by"]) for event in run.events("JobFailed")] == [("killed", 1)]
    assert [(event["rank"], event["code"]) for event in run.events("RankEnded")][:1] == [(1, -signal.SIGKILL)]
    assert [(event["failures"], event["most"]) for event in run.events("Restarting")] == [(1, 1)]
    assert run.losses("pretrain") == undisturbed()
