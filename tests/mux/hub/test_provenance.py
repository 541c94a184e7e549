"""Which texts a model has learnt from: those of its own chain of stages, and of no other."""

from __future__ import annotations

import pytest

from mux.hub.provenance import chain, training_texts
from mux.plan import Cluster, Plan, StagePlan

STAGES = {  # id: (kind, source, tasks)
    "prime": ("retrieval", "hub:some/bert", ()),
    "pretrain": ("pretrain", "prime", ()),
    "tune": ("finetune", "pretrain", ("topic", "mood")),
    "elsewhere": ("finetune", "path:model", ("mood",)),
    "further": ("finetune", "elsewhere", ("topic",)),
    "alone": ("finetune", None, ("topic",)),
}


@pytest.fixture
def plan() -> Plan:
    recipe = {"corpus": {"sources": ("path:a.txt", "path:b.txt")},
              "tasks": {"define": {"mood": {"train": "path:moods.jsonl", "test": "path:test.jsonl"}}}}
    stages = tuple(StagePlan(id=name, kind=kind, source=source, devices=1, task_steps=dict.fromkeys(tasks, 5))
                   for name, (kind, source, tasks) in STAGES.items())
    return Plan(name="trial", directory="trial", recipe=recipe, recipe_digest="", provenance={}, stages=stages, jobs=(),
                cluster=Cluster(hosts=(), device="cpu", source="this host"), model={}, parameters=1, memory=[],
                disk_bytes=1)


CORPUS, TOPIC, MOOD = ("path:a.txt", "path:b.txt"), ("builtin:topic_train",), ("path:moods.jsonl",)


@pytest.mark.parametrize(("stage", "task", "texts", "start"), [
    ("prime", None, CORPUS, "hub:some/bert"),
    ("pretrain", None, CORPUS, "hub:some/bert"),
    ("tune", "topic", CORPUS + TOPIC, "hub:some/bert"),
    ("tune", "mood", CORPUS + MOOD, "hub:some/bert"),
    ("elsewhere", "mood", MOOD, "path:model"),  # the run has a corpus, but this model never saw it
    ("further", "topic", MOOD + TOPIC, "path:model"),
    ("alone", "topic", TOPIC, None),
])
def test_the_chain_of_a_model(plan: Plan, stage: str, task: str | None, texts: tuple[str, ...], start: str | None):
    assert training_texts(plan, stage, task) == texts
    assert chain(plan, stage)[0].source == start


def test_known_tasks_are_named_where_their_rows_were(plan: Plan):
    tune = plan.stages[2].model_copy(update={"task_steps": {"rte": 5}})
    for root, train in (("hub", "hub:nyu-mll/glue/rte:train"), ("path:data", "path:data/glue/RTE/train.tsv")):
        moved = plan.model_copy(update={"recipe": plan.recipe | {"tasks": {"root": root}}, "stages": (
            *plan.stages[:2], tune)})
        assert training_texts(moved, "tune", "rte") == (*CORPUS, train)
