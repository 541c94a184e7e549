"""A grid x seeds as jobs of one device each: packed over the devices, resumable one by one, chosen on rows held out."""

import json
import os
import signal
import statistics

import pytest

from mux.data.tasks import load_task
from mux.recipe.tasks import TASKS
from tests.conftest import Run

pytestmark = pytest.mark.processes

GRID = (
    "--set", "stages.finetune.seeds=[0, 1]", "--set", "stages.finetune.steps=40",
    "--set", "stages.finetune.save_every=2",
    "--set", "stages.finetune.search={learning_rate = [1e-3, 1e-5], held_out = 0.25}",
)
NAMES = {f"topic/seed{seed}_lr{rate}_batch4" for seed in (0, 1) for rate in ("0.001", "1e-05")}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, cache):
    """The grid on two devices, never disturbed."""
    made = Run(tmp_path_factory.mktemp("grid") / "run", cache)
    made.environment["OMP_NUM_THREADS"] = "1"
    done = made.launch(*GRID)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def test_trainings_share_the_devices(tuned):
    jobs = [event for event in tuned.events("JobStarted") if event["stages"] == ["finetune"]]
    assert [event["hosts"][0]["ranks"] for event in jobs] == [[0], [1]]
    started = {event["training"]: event["rank"] for event in tuned.events("TrainingStarted")}
    assert set(started) == NAMES and sorted(started.values()) == [0, 0, 1, 1]
    ended = [event["time"] for event in tuned.events("JobEnded")]
    assert jobs[1]["time"] < min(time for time in ended if time > jobs[0]["time"]), "they ran at the same time"
    announced = tuned.events("RunStarted")[0]["stages"][2]["trainings"]
    assert {training["name"] for training in announced} == NAMES


def test_the_best_point_is_chosen_on_rows_that_none_trained_on(tuned):
    entry = tuned.stage("finetune")["tasks"]["topic"]
    assert entry["chosen"]["on"] == "held-out train rows (25 %)"
    results = {name: json.loads((tuned.path / "finetune/topic/trainings" / f"{name.split('/')[1]}.json").read_text())
               for name in NAMES}
    means = {rate: statistics.fmean(results[name]["choice"]["mean"] for name in sorted(NAMES) if f"_lr{rate}_" in name)
             for rate in ("0.001", "1e-05")}
    assert {point["learning_rate"]: point["mean"] for point in entry["search"]} == {
        float(rate): mean for rate, mean in means.items()}
    best = max(means, key=means.__getitem__)
    assert entry["chosen"]["learning_rate"] == float(best)
    assert entry["seeds"] == {seed: results[f"topic/seed{seed}_lr{best}_batch4"]["scores"]["mean"] for seed in "01"}
    first = results[f"topic/seed0_lr{best}_batch4"]["scores"]
    assert (entry["mean"], entry["tickets"]) == (first["mean"], first["tickets"]), "the first seed's model is kept"
    whole = len(load_task("topic", TASKS["topic"]).train)
    held_out = whole - entry["train_rows"]
    assert held_out == round(0.25 * whole)
    for result in results.values():  # a mean over two tickets of shares of these rows, and of no others
        right = 2 * held_out * result["choice"]["mean"]
        assert right == pytest.approx(round(right), abs=1e-6) and result["choice"]["mean"] != result["scores"]["mean"]
    assert (tuned.path / entry["model"] / "model.safetensors").is_file()
    assert not list((tuned.path / "finetune/topic/trainings").glob("*/")), "the models of the others are gone"


def test_killed_and_resumed_training_by_training(run, tuned):
    run.environment["OMP_NUM_THREADS"] = "1"
    process = run.start(*GRID)
    run.wait_for(lambda event: event["event"] == "TrainingDone", process)
    process.kill()
    process.wait()
    before = [event["training"] for event in run.events("TrainingDone")]
    done = run.launch(*GRID)
    assert done.returncode == 0, done.stdout + done.stderr
    finished = [event["training"] for event in run.events("TrainingDone")]
    assert sorted(finished) == sorted(NAMES), "none was done twice"
    again = [event["training"] for event in run.events("TrainingStarted")][-(len(NAMES) - len(before)):]
    assert not set(again) & set(before)
    assert comparable(run) == comparable(tuned)


def test_one_device_gives_the_same_numbers(run, tuned):
    run.environment["OMP_NUM_THREADS"] = "1"
    done = run.launch(*GRID, "--stages", "finetune", "--set", "cluster.processes=1",
                      "--set", f'stages.finetune.from="path:{tuned.path / "pretrain/model"}"')
    assert done.returncode == 0, done.stdout + done.stderr
    assert [event["stages"] for event in run.events("JobStarted")] == [["finetune"]]
    assert comparable(run) == comparable(tuned)


def test_a_lost_device_ends_the_run_and_the_others_save(run, tuned):
    run.environment["OMP_NUM_THREADS"] = "1"
    process = run.start(*GRID, "--set", "stages.finetune.steps=4000", "--set", "stages.finetune.log_every=1")
    run.wait_for(lambda event: event["event"] == "StepDone" and event["stage"] == "finetune" and event["rank"] == 1,
                 process)
    run.wait_for(lambda event: event["event"] == "StepDone" and event["stage"] == "finetune" and event["rank"] == 0,
                 process)
    lost = max((event for event in run.events("RankStarted") if event["rank"] == 1), key=lambda event: event["time"])
    os.kill(lost["pid"], signal.SIGKILL)
    assert process.wait(120) == 1
    assert run.events("RunFailed")
    assert run.events("StopAgreed")[-1]["rank"] == 0
    assert not run.processes()
    stopped = run.events("StopAgreed")[-1]["step"]
    process = run.start(*GRID, "--set", "stages.finetune.steps=4000", "--set", "stages.finetune.log_every=1")
    resumed = run.wait_for(lambda event: event["event"] == "TrainingStarted" and event["rank"] == 0
                           and event["from_step"] > 0, process)
    assert resumed["from_step"] == stopped
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 75


def test_a_failure_does_not_cancel_a_stop(run, tuned):
    """One rank is told to stop; another one fails before it hears of it, and is not started again."""
    run.environment["OMP_NUM_THREADS"] = "1"
    process = run.start(*GRID, "--stages", "finetune", "--set", "cluster.processes=3",
                        "--set", "stages.retrieval.batch=3", "--set", "stages.pretrain.batch=3",
                        "--set", f'stages.finetune.from="path:{tuned.path / "pretrain/model"}"',
                        "--set", "stages.finetune.steps=100000", "--set", "stages.finetune.log_every=1",
                        "--set", "cluster.max_restarts=3")
    for rank in range(3):
        run.wait_for(lambda event, rank=rank: event["event"] == "StepDone" and event["rank"] == rank, process)
    fails, told, hears_later = run.ranks()
    for rank in (fails, hears_later):
        rank.suspend()
    told.terminate()
    run.wait_for(lambda event: event["event"] == "JobEnded", process)
    fails.kill()
    run.wait_for(lambda event: event["event"] == "JobEnded" and event["code"] != 0, process)
    hears_later.resume()
    assert process.wait(60) == 75, run.output()
    assert sorted(event["rank"] for event in run.events("StopAgreed")) == [1, 2]
    assert len(run.events("JobStarted")) == 3 and "starting again" not in run.output()
    assert "not started again" in run.output() and not run.processes()


def comparable(run: Run) -> dict:
    """What does not depend on when and where."""
    entry = run.stage("finetune")["tasks"]["topic"]
    timed = ("instances_per_second", "training_instances_per_second", "model", "predictions")
    return {key: value for key, value in entry.items() if key not in timed}
