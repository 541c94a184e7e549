"""How many groups fit: with a real allocator and the kernel's own count of what it took."""

from functools import partial
from mmap import PAGESIZE, mmap

import psutil
import pytest
import torch

from mux.plan import Point, StagePlan
from mux.stages import finetune, pretrain
from mux.stages.host_memory import free_memory, free_of_groups
from mux.stages.micro_batch import Memory, Try, config_of, divisors, extrapolated, largest, share_of
from mux.stages.retrieval import workload as retrieval_workload
from mux.train.objective import Objective

MEGABYTES = 2**20
EACH = 64 * MEGABYTES  # a group takes

SIZES = [1, 2, 3, 4, 6, 12]


def taking(memory: Memory, tried: list[int], groups: int) -> Try:
    tried.append(groups)
    memory.reset()
    with mmap(-1, groups * EACH) as pages:  # of the kernel's, not what an allocator of this process had left
        for place in range(0, len(pages), PAGESIZE):
            pages[place] = 1
    return Try(groups, memory.peak(), 0.0)


@pytest.mark.parametrize(("room", "fitting", "why"), [
    (3.5, [0, 1, 2, 3], "4 would take"), (100, [0, *SIZES], "all: they take"), (0.5, [0], "1 take")])
def test_as_many_as_fit(room, fitting, why):
    memory, tried = Memory(torch.device("cpu"), 1), []
    held = memory.held()
    tries, told = largest(SIZES, partial(taking, memory, tried), held, held + int(room * EACH))
    assert [one.groups for one in tries] == fitting and told.startswith(why)
    assert tried == (fitting[1:] or [1])  # what would not fit was not tried
    for one in tries[1:]:
        assert abs(one.bytes - tries[0].bytes - one.groups * EACH) < EACH / 4


def test_passes_that_would_be_slow_are_not_tried():
    tried: list[int] = []

    def attempt(groups: int) -> Try:
        tried.append(groups)
        return Try(groups, 0, 15.0 * groups)

    tries, told = largest(SIZES, attempt, 0, 10)
    assert tries[-1].groups == 4 and told == "a pass of 6 would take 90 s: more at a time make nothing faster"
    largest([1, 97], attempt, 0, 10)
    assert tried == [1, 2, 3, 4, 1]


def test_every_step_is_taken_while_measuring():
    """Also in fp16, where steps of too large a loss scale are skipped, and gradients are kept between micro-batches."""
    half = {"fp16": {"enabled": True, "initial_scale_power": 16}, "zero_optimization": {"stage": 1}}
    plan = StagePlan(id="a", kind="pretrain", source=None, devices=1, deepspeed=half)
    assert config_of(plan) == {"fp16": {"enabled": True, "initial_scale_power": 0}, "zero_optimization": {"stage": 1},
                               "gradient_accumulation_steps": 2}
    assert half["fp16"]["initial_scale_power"] == 16


def test_what_grows_is_told_from_what_does_not():
    assert extrapolated(Try(2, 1020, 0), Try(4, 1040, 0), 10) == 1100
    assert extrapolated(Try(2, 1020, 0), Try(4, 1000, 0), 10) == 1000  # others' memory came back in between


def test_sizes():
    assert divisors(12) == [1, 2, 3, 4, 6, 12] and divisors(1) == [1] and divisors(97) == [1, 97]


def test_free_memory_is_no_more_than_there_is():
    assert 0 < free_memory() <= psutil.virtual_memory().total


@pytest.mark.parametrize(("line", "folder", "names"), [
    ("0::/job", "", ("memory.max", "memory.current", "inactive_file")),
    ("4:cpu,memory:/job", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))])
def test_what_a_job_may_still_take(tmp_path, line, folder, names):
    """The kernel's files as it writes them, of a job in a slice; what it keeps of files is as good as free."""
    limit, used, kept = names
    for group, values in (("job", (1000, 700)), ("", (5000, 4900))):
        place = tmp_path / folder / group
        place.mkdir(parents=True, exist_ok=True)
        for name, value in zip((limit, used), values, strict=True):
            (place / name).write_text(f"{value}\n")
        (place / "memory.stat").write_text(f"anon 300\n{kept} 50\nactive_file 7\n")
    lines = ["1:name=systemd:/", line]
    assert list(free_of_groups(lines, tmp_path)) == [350, 150]
    (tmp_path / folder / limit).write_text("max\n")
    assert list(free_of_groups(lines, tmp_path)) == [350]
    assert list(free_of_groups(["0::/another", "3:cpuset:/"], tmp_path / "none")) == []


def answered(load, groups):
    """The parts of the objective of one batch."""
    assert isinstance(load.objective, Objective)
    batch = load.batch(groups)
    return batch, load.objective(load.model, batch, load.objective.counts(batch))


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_workloads_of_a_corpus(context, family):
    made = context(family=family)
    short = made.recipe.corpus.model_copy(update={"sequence_length": 24})
    made.recipe = made.recipe.model_copy(update={"corpus": short})
    stage = made.recipe.stages[0].model_copy(update={"mask_rate": 0.15, "retrieval_rate": 0.1})
    rows = 3 * made.recipe.model.N
    for load, parts in ((pretrain.workload(made, stage), ["task", "retrieval"]),
                        (retrieval_workload(made, stage), ["retrieval"])):
        batch, answers = answered(load, 3)
        assert batch["input_ids"].shape[0] == rows and bool(batch["attention_mask"].all())
        assert list(answers) == parts and all(torch.isfinite(one.loss) for one in answers.values())


@pytest.mark.parametrize(("tasks", "rate", "parts"), [
    (["topic"], 0.0, ["task"]), (["topic"], 0.2, ["task", "retrieval"])])
def test_workloads_of_tasks(context, tasks, rate, parts):
    made = context()
    stage = made.recipe.stages[0].model_copy(update={"tasks": tuple(tasks), "retrieval_rate": rate})
    batch, answers = answered(finetune.workload(made, stage), 2)
    assert batch["input_ids"].shape == (2 * made.recipe.model.N, stage.sequence_length)
    assert list(answers) == parts and all(torch.isfinite(one.loss) for one in answers.values())


def test_the_share_is_of_the_largest_batch_of_a_search():
    points = tuple(Point(learning_rate=1.0, batch=batch, micro_batch=None, accumulation=None) for batch in (16, 64))
    plan = StagePlan(id="a", kind="finetune", source=None, devices=1, batch=32)
    assert share_of(plan.model_copy(update={"points": points})) == 64 and share_of(plan) == 32
