"""How many groups fit: with a real allocator and the kernel's own count of what it took."""

from functools import partial

import pytest
import torch

from mux.stages import finetune, pretrain
from mux.stages.micro_batch import Memory, Try, divisors, extrapolated, free_memory, largest, share_of
from mux.stages.retrieval import workload as retrieval_workload
from mux.train.objective import Objective

MEGABYTES = 2**20
EACH = 64 * MEGABYTES  # a group takes

SIZES = [1, 2, 3, 4, 6, 12]


def taking(memory: Memory, tried: list[int], groups: int) -> Try:
    tried.append(groups)
    memory.reset()
    torch.ones(groups * EACH, dtype=torch.uint8)  # given back at once
    return Try(groups, memory.peak(), 0.0)


@pytest.mark.parametrize(("room", "fitting", "why"), [
    (3.5, [0, 1, 2, 3], "4 would take"), (100, [0, *SIZES], "all: they take"), (0.5, [0], "1 take")])
def test_as_many_as_fit(room, fitting, why):
    memory, tried = Memory(torch.device("cpu"), 1), []
    memory.limit = memory.held() + int(room * EACH)
    tries, told = largest(SIZES, partial(taking, memory, tried), memory, bool)
    assert [one.groups for one in tries] == fitting and told.startswith(why)
    assert tried == (fitting[1:] or [1])  # what would not fit was not tried
    for one in tries[1:]:
        assert abs(one.bytes - tries[0].bytes - one.groups * EACH) < EACH / 4


def test_one_rank_that_is_full_stops_all():
    memory, tried = Memory(torch.device("cpu"), 1), []
    tries, _ = largest(SIZES, partial(taking, memory, tried), memory, lambda one: one or len(tried) == 2)
    assert [one.groups for one in tries] == [0, 1]


def test_slow_passes_are_enough():
    memory = Memory(torch.device("cpu"), 1)
    tries, told = largest(SIZES, lambda groups: Try(groups, 0, 15.0 * groups), memory, bool)
    assert tries[-1].groups == 2 and told == "a pass takes 30 s: more at a time would make nothing faster"


def test_what_grows_is_told_from_what_does_not():
    assert extrapolated(Try(2, 1020, 0), Try(4, 1040, 0), 10) == 1100
    assert extrapolated(Try(2, 1020, 0), Try(4, 1000, 0), 10) == 1000  # others' memory came back in between


def test_sizes():
    assert divisors(12) == [1, 2, 3, 4, 6, 12] and divisors(1) == [1] and divisors(97) == [1, 97]


def test_free_memory_is_no_more_than_there_is():
    import psutil

    assert 0 < free_memory() <= psutil.virtual_memory().total


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
    from mux.plan import Point, StagePlan

    points = tuple(Point(learning_rate=1.0, batch=batch, micro_batch=None, accumulation=None) for batch in (16, 64))
    plan = StagePlan(id="a", kind="finetune", source=None, devices=1, batch=32)
    assert share_of(plan.model_copy(update={"points": points})) == 64 and share_of(plan) == 32
