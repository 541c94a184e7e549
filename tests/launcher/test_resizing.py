"""Runs that go on on other ranks, with another ZeRO stage, or not at all; every pair of numbers is in
tests/mux/train/test_resuming.py."""

import itertools
import signal
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from launcher import directory, resizing, start
from mux import manifest as manifests
from mux.manifest import Identity, Manifest, resized
from mux.recipe import Refusal
from mux.run import write_json

ROOT = Path(__file__).parent.parent
TINY, ALONE = ROOT / "recipes" / "tiny.toml", "tests/recipes/pretrain_alone.toml"


def planned(run_dir, *overrides):
    _, plan, run = start.planned(start.Request(TINY, None, overrides, run_dir, None, "auto", False))
    return plan, run


def saved(folder, plan, stage, step=3, **fields):
    """A checkpoint without shards, as this plan's ranks would leave it."""
    engine = plan.recipe["engine"]
    devices = plan.stage(stage.split("/")[0]).devices
    identity = Identity(plan.recipe_digest, stage, devices, engine["zero_stage"], engine["precision"])
    manifest = Manifest(**asdict(identity) | fields, step=step, time=time.time(), rng="", progress={}, files={})
    place = folder / manifests.folder_name(step)
    place.mkdir(parents=True)
    manifests.write(place, manifest)
    return manifest


@pytest.mark.parametrize(("before", "family"), [(0, (0,)), (1, (1, 2)), (2, (1, 2)), (3, (3,))])
def test_which_checkpoints_can_be_gone_on_from(tmp_path, before, family):
    plan, run = planned(tmp_path / "r", f"engine.zero_stage={before}")
    manifest = saved(run.checkpoints("pretrain"), plan, "pretrain")
    for zero_stage, ranks in itertools.product(range(4), (1, 2, 4)):
        other, _ = planned(tmp_path / "r", f"engine.zero_stage={zero_stage}", f"cluster.processes={ranks}")
        assert resizing.refusal(manifest, other, other.stage("pretrain")) == (
            None if zero_stage in family else f"what ZeRO {before} has saved cannot become ZeRO {zero_stage}'s")


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    plan, run = planned(tmp_path / "r")
    for field, value in (("precision", "bf16"), ("recipe_digest", "another")):
        manifest = saved(run.checkpoints("pretrain") / field, plan, "pretrain", **{field: value})
        assert f"it was saved with {field} = '{value}'" in resizing.refusal(manifest, plan, plan.stage("pretrain"))


def test_what_is_told_of_a_resize():
    four = Identity("d", "pretrain", 4, 1, "fp32")
    assert resized(four, Identity("d", "pretrain", 2, 2, "fp32")) == "resized from 4 to 2 ranks, ZeRO 1 to 2"
    assert resized(four, Identity("d", "pretrain", 1, 1, "fp32")) == "resized from 4 to 1 rank"
    assert resized(four, Identity("d", "pretrain", 4, 2, "fp32")) == "resized from ZeRO 1 to 2"


def begun(tmp_path, *overrides):
    plan, run = planned(tmp_path / "r", *overrides)
    run.create()
    run.write_plan(plan)
    return plan, run


def refusal(run, *overrides):
    plan, _ = planned(run.path, *overrides)
    with pytest.raises(Refusal) as caught:
        directory.state_of(run, plan, "auto", False)
    return str(caught.value)


def test_stages_that_cannot_go_on_are_named_with_the_way_on(tmp_path):
    plan, run = begun(tmp_path)
    saved(run.checkpoints("pretrain"), plan, "pretrain")
    told = refusal(run, "engine.zero_stage=3")
    assert "stages.pretrain: cannot go on: what ZeRO 1 has saved cannot become ZeRO 3's" in told
    assert f"mux export {run.path} DIR --checkpoint latest --stage STAGE" in told and 'from = "path:DIR"' in told
    assert told.startswith("--set:") and "retrieval" not in told  # it has no checkpoint: it may start on anything
    wider, _ = planned(run.path, "engine.zero_stage=2", "cluster.processes=4")
    assert directory.state_of(run, wider, "auto", False) == "unfinished"
    write_json(run.stage_result("pretrain"), {"seconds": 1.0})
    done, _ = planned(run.path, "engine.zero_stage=3")
    assert directory.state_of(run, done, "auto", False) == "unfinished"  # what is done is never touched


def test_trainings_of_fine_tuning_are_looked_at_one_by_one(tmp_path):
    plan, run = begun(tmp_path)
    training = plan.stage("finetune").trainings[0].name
    saved(run.training("finetune", training) / "checkpoints", plan, f"finetune/{training}")
    assert "stages.finetune: cannot go on" in refusal(run, "engine.zero_stage=0")
    wider, _ = planned(run.path, "cluster.processes=4")
    assert directory.state_of(run, wider, "auto", False) == "unfinished"  # it has one device on any cluster
    write_json(run.training_result("finetune", training), {})
    other, _ = planned(run.path, "engine.zero_stage=0")
    assert directory.state_of(run, other, "auto", False) == "unfinished"


