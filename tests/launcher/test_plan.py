"""Recipe x Cluster -> Plan: arithmetic by table, placement, sources, sizes, refusals."""

import subprocess
import sys
from itertools import groupby, product
from pathlib import Path

import pytest

from launcher import footprint, hostfile, memory, plan
from mux.plan import Cluster, Host, Plan
from mux.recipe import Loaded, Recipe, Refusal, load
from mux.recipe.digest import digest, resolved

ROOT = Path(__file__).parents[2]

RECIPE = """
name = "case"
[model]
size = "TINY"
N = 2
[tokenizer]
source = "sentencepiece"
vocabulary = 1000
[corpus]
sources = ["builtin:wiki_leads"]
sequence_length = 64
[engine]
precision = "bf16"
[[stages]]
kind = "retrieval"
steps = 100
[[stages]]
kind = "pretrain"
steps = 200
warmup_steps = 20
[[stages]]
kind = "finetune"
tasks = ["topic"]
[[stages]]
kind = "ensemble"
copies = [1, 2]
[[stages]]
kind = "throughput"
"""


def recipe(folder: Path, *changes: str, text: str = RECIPE) -> Loaded:
    path = folder / "case.toml"
    path.write_text(text)
    return load(path, changes)


def cluster(*slots: int) -> Cluster:
    hosts = tuple(Host(name=f"h{index}", slots=count) for index, count in enumerate(slots))
    return Cluster(hosts=hosts, device="cuda", source="hosts.txt")


def planned(folder: Path, *changes: str, slots: tuple[int, ...] = (2,), text: str = RECIPE) -> Plan:
    return plan.make(recipe(folder, *changes, text=text), cluster(*slots), folder / "runs" / "case")


def refusal(folder: Path, *changes: str, slots: tuple[int, ...] = (2,)) -> Refusal:
    with pytest.raises(Refusal) as caught:
        planned(folder, *changes, slots=slots)
    return caught.value


# --- batch arithmetic -----------------------------------------------------------------------------
@pytest.mark.parametrize(("batch", "devices", "most", "micro_batch", "accumulation"), [
    (256, 64, 32, 4, 1),  # design section 2
    (256, 8, 32, 32, 1),
    (256, 1, 32, 32, 8),
    (256, 4, 1, 1, 64),
    (48, 2, 20, 12, 2),
    (26, 2, 12, 1, 13),  # 13 is prime and just too large
    (39, 1, 12, 3, 13),
    (36, 1, 9, 9, 4),
    (7, 7, 32, 1, 1),
    (10**9, 1, 10**6, 10**6, 1000),
    (999_999_937, 1, 10**8, 1, 999_999_937),  # a prime
])
def test_split(batch, devices, most, micro_batch, accumulation):
    assert plan.split(batch, devices, most) == (micro_batch, accumulation)
    assert devices * micro_batch * accumulation == batch


