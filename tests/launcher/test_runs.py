"""The main job with real DeepSpeed processes: to its end, stopped, killed, resumed."""

import itertools
import json
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining

import mux.model

pytestmark = pytest.mark.processes

ALONE = "tests/recipes/pretrain_alone.toml"


def test_every_stage_ends_in_its_result(finished):
    results = finished.results()
    assert results["schema"] == 1 and results["name"] == "tiny" and results["status"] == "finished"
    assert [(stage["id"], stage["status"]) for stage in results["stages"]] == [
        (name, "done") for name in ("retrieval", "pretrain", "finetune", "ensemble", "throughput")]
    topic = finished.stage("finetune")["tasks"]["topic"]
    assert topic["metric"] == "accuracy" and len(topic["tickets"]) == 2 and topic["test_rows"] == 901
    assert topic["mean"] == pytest.approx(sum(topic["tickets"]) / 2)
    assert topic["majority"] == pytest.approx(0.212, abs=5e-4)
    copies = finished.stage("ensemble")["copies"]
    assert set(copies) == {"1", "2"}
    assert copies["1"]["tasks"]["topic"]["tickets"] == topic["tickets"]  # the same model, the same tickets
    rows = finished.stage("throughput")["rows"]
    assert [(row["model"], row["batches_of"], row["batch"]) for row in rows] == [
        (name, *fed) for name, both in (
            ("bert 2x32, N = 2", (("instances", 8), ("one_group", 2))),
            ("bert 2x32, N = 1", (("instances", 8), ("one_group", 1))),
            ("bert BASE (transformers)", (("instances", 8), ("one_group", 1)))) for fed in both]
    assert finished.stage("throughput")["ratio"] == rows[0]["ratio_to_n1"]
    assert all(row["instances_per_second"] > 0 and row["head"] == "sequence" for row in rows)
    assert all((row["ratio_to_n1"] == 1.0) == (row["N"] == 1) for row in rows)
    assert [row["ratio_to_bert_base"] for row in rows[-2:]] == [1.0, 1.0]


def test_the_events_tell_the_whole_story(finished):
    events = finished.events()
    assert events[0]["event"] == "RunStarted" and events[-1]["event"] == "RunFinished"
    done = [event["stage"] for event in events if event["event"] == "StageDone"]
    assert done == ["retrieval", "pretrain", "finetune", "ensemble", "throughput"]
    assert [event["step"] for event in finished.events("StepDone") if event["stage"] == "pretrain"] == list(range(1, 9))
    assert {(event["job"], event["rank"]) for event in finished.events("RankStarted")} == {(0, 0), (0, 1), (1, 0)}
    assert {event["rank"] for event in finished.events("Heartbeat")} == {0, 1}
    assert all(event["v"] == 1 and event["time"] > 1.7e9 for event in events)


