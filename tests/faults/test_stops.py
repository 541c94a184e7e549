"""SIGTERM and SIGUSR1, to the launcher and to one rank, whatever the run is doing."""

import signal
import time

import pytest

from tests.conftest import TINY, Run
from tests.faults.conftest import ALONE, LONG, gone_within

pytestmark = [pytest.mark.processes, pytest.mark.fault("SIGTERM, SIGUSR1")]

SLOW_EVALUATION = ("--set=stages.retrieval.steps=2", "--set=stages.pretrain.steps=2", "--set=stages.finetune.steps=2",
                   "--set=stages.pretrain.warmup_steps=1", "--set=stages.finetune.tickets=1000")
SLOW_SAVES = (LONG, "--set=model.size={layers = 2, hidden = 256, heads = 4, intermediate = 1024}",
              "--set=stages.pretrain.save_every=1")


def a_step(event: dict) -> bool:
    return event["event"] == "StepDone" and event["step"] >= 2


def a_save(event: dict) -> bool:
    return event["event"] == "CheckpointSaved"  # with save_every = 1 the next one is being written already


def an_evaluation(event: dict) -> bool:
    return event["event"] == "Progress" and "evaluating topic" in event["what"]


def data_preparation(event: dict) -> bool:
    return event["event"] == "Progress" and event["stage"] == "pretrain"


@pytest.mark.parametrize(("number", "whom", "during", "recipe", "options"), [
    (signal.SIGTERM, "launcher", a_step, ALONE, (LONG,)),
    (signal.SIGUSR1, "rank", a_step, ALONE, (LONG,)),
    pytest.param(signal.SIGUSR1, "launcher", a_step, ALONE, (LONG,), marks=pytest.mark.thorough),
    pytest.param(signal.SIGTERM, "rank", a_step, ALONE, (LONG,), marks=pytest.mark.thorough),
    (signal.SIGTERM, "launcher", a_save, ALONE, SLOW_SAVES),
    pytest.param(signal.SIGUSR1, "rank", a_save, ALONE, SLOW_SAVES, marks=pytest.mark.thorough),
    (signal.SIGUSR1, "launcher", an_evaluation, TINY, SLOW_EVALUATION),
    pytest.param(signal.SIGTERM, "rank", an_evaluation, TINY, SLOW_EVALUATION, marks=pytest.mark.thorough),
    pytest.param(signal.SIGTERM, "launcher", data_preparation, ALONE, (LONG,), marks=pytest.mark.thorough),
    pytest.param(signal.SIGUSR1, "rank", data_preparation, ALONE, (LONG,), marks=pytest.mark.thorough),
], ids=lambda value: value.name if isinstance(value, signal.Signals) else getattr(value, "__name__", None))
def test_stop(run: Run, tmp_path, number, whom, during, recipe, options) -> None:
    """One agreed checkpoint and exit status 75; the same command goes on."""
    if during is data_preparation:
        run.environment["MUX_CACHE"] = str(tmp_path / "cache")  # an empty one: there is something to prepare
    process = run.start(*options, recipe=recipe)
    run.wait_for(during, process)
    (process if whom == "launcher" else run.parts()["rank"][-1]).send_signal(number)
    assert process.wait(timeout=90) == 75, run.output()
    gone_within(run, 10)
    assert run.events()[-1]["event"] == "RunStopped" and run.results()["status"] == "stopped"
    if during in (a_step, a_save):
        stopped = run.events("StopAgreed")
        assert len(stopped) == 1 and run.events("CheckpointSaved")[-1]["step"] == stopped[0]["step"]
        assert (run.path / "pretrain/checkpoints/latest").read_text() == f"step_{stopped[0]['step']:08d}\n"


def test_a_second_sigterm_during_the_save(run: Run) -> None:
    """It changes nothing: the checkpoint is whole, and so is the one before it."""
    process = run.start(*SLOW_SAVES, recipe=ALONE)
    run.wait_for(a_save, process)
    for _ in range(20):  # before, during and after the save
        process.send_signal(signal.SIGTERM)
        for rank in run.parts().get("rank", ()):
            rank.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        if process.poll() is not None:
            break
    assert process.wait(timeout=90) == 75, run.output()
    step = run.events("StopAgreed")[-1]["step"]
    again = run.start(*SLOW_SAVES, recipe=ALONE)
    started = run.wait_for(lambda event: event["event"] == "StageStarted" and event["from_step"], again)
    assert started["from_step"] == step
    again.send_signal(signal.SIGTERM)
    assert again.wait(timeout=90) == 75, run.output()
