"""`engine.micro_batch = "auto"`: measured before the first stage, kept for good."""

import json
import signal
from itertools import groupby

import pytest

from launcher import micro_batches, plan
from launcher.preview import render
from mux.plan import MeasuredMicroBatch
from mux.run import RunDirectory, write_text
from tests.launcher.test_plan import cluster, planned, recipe

AUTO = 'engine.micro_batch="auto"'
ALONE = "tests/recipes/pretrain_alone.toml"


def test_what_is_not_known_is_measured_first(tmp_path):
    made = planned(tmp_path, AUTO, slots=(2, 2))
    measuring = [job for job in made.jobs if job.measurement]
    assert [(job.stages, job.world_size) for job in measuring] == [(("retrieval", "pretrain"), 4), (("finetune",), 1)]
    assert [job.id for job in made.jobs] == list(range(len(made.jobs))) and made.jobs[:2] == tuple(measuring)
    assert [len(list(jobs)) for _, jobs in groupby(made.jobs, key=lambda job: job.phase)][:2] == [1, 1]
    stage = made.stage("pretrain")
    assert (stage.batch, stage.micro_batch, stage.accumulation) == (256, None, None)
    assert stage.deepspeed is not None and stage.deepspeed["train_micro_batch_size_per_gpu"] == 1
    assert made.stage("finetune").points[0].micro_batch is None


def test_what_is_known_divides_the_share(tmp_path):
    loaded, here = recipe(tmp_path, AUTO), cluster(8)
    made = plan.make(loaded, here, tmp_path, {"retrieval": 256, "pretrain": 20})
    assert [(made.stage(name).micro_batch, made.stage(name).accumulation) for name in ("retrieval", "pretrain")] == [
        (32, 1), (16, 2)]
    assert [job.stages for job in made.jobs if job.measurement] == [("finetune",)]


def test_the_preview_says_what_is_to_be_measured(tmp_path):
    loaded = recipe(tmp_path, AUTO)
    text = render(plan.make(loaded, cluster(2), tmp_path), loaded)
    assert "|- measures how many groups of stage retrieval fit" in text
    assert "256 groups = 2 devices x micro batch x accumulation, of which as many groups as fit are to be" in text
    assert "pretrain, on 2 devices, with the activations of one group" in text


def test_a_measurement_holds_for_its_recipe_devices_and_zero_stage(tmp_path):
    run, here = RunDirectory(tmp_path / "run"), cluster(2)
    loaded = recipe(tmp_path, AUTO)
    job = plan.make(loaded, here, tmp_path).jobs[0]
    found = MeasuredMicroBatch(micro_batch=7, limit=1, tries=())
    write_text(run.micro_batch("pretrain", job.measurement), found.model_dump_json())

    def known(*changes, on=here):
        return micro_batches.known(run, recipe(tmp_path, *changes).recipe, on)

    assert known(AUTO) == {"pretrain": 7} == known(AUTO, "stages.pretrain.save_every=3")
    beside = here.model_copy(update={"hosts": tuple(host.model_copy(update={"slots": 1, "name": name})
                                                    for host in here.hosts for name in "ab")})
    assert known(AUTO, on=beside) == known(AUTO, on=here.model_copy(update={"device": "cpu"})) == {}
    assert known() == known(AUTO, on=cluster(4)) == known(AUTO, "engine.zero_stage=2") == {}
    assert known(AUTO, "corpus.sequence_length=32") == {}
    write_text(run.micro_batch("pretrain", job.measurement), "{")
    assert known(AUTO) == {} and not run.done(job)  # so it is measured again


@pytest.mark.processes
def test_a_run_measures_once_and_records_it(run):
    """A batch that the share of a device has many divisors of; killed in a step, it goes on with what was found."""
    options = (f"--set={AUTO}", "--set=stages.pretrain.batch=24")
    process = run.start(*options, recipe=ALONE)
    run.wait_for_a_step(process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    [file] = (run.path / "pretrain").glob("micro_batch.*.json")
    found = MeasuredMicroBatch.model_validate_json(file.read_text())
    assert [one["groups"] for one in found.tries] == [0, 1, 2, 3, 4, 6, 12] and found.micro_batch == 12
    assert all(0 < one["bytes"] < found.limit for one in found.tries)
    again = run.launch(*options, recipe=ALONE)
    assert again.returncode == 0 and "from step" in again.stdout, again.stdout + again.stderr
    assert "micro batches of" not in again.stdout
    stage = json.loads((run.path / "plan.json").read_text())["stages"][0]
    assert (stage["micro_batch"], stage["accumulation"]) == (12, 1)
    assert [event["measures"] for event in run.events("JobStarted")] == [True, False, False]
    assert len(run.losses("pretrain")) == 60
