"""A run on disk: what is done, and hashes of data that several jobs note at the same time."""

import subprocess
import sys
from pathlib import Path

import pytest

from mux.plan import Host, JobPlan, Point, TrainingPlan
from mux.run import RunDirectory, read_json, write_json

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    made = RunDirectory(tmp_path / "run")
    made.create()
    write_json(made.environment, {"data": {}})
    return made


def test_jobs_that_note_data_at_once_lose_nothing(run):
    code = ("import sys; from mux.run import RunDirectory\n"
            "run = RunDirectory(sys.argv[1])\n"
            "for number in range(40): run.note_data(f'{sys.argv[2]} {number}', 'hash')\n"
            "assert run.note_data('shared', sys.argv[2]) in 'abcd'\n")
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(run.path), name], cwd=ROOT) for name in "abcd"]
    assert [job.wait(60) for job in jobs] == [0] * 4
    data = read_json(run.environment)["data"]
    assert len(data) == 4 * 40 + 1 and data["shared"] in "abcd"


def test_the_first_hash_stays(run):
    assert run.note_data("corpus", "one") == "one"
    assert run.note_data("corpus", "two") == "one"


def test_a_job_of_trainings_is_done_with_their_results(run):
    point = Point(learning_rate=2e-5, batch=32, micro_batch=32, accumulation=1)
    training = TrainingPlan(task="sst2", seed=1, point=point, steps=10)
    assert training.name == "sst2/seed1_lr2e-05_batch32"
    near = training.model_copy(update={"point": point.model_copy(update={"learning_rate": 2.0000001e-5})})
    assert near.name != training.name
    host = Host(name="h", slots=1)
    some = JobPlan(id=1, phase=1, stages=("finetune",), hosts=(host,), trainings=(training.name,), first_rank=3)
    whole = JobPlan(id=2, phase=2, stages=("finetune",), hosts=(host,))
    assert not run.done(some) and not run.done(whole)
    write_json(run.training_result("finetune", training.name), {})
    assert run.done(some) and not run.done(whole)
    assert (run.path / "finetune/sst2/trainings/seed1_lr2e-05_batch32.json").is_file()
    write_json(run.stage_result("finetune"), {})
    assert run.done(whole)
    assert some.ranks() == [{"name": "h", "ranks": [3]}]


def test_a_job_that_measures_is_done_where_it_has_measured_or_nothing_is_left_to_train(run):
    job = JobPlan(id=0, phase=0, stages=("retrieval", "pretrain"), hosts=(Host(name="h", slots=1),), measurement="abc")
    found = {"micro_batch": 4, "limit": 1, "tries": []}
    write_json(run.micro_batch("pretrain", "abc"), found)
    write_json(run.micro_batch("retrieval", "of another recipe"), found)
    assert not run.done(job)
    write_json(run.micro_batch("retrieval", "abc"), found | {"micro_batch": 0})  # no measurement
    assert not run.done(job)
    write_json(run.stage_result("retrieval"), {})
    assert run.done(job)