def test_split_takes_the_largest_divisor():
    for share in range(1, 200):
        for most in range(1, 40):
            best = max(size for size in range(1, most + 1) if share % size == 0)
            assert plan.split(3 * share, 3, most) == (best, share // best)


@pytest.mark.parametrize(("slots", "micro_batch"), [((8,) * 8, 4), ((8,), 32), ((8, 8, 4, 4, 4, 4), 8)])
def test_stage_arithmetic(tmp_path, slots, micro_batch):
    stage = planned(tmp_path, slots=slots).stage("pretrain")
    assert (stage.devices, stage.batch) == (sum(slots), 256)
    assert (stage.micro_batch, stage.accumulation) == (micro_batch, 1)
    assert stage.deepspeed is not None
    assert stage.deepspeed["train_micro_batch_size_per_gpu"] == micro_batch
    assert stage.deepspeed["gradient_accumulation_steps"] == 1


def test_refuses_a_batch_that_devices_do_not_divide(tmp_path):
    error = refusal(tmp_path, slots=(8,) * 7)
    assert [problem.key for problem in error.problems] == ["stages.retrieval.batch", "stages.pretrain.batch"]
    problem = error.problems[1]
    assert problem.message == "batch 256 is not a multiple of 56 devices; 224 or 280 would be"
    assert problem.where == str(tmp_path / "case.toml")
    assert problem.hint is not None
    assert problem.hint.startswith("--set stages.pretrain.batch=280, or the first 4 of the 7 hosts: 32 devic")


def test_names_the_place_of_a_batch_that_was_set(tmp_path):
    error = refusal(tmp_path, "stages.pretrain.batch=3", slots=(4,))
    assert str(error) == ("--set: stages.pretrain.batch: batch 3 is not a multiple of 4 devices; 4 would be\n"
                          "    --set stages.pretrain.batch=4")


def test_suggests_the_nearest_batch(tmp_path):
    for batch, nearest in ((254, 250), (256, 260)):
        problems = refusal(tmp_path, f"stages.pretrain.batch={batch}", slots=(10,)).problems
        assert problems[-1].hint == f"--set stages.pretrain.batch={nearest}"


def test_refuses_an_absurd_batch(tmp_path):
    assert "1,000,000,001 groups a step" in str(refusal(tmp_path, "stages.pretrain.batch=1_000_000_001"))


def test_refuses_too_few_hosts_together_with_the_rest(tmp_path):
    error = refusal(tmp_path, "cluster.min_hosts=6", slots=(5, 2))
    assert [problem.key for problem in error.problems] == [
        "cluster.min_hosts", "stages.retrieval.batch", "stages.pretrain.batch"]
    assert error.problems[0].message == "6 hosts are needed, hosts.txt has 2"
    with pytest.raises(Refusal, match="6 hosts are needed, there is only this one"):
        plan.make(recipe(tmp_path, "cluster.min_hosts=6"), hostfile.this_host(1), tmp_path)


# --- placement and sources ------------------------------------------------------------------------
def test_jobs_are_consecutive_stages_with_one_placement(tmp_path):
    jobs = planned(tmp_path, slots=(8, 8)).jobs
    assert [(job.id, job.stages, job.world_size) for job in jobs] == [
        (0, ("retrieval", "pretrain"), 16), (1, ("finetune", "ensemble", "throughput"), 1)]
    assert [job.phase for job in planned(tmp_path, slots=(8, 8)).jobs] == [0, 1]
    assert jobs[1].hosts == (Host(name="h0", slots=1),)


def test_one_device_is_one_job(tmp_path):
    assert [job.stages for job in planned(tmp_path, slots=(1,)).jobs] == [
        ("retrieval", "pretrain", "finetune", "ensemble", "throughput")]


def test_placements_that_alternate_are_jobs_of_their_own(tmp_path):
    again = RECIPE + '[[stages]]\nkind = "pretrain"\nid = "again"\n'
    assert [job.stages for job in planned(tmp_path, text=again).jobs] == [
        ("retrieval", "pretrain"), ("finetune", "ensemble", "throughput"), ("again",)]


def test_sources_are_the_nearest_model_of_the_needed_kind(tmp_path):
    text = RECIPE + '[[stages]]\nkind = "pretrain"\nid = "again"\n[[stages]]\nkind = "evaluate"\n'
    sources = {stage.id: stage.source for stage in planned(tmp_path, text=text).stages}
    assert sources == {
        "retrieval": None, "pretrain": "retrieval", "finetune": "pretrain", "ensemble": "finetune",
        "throughput": None, "again": "pretrain", "evaluate": "finetune"}


def test_from_is_taken_as_it_is_given(tmp_path):
    made = planned(tmp_path, 'stages.pretrain.from="path:somewhere"', 'stages.finetune.from="retrieval"')
    assert [made.stage(name).source for name in ("pretrain", "finetune")] == ["path:somewhere", "retrieval"]


def test_throughput_needs_no_other_stage(tmp_path):
    head = RECIPE.partition("[[stages]]")[0]
    alone = planned(tmp_path, text=head + '[[stages]]\nkind = "throughput"\n')
    assert (alone.stage("throughput").source, alone.memory, alone.disk_bytes) == (None, [], 0)


def test_sequence_lengths(tmp_path):
    made = planned(tmp_path, "stages.finetune.sequence_length=48")
    assert {stage.id: stage.sequence_length for stage in made.stages} == {
        "retrieval": 64, "pretrain": 64, "finetune": 48, "ensemble": 48, "throughput": 128}


# --- fine-tuning ----------------------------------------------------------------------------------
def test_finetuning_without_a_search_is_one_point(tmp_path):
    stage = planned(tmp_path, "stages.finetune.batch=96").stage("finetune")
    assert (stage.devices, stage.batch, stage.micro_batch, stage.accumulation) == (1, 96, 32, 3)
    assert [point.model_dump() for point in stage.points] == [
        {"learning_rate": 5e-5, "batch": 96, "micro_batch": 32, "accumulation": 3}]
    assert (stage.task_steps, stage.steps) == ({"topic": 400}, 400)


def test_a_search_is_a_grid(tmp_path):
    search = "stages.finetune.search={learning_rate = [2e-5, 5e-5], batch = [16, 64]}"
    stage = planned(tmp_path, search).stage("finetune")
    assert [tuple(point.model_dump().values()) for point in stage.points] == [
        (2e-5, 16, 16, 1), (2e-5, 64, 32, 2), (5e-5, 16, 16, 1), (5e-5, 64, 32, 2)]
    assert (stage.batch, stage.steps) == (32, None)


def test_steps_of_tasks(tmp_path):
    tasks = 'stages.finetune.tasks=["topic", "rte"]'
    assert planned(tmp_path, tasks).stage("finetune").task_steps == {"topic": 400, "rte": 2000}
    assert planned(tmp_path, tasks, "stages.finetune.steps={rte = 7}").stage("finetune").task_steps == {
        "topic": 400, "rte": 7}
    stage = planned(tmp_path, tasks, "stages.finetune.steps=9").stage("finetune")
    assert (stage.task_steps, stage.steps) == ({"topic": 9, "rte": 9}, None)
    assert planned(tmp_path, "stages.finetune.seeds=[0, 1]").stage("finetune").steps is None


SEARCH = "stages.finetune.search={learning_rate = [2e-5, 5e-5], batch = [16, 64]}"


def test_trainings_are_packed_over_the_devices(tmp_path):
    made = planned(tmp_path, SEARCH, "stages.finetune.seeds=[0, 1]", 'stages.finetune.tasks=["topic", "rte"]',
                   "stages.retrieval.batch=3", "stages.pretrain.batch=3", slots=(2, 1))
    stage = made.stage("finetune")
    names = [training.name for training in stage.trainings]
    assert len(names) == len(set(names)) == 2 * 4 * 2
    assert names[:2] == ["topic/seed0_lr2e-05_batch16", "topic/seed1_lr2e-05_batch16"]
    assert {training.steps for training in stage.trainings if training.task == "rte"} == {2000}
    jobs = [job for job in made.jobs if job.trainings]
    assert [(job.id, job.phase, job.stages, job.first_rank) for job in jobs] == [
        (1, 1, ("finetune",), 0), (2, 1, ("finetune",), 1), (3, 1, ("finetune",), 2)]
    assert [(host.name, host.slots, host.first_slot) for job in jobs for host in job.hosts] == [
        ("h0", 1, 0), ("h0", 1, 1), ("h1", 1, 0)]
    assert jobs[2].ranks() == [{"name": "h1", "ranks": [2]}]
    assert sorted(name for job in jobs for name in job.trainings) == sorted(names)
    work = {training.name: training.steps * training.point.batch for training in stage.trainings}
    loads = [sum(work[name] for name in job.trainings) for job in jobs]
    assert max(loads) - min(loads) <= max(work.values())
    for job in jobs:  # a task's rows are read once
        tasks = [name.split("/")[0] for name in job.trainings]
        assert len(list(groupby(tasks))) == len(set(tasks))
    assert [(job.phase, job.stages) for job in made.jobs if not job.trainings] == [
        (0, ("retrieval", "pretrain")), (2, ("finetune", "ensemble", "throughput"))]


def test_the_longest_trainings_are_packed_first(tmp_path):
    """By hand, on two devices. Work is steps x batch: topic 160 and 640, rte 112 and 448. The longest first, each on
    the device that is free first: 640 | 448, then 160 to the second (608), then 112 to it again."""
    made = planned(tmp_path, "stages.finetune.search={batch = [16, 64]}", 'stages.finetune.tasks=["topic", "rte"]',
                   "stages.finetune.steps={topic = 10, rte = 7}", slots=(2,))
    assert [job.trainings for job in made.jobs if job.trainings] == [
        ("topic/seed0_lr5e-05_batch64",),
        ("topic/seed0_lr5e-05_batch16", "rte/seed0_lr5e-05_batch16", "rte/seed0_lr5e-05_batch64")]


def test_trainings_on_one_device_need_no_jobs_of_their_own(tmp_path):
    assert [job.trainings for job in planned(tmp_path, SEARCH, slots=(1,)).jobs] == [()]
    few = planned(tmp_path, "stages.finetune.seeds=[0, 1]", slots=(8,))
    assert [len(job.trainings) for job in few.jobs] == [0, 1, 1, 0]


def test_trainings_behind_a_stage_of_the_same_placement(tmp_path):
    text = RECIPE.replace('kind = "finetune"', 'kind = "throughput"\nid = "before"\n[[stages]]\nkind = "finetune"')
    jobs = planned(tmp_path, SEARCH, text=text, slots=(2,)).jobs
    assert [(job.phase, job.stages, len(job.trainings)) for job in jobs] == [
        (0, ("retrieval", "pretrain"), 0), (1, ("before",), 0), (2, ("finetune",), 2), (2, ("finetune",), 2),
        (3, ("finetune", "ensemble", "throughput"), 0)]


def test_what_results_say_of_the_model(tmp_path):
    made = planned(tmp_path)
    assert made.model == {"family": "bert", "source": None, "N": 2, "size": "TINY", "layers": 2, "hidden": 128,
                          "multiplexer": "gaussian", "demultiplexer": "rsa", "compat": None,
                          "parameters": made.parameters}
    assert planned(tmp_path, "model.N=1", "stages.ensemble.copies=[1]").model["multiplexer"] is None


# --- DeepSpeed ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("precision", "expected"), [
    ("fp32", {}),
    ("bf16", {"bf16": {"enabled": True}}),
    ("fp16", {"fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 12}}),
])
def test_deepspeed_config(tmp_path, precision, expected):
    made = planned(tmp_path, f'engine.precision="{precision}"', "engine.zero_stage=2",
                   "engine.gradient_clipping=0.5", "engine.initial_loss_scale_power=12")
    config = made.stage("pretrain").deepspeed
    assert config == expected | {
        "train_micro_batch_size_per_gpu": 32, "gradient_accumulation_steps": 4, "gradient_clipping": 0.5,
        "zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9, "wall_clock_breakdown": False, "timers": {"throughput": {"enabled": False}}}
    assert made.stage("throughput").deepspeed is None


# --- the plan as a whole --------------------------------------------------------------------------
def test_carries_the_recipe(tmp_path):
    loaded = recipe(tmp_path)
    made = plan.make(loaded, cluster(2), Path("runs/case"))
    assert made.recipe == resolved(loaded.recipe)
    assert Recipe.model_validate(made.recipe) == loaded.recipe
    assert (made.recipe_digest, made.provenance) == (digest(loaded.recipe), loaded.provenance)
    assert made.directory == str(Path.cwd() / "runs" / "case")
    assert Plan.model_validate_json(made.model_dump_json()) == made


def test_parameters_and_memory(tmp_path):
    made = planned(tmp_path, "engine.zero_stage=3", slots=(8,))
    size = memory.pretraining(recipe(tmp_path).recipe.model, 1000)
    assert made.parameters == size.total
    stages = {(row["stage"], row["zero_stage"]): row for row in made.memory}
    assert list(stages) == list(product(("retrieval", "pretrain", "finetune"), range(4)))
    row = stages["pretrain", 3]
    assert row["recipe"] and not stages["pretrain", 2]["recipe"]
    assert row["optimizer"] == -(-12 * size.trained // 8)
    assert stages["finetune", 3]["optimizer"] == 12 * size.trained
    read = {"retrieval": (64, 64), "pretrain": (64 * 2 * 0.15, 64 * 2 * 0.15), "finetune": (2, 0)}
    for stage, (demultiplexed, decoded) in read.items():
        assert stages[stage, 0]["activations"] == memory.activations(
            recipe(tmp_path).recipe.model, recipe(tmp_path).recipe.engine, 1000, micro_batch=32,
            positions=128 if stage == "finetune" else 64, demultiplexed=demultiplexed, decoded=decoded)


WORDS = '[tasks.define.words]\ntrain = "path:a.jsonl"\ntest = "path:b.jsonl"\ntokens = "tokens"\nsteps = 5\n'


@pytest.mark.parametrize(("changes", "stage", "positions", "demultiplexed", "decoded"), [
    (['model.family="electra"'], "pretrain", 64, 2 * 64, 0),
    (['model.family="electra"', "stages.pretrain.retrieval_rate=0.1"], "pretrain", 64, 3 * 64, 64),
    (["stages.pretrain.retrieval_rate=0.1"], "pretrain", 64, 1.3 * 64, 1.3 * 64),
    (["stages.finetune.retrieval_rate=0.1"], "finetune", 128, 2 + 128, 128),
    (['stages.finetune.tasks=["words"]'], "finetune", 128, 2 * 128, 0),
    (['model.demultiplexer="prefix"'], "retrieval", 66, 64, 64),
    (['model.demultiplexer="prefix"'], "finetune", 130, 2, 0),
    (['model.demultiplexer="prefix"', 'model.compat="princeton"'], "retrieval", 64, 64, 64),
    (['model.demultiplexer="prefix"', 'model.compat="princeton"'], "finetune", 131, 2, 0),
])
def test_states_that_a_step_reads(tmp_path, changes, stage, positions, demultiplexed, decoded):
    text = RECIPE.replace("[[stages]]", f"{WORDS}[[stages]]", 1)
    loaded = recipe(tmp_path, *changes, text=text)
    made = planned(tmp_path, *changes, text=text)
    row = next(row for row in made.memory if row["stage"] == stage)
    assert row["activations"] == memory.activations(
        loaded.recipe.model, loaded.recipe.engine, 1000, micro_batch=32, positions=positions,
        demultiplexed=demultiplexed, decoded=decoded)


HUB = """
name = "case"
[model]
family = "hub"
source = "path:encoder"
[tokenizer]
source = "path:encoder"
[corpus]
sources = ["builtin:wiki_leads"]
[[stages]]
kind = "finetune"
tasks = ["topic"]
[[stages]]
kind = "evaluate"
[[stages]]
kind = "throughput"
"""


def test_an_encoder_of_the_hub(tmp_path, monkeypatch):
    """Fine-tuning starts from it; its size is known only if it is here."""
    monkeypatch.chdir(tmp_path)
    made = planned(tmp_path, text=HUB)
    assert [stage.source for stage in made.stages] == ["path:encoder", "finetune", None]
    assert (made.parameters, made.memory, made.disk_bytes) == (None, [], 0)
    assert planned(tmp_path, 'model.source="hub:a/b"', text=HUB).stage("finetune").source == "hub:a/b"
    Path("encoder").mkdir()
    Path("encoder/model.safetensors").write_bytes(bytes(4000))
    made = planned(tmp_path, text=HUB)
    assert (made.parameters, made.memory) == (1000, [])
    assert made.disk_bytes == (1 + 1) * (4 + 12) * 1000 + (1 + 1) * 4000


def test_disk(tmp_path):
    loaded = recipe(
        tmp_path, "stages.pretrain.save_every=10", "stages.pretrain.keep_checkpoints=4",
        'stages.finetune.tasks=["topic", "rte"]', "stages.finetune.save_every=1000",
        "stages.finetune.seeds=[0, 1]", "stages.finetune.search.learning_rate=[1e-5, 2e-5, 3e-5]")
    made = plan.make(loaded, cluster(2), tmp_path)
    size = memory.pretraining(loaded.recipe.model, 1000)
    checkpoint, model = 14 * size.trained + 2 * size.frozen, 4 * size.total
    texts = (ROOT / "mux/data/builtin/wiki_leads.txt").stat().st_size
    needs = footprint.disk(loaded.recipe, made.stages, 2)
    assert needs == {
        "stage retrieval": (1 + 1) * checkpoint + model,  # 100 steps: only the last is saved
        "stage pretrain": (4 + 1) * checkpoint + model,
        # rte has 2,000 steps; 2 tasks x 3 points x 2 seeds, two at a time
        "stage finetune": 2 * (2 + 1) * checkpoint + (2 + 12) * model,
        "token store": texts // 2 * 2}
    assert made.disk_bytes == sum(needs.values())


def test_disk_of_texts_that_are_not_here(tmp_path):
    loaded = recipe(tmp_path, 'corpus.sources=["hub:wikimedia/wikipedia/20231101.en", "path:none/*.txt"]')
    needs = footprint.disk(loaded.recipe, plan.make(loaded, cluster(2), tmp_path).stages, 2)
    assert needs["token store, without hub: texts"] == 0


def test_the_papers_recipe_on_its_cluster():
    loaded = load(ROOT / "recipes" / "bert_large_n2.toml")
    made = plan.make(loaded, hostfile.read(ROOT / "hostfiles" / "8x_a100.txt"), Path("runs/x"))
    stage = made.stage("pretrain")
    assert (stage.devices, stage.batch, stage.micro_batch, stage.accumulation) == (64, 256, 4, 1)
    assert [(phase, {job.world_size for job in jobs}) for phase, jobs in groupby(made.jobs, lambda job: job.phase)] == [
        (0, {64}), (1, {1}), (2, {1})]
    assert len([job for job in made.jobs if job.trainings]) == len(made.stage("finetune").trainings) <= 64
    alone = plan.make(loaded, hostfile.read(ROOT / "hostfiles" / "one_host_8x_a100.txt"), Path("runs/x"))
    assert (alone.stage("pretrain").micro_batch, alone.stage("pretrain").accumulation) == (32, 1)


def test_imports_no_torch():
    code = ("import sys; from launcher import hostfile, memory, plan, preflight, preview; "
            "print({'torch', 'deepspeed', 'transformers', 'numpy'} & set(sys.modules) or [])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
