"""The identity of a recipe, and what differs between two."""

from __future__ import annotations

import re
from typing import Any

from mux.recipe import Recipe, differences, digest, harmless
from mux.recipe.digest import leaves, resolved


def test_the_digest_is_of_the_values_not_of_the_writing(folder: Any) -> None:
    plain = folder.load(folder.changed())
    other = folder.load(
        'extends = "small.toml"\n[corpus]\nsequence_length = 64\n[model]\ndropout = 0.1\n[[stages]]\nid = "pretrain"\n'
        "learning_rate = 0.1e-3 # the default\n", name="other.toml")
    assert digest(plain.recipe) == digest(other.recipe)
    assert re.fullmatch("[0-9a-f]{64}", digest(plain.recipe))
    assert digest(folder.load(folder.changed(), "model.dropout=0").recipe) != digest(plain.recipe)
    one, other = (folder.load(folder.changed(('["topic"]', f'["topic", "rte"]\nsteps = {steps}'))).recipe
                  for steps in ("{topic = 1, rte = 2}", "{rte = 2, topic = 1}"))
    assert digest(one) == digest(other)
    # an int where a float is asked for is that float
    assert digest(folder.load(folder.changed(), "model.dropout=0").recipe) == (
        digest(folder.load(folder.changed(), "model.dropout=0.0").recipe))


def test_harmless_keys_leave_the_digest_alone(folder: Any) -> None:
    plain = digest(folder.load(folder.changed()).recipe)
    for change in ("cluster.max_restarts=3", "stages.pretrain.log_every=1", "stages.finetune.save_every=7",
                   'health.policy="rollback"', "slurm.nodes=3", "engine.micro_batch=1", "engine.zero_stage=2"):
        assert digest(folder.load(folder.changed(), change).recipe) == plain, change
        assert harmless(change.split("=")[0])
    for change in ("stages.pretrain.seed=1", "stages.pretrain.batch=64", 'engine.precision="bf16"'):
        assert digest(folder.load(folder.changed(), change).recipe) != plain, change


def test_a_resolved_recipe_is_a_recipe_again(folder: Any) -> None:
    recipe = folder.load(folder.changed(('["topic"]', '["topic", "rte"]\nfrom = "pretrain"\nsteps.topic = 9'))).recipe
    again = Recipe.model_validate(resolved(recipe))
    assert again == recipe and digest(again) == digest(recipe)


def test_leaves_are_the_keys_of_the_provenance(folder: Any) -> None:
    loaded = folder.load(folder.changed())
    values = leaves(resolved(loaded.recipe))
    assert values["stages", "pretrain", "steps"] == 100
    assert values["stages", "finetune", "from"] is None
    assert values["tasks", "define"] == {}
    assert len(values) == len(loaded.provenance)


def test_differences_by_dotted_key(folder: Any) -> None:
    old = resolved(folder.load(folder.changed()).recipe)
    assert differences(old, old) == []
    size = "size = {layers = 1, hidden = 8, heads = 1, intermediate = 8}"
    new = resolved(folder.load(folder.changed(
        ('size = "TINY"', size), ("steps = 100", "steps = 200"), ("[1, 2]", "[2]"),
        ('kind = "finetune"', 'kind = "finetune"\nid = "topic"'),
    )).recipe)
    shape = {"layers": 1, "hidden": 8, "heads": 1, "intermediate": 8}
    assert differences(old, new) == [
        ("model.size", "TINY", shape),
        ("stages.pretrain.steps", 100, 200),
        ("stages.finetune", old["stages"][1], None),
        ("stages.ensemble.copies", [1, 2], [2]),
        ("stages.topic", None, new["stages"][1]),
    ]


def test_another_order_of_stages_is_a_difference(folder: Any) -> None:
    text = folder.changed() + '[[stages]]\nkind = "throughput"\n'
    old = folder.load(text, name="old.toml").recipe
    new = folder.load('extends = "old.toml"\n[[stages]]\nkind = "throughput"\nbefore = "pretrain"\n').recipe
    order = ["pretrain", "finetune", "ensemble", "throughput"]
    assert differences(resolved(old), resolved(new)) == [("stages", order, ["throughput", *order[:3]])]
    assert digest(old) != digest(new)