def test_the_run_directory_is_what_the_readme_says(finished):
    for name in ("recipe.toml", "plan.json", "environment.json", "events.jsonl", "results.json",
                 "logs/localhost.0.log", "logs/localhost.1.events.jsonl",
                 "pretrain/checkpoints/latest", "pretrain/checkpoints/step_00000008/manifest.json",
                 "retrieval/model/model.safetensors", "finetune/model/config.json", "finetune/model/tokenizer.json",
                 "finetune/model/README.md"):
        assert (finished.path / name).is_file(), name
    assert (finished.path / "pretrain/checkpoints/latest").read_text() == "step_00000008\n"
    assert len(list((finished.path / "pretrain/checkpoints").glob("step_*"))) == 2  # keep_checkpoints
    for path in finished.path.rglob("*"):
        assert path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) == 0, path
    card = (finished.path / "finetune/model/README.md").read_text()
    assert f'from_pretrained("{finished.path / "finetune/model"}")' in card
    environment = json.loads((finished.path / "environment.json").read_text())
    assert environment["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert environment["data"]["corpus"] and environment["data"]["tokenizer"]


def test_the_final_screen_can_be_followed(finished, tmp_path):
    """The Python that it prints is run as it stands."""
    lines = finished.printed.splitlines()
    code = "\n".join(itertools.takewhile(str.strip, lines[lines.index("import mux.model"):]))
    assert str(finished.path / "finetune" / "model") in code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = eval(done.stdout)
    names = finished.stage("finetune")["tasks"]["topic"]["labels"]
    assert len(answers) == 2 and len(names) == 11 and all(answer["label"] in names for answer in answers)


def test_a_finished_run_is_shown_and_never_overwritten(finished):
    before = (finished.path / "events.jsonl").read_bytes()
    again = finished.launch()
    assert again.returncode == 0 and "finished already; --fresh" in again.stdout
    other = finished.launch("--set", "stages.pretrain.steps=9", "--set", "model.dropout=0.0")
    assert other.returncode == 2 and "stages.pretrain.steps: was 8 when the run began, is 9 now" in other.stderr
    assert "model.dropout" in other.stderr and "--fresh" in other.stderr
    assert (finished.path / "events.jsonl").read_bytes() == before


def test_watch_and_runs_show_it(finished):
    mux = str(Path(sys.executable).parent / "mux")
    watched = subprocess.run([mux, "watch", "--plain", str(finished.path)], capture_output=True, text=True, timeout=60)
    assert watched.returncode == 0 and "run finished" in watched.stdout and "pretrain 8/8" in watched.stdout
    listed = subprocess.run([mux, "runs", "ls", str(finished.path.parent)], capture_output=True, text=True)
    assert listed.returncode == 0 and "finished" in listed.stdout
    stopped = subprocess.run([mux, "stop", str(finished.path)], capture_output=True, text=True)
    assert stopped.returncode == 2 and "not going on" in stopped.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
    """Losses of the pre-training stage, by ZeRO stage, of runs that nothing happened to."""
    from tests.conftest import Run

    def losses(zero_stage: int) -> dict:
        if zero_stage not in known:
            made = Run(tmp_path_factory.mktemp("undisturbed") / "run", cache)
            done = made.launch(f"--set=engine.zero_stage={zero_stage}", recipe=ALONE)
            assert done.returncode == 0, done.stdout + done.stderr
            known[zero_stage] = made.losses("pretrain")
        return known[zero_stage]

    known: dict[int, dict] = {}
    return losses


def test_zero_stages_agree(undisturbed):
    first = undisturbed(0)
    for zero_stage in (1, 2, 3):
        for step, (loss, norm) in undisturbed(zero_stage).items():
            assert loss == pytest.approx(first[step][0], rel=1e-3), (zero_stage, step)
            assert step > 3 or (loss, norm) == pytest.approx(first[step], rel=2e-5), (zero_stage, step)


def test_the_batch_is_the_same_however_it_is_split(run, undisturbed):
    """One rank with 2 micro-batches against two ranks with one: every token weighs the same."""
    no_dropout = ("--set=model.dropout=0.0", "--set=model.attention_dropout=0.0")
    done = run.launch("--set=cluster.processes=1", "--set=engine.micro_batch=2", *no_dropout, recipe=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    first = run.losses("pretrain")
    run.path = run.path.with_name("two")
    done = run.launch(*no_dropout, recipe=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    second = run.losses("pretrain")
    assert first[1] == pytest.approx(second[1], rel=1e-6)  # loss and gradient norm, before rounding has added up
    assert first.keys() == second.keys() == set(range(1, 61))
    for step in first:
        assert first[step][0] == pytest.approx(second[step][0], rel=1e-3), step


def test_interrupted_saves_and_goes_on(run, undisturbed):
    process = run.start(recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "StepDone" and event["step"] >= 2, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 75, run.output()
    assert run.events()[-1]["event"] == "RunStopped" and run.results()["status"] == "stopped"
    assert not run.processes()
    stopped_at = run.events("StopAgreed")[-1]["step"]
    again = run.launch("--set=stages.pretrain.save_every=50", recipe=ALONE)  # a harmless change
    assert again.returncode == 0 and f"from step {stopped_at}" in again.stdout, again.stdout
    assert run.losses("pretrain") == undisturbed(1)


def test_two_interrupts_end_at_once(run):
    process = run.start("--set=stages.pretrain.steps=100000", recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "JobStarted", process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130, run.output()
    gone_within(run, 1)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_bf16_and_activation_checkpointing(run, zero_stage):
    done = run.launch('--set=engine.precision="bf16"', "--set=engine.activation_checkpointing=true",
                      f"--set=engine.zero_stage={zero_stage}", recipe=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    losses = run.losses("pretrain")
    assert len(losses) == 60 and losses[60][0] < losses[1][0]
    weights = load_file(run.path / "pretrain/model/model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    words = weights["mux.backbone.embeddings.word_embeddings.weight"]
    assert not torch.equal(words, words.bfloat16().float())  # the fp32 masters, not what bf16 leaves of them
    model = AutoModelForPreTraining.from_pretrained(run.path / "pretrain/model")
    assert next(model.parameters()).dtype == torch.float32


def gone_within(run, seconds: float) -> None:
    """No process of the run is alive `seconds` from now."""
    until = time.monotonic() + seconds
    while run.processes() and time.monotonic() < until:
        time.sleep(0.1)
    left = run.processes()
    assert not left, [process.pid for process in left]


def test_a_corpus_that_has_changed_is_refused(run, tmp_path):
    """Going on with other text would mix two data sets in one model, and with a trained vocabulary two vocabularies."""
    texts = tmp_path / "texts.txt"
    leads = (Path(mux.model.__file__).parent.parent / "data/builtin/wiki_leads.txt").read_text()
    texts.write_text(leads[:200_000])
    options = (f'--set=corpus.sources=["path:{texts}"]', "--set=stages.pretrain.steps=100000")
    process = run.start(*options, recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "CheckpointSaved", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) == 75
    with open(texts, "a") as file:
        file.write("\n\nOne more paragraph.\n")
    again = run.launch(*options, recipe=ALONE)
    assert again.returncode == 1 and "has changed since the run began" in again.stdout
    assert "--fresh" in again.stdout and not run.events("StepDone")[-1]["time"] > run.events("RunStarted")[-1]["time"]