def test_a_manifest_that_cannot_be_read_is_left_to_the_ranks(tmp_path):
    plan, run = begun(tmp_path)
    saved(run.checkpoints("pretrain"), plan, "pretrain", step=3)
    saved(run.checkpoints("pretrain"), plan, "pretrain", step=6)
    (run.checkpoints("pretrain") / "step_00000006" / "manifest.json").write_text("{")
    assert "cannot go on" in refusal(run, "engine.zero_stage=3")  # by the one before
    (run.checkpoints("pretrain") / "step_00000003" / "manifest.json").write_text("{")
    other, _ = planned(run.path, "engine.zero_stage=3")
    assert directory.state_of(run, other, "auto", False) == "unfinished"


def test_a_checkpoint_of_another_recipe_is_left_to_the_ranks(tmp_path):
    """It was put there: a recipe that was changed is refused before. They fall back to the one before it."""
    plan, run = begun(tmp_path)
    saved(run.checkpoints("pretrain"), plan, "pretrain", step=3)
    saved(run.checkpoints("pretrain"), plan, "pretrain", step=6, recipe_digest="another")
    assert directory.state_of(run, plan, "auto", False) == "unfinished"
    assert "what ZeRO 1 has saved cannot become ZeRO 3's" in refusal(run, "engine.zero_stage=3")


def test_changed_keys_are_refused_or_noted_one_by_one(tmp_path):
    plan, run = begun(tmp_path)
    saved(run.checkpoints("pretrain"), plan, "pretrain")
    harmless = ("cluster.max_restarts=3", 'health.policy="rollback"', "stages.pretrain.save_every=7")
    told = refusal(run, *harmless, "stages.pretrain.steps=9", 'engine.precision="bf16"')
    assert "--set: stages.pretrain.steps: was 8 when the run began, is 9 now" in told
    assert '--set: engine.precision: was "fp32" when the run began, is "bf16" now' in told
    assert "health" not in told and "--fresh" in told
    other, _ = planned(run.path, *harmless)
    assert directory.state_of(run, other, "auto", False) == "unfinished"
    assert directory.notes(plan, other) == [
        "goes on with cluster.max_restarts = 3 (was 0)", 'goes on with health.policy = "rollback" (was "stop")',
        "goes on with stages.pretrain.save_every = 7 (was 3)"]
    assert directory.notes(plan, plan) == []


def test_a_run_that_trained_nothing_takes_any_recipe(tmp_path):
    _, run = begun(tmp_path)
    other, _ = planned(run.path, "stages.pretrain.steps=9", "engine.zero_stage=3")
    assert directory.state_of(run, other, "auto", False) == "unfinished"


@pytest.mark.processes
def test_a_run_goes_on_on_another_number_of_ranks(run):
    """The same batches, the same masks of dropout: losses as on the ranks before, within rounding."""
    steps = "--set=stages.pretrain.steps=120"  # more than are done before the signal arrives
    assert run.launch(steps, recipe=ALONE).returncode == 0
    whole = run.losses("pretrain")
    run.path = run.path.with_name("resized [1]*")  # DeepSpeed takes paths for patterns
    process = run.start(steps, "--set=stages.pretrain.log_every=1", recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "StepDone", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=100) == 75, run.output()
    refused = run.launch(steps, "--set=engine.zero_stage=3", recipe=ALONE)
    assert refused.returncode == 2 and "what ZeRO 1 has saved cannot become ZeRO 3's" in refused.stderr
    step = run.events("StopAgreed")[-1]["step"]
    again = run.launch(steps, "--set=cluster.processes=1", "--set=engine.micro_batch=2", "--set=engine.zero_stage=2",
                       recipe=ALONE)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "goes on with engine.zero_stage = 2 (was 1)" in again.stdout
    assert f"goes on from step {step}, resized from 2 to 1 rank, ZeRO 1 to 2" in again.stdout
    assert f"resumed from step {step}" in again.stdout
    for at, (loss, norm) in run.losses("pretrain").items():
        assert (loss, norm) == pytest.approx(whole[at], rel=1e-5), at
    assert len(run.losses("pretrain")) == 120 and not list(run.path.rglob("*.resized*"))


@pytest.mark.processes
def test_a_loss_that_diverges_ends_the_run_and_no_restart_helps(run):
    done = run.launch("--set=stages.pretrain.learning_rate=1e30", "--set=cluster.max_restarts=3", recipe=ALONE)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = run.events("RankFailed")
    assert {event["kind"] for event in failed} == {"loss"}
    assert "pretrain: the loss is not finite (nan) at step" in done.stdout and "there is no checkpoint" in done.stdout
    assert len(run.events("JobStarted")) == 1
    assert [event["kind"] for event in run.events("JobFailed")] == ["loss"]
