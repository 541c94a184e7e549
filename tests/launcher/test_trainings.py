"""A grid x seeds as jobs of one device each: packed over the devices, resumable one by one, chosen on rows held out."""

import json
import os
import signal
import statistics

import pytest

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
    assert entry["train_rows"] < 2000 * 0.76
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


def comparable(run: Run) -> dict:
    """What does not depend on when and where."""
    entry = run.stage("finetune")["tasks"]["topic"]
    timed = ("instances_per_second", "training_instances_per_second", "model", "predictions")
    return {key: value for key, value in entry.items() if key not in timed}
