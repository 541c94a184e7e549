"""`--set KEY=VALUE`."""

from __future__ import annotations

from typing import Any

import pytest

from mux.recipe import FinetuneStage, PretrainStage, Shape
from mux.recipe.overrides import read


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("model.N=5", ("model", "N"), 5),
        (" model.N = 5 ", ("model", "N"), 5),
        ("engine.precision=bf16", ("engine", "precision"), "bf16"),
        ('engine.precision="bf16"', ("engine", "precision"), "bf16"),
        ("x=a=b", ("x",), "a=b"),
        ("x=path:a b.txt", ("x",), "path:a b.txt"),
        ("x=1e-3", ("x",), 1e-3),
        ("x=true", ("x",), True),
        ("x=True", ("x",), "True"),
        ("x=[1, 2]", ("x",), [1, 2]),
        ("x=[1,\n2]", ("x",), [1, 2]),
        ("x={a = 1}", ("x",), {"a": 1}),
        ('a."b.c=d".e=1', ("a", "b.c=d", "e"), 1),
        ("x=1\ny = 2", ("x",), "1\ny = 2"),  # one value, whatever the shell let through
        ("x=1 # c", ("x",), 1),
    ],
)
def test_a_value_is_toml_or_a_bare_text(text: str, key: tuple[str, ...], value: Any) -> None:
    assert read([text]) == ([(key, value)], [])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model.N", "model.N is not KEY=VALUE"),
        ("=3", "=3 is not KEY=VALUE"),
        ("", " is not KEY=VALUE"),
        ("model.N= ", "model.N=  has no value"),
        ("model..N=3", "model..N=3 has a key that TOML does not read"),
        ("a b=3", "a b=3 has a key that TOML does not read"),
        ("a=1\n[b]\nc=3", None),
        ("[b]\nc=3", "[b]\\u000ac=3 has a key that TOML does not read"),
        ("#=3", "#=3 has a key that TOML does not read"),
        ("x=[a, b]", "x=[a, b] has a value that TOML does not read"),
        ("x='a", "x='a has a value that TOML does not read"),
        ("x=\udcff", "x=\\udcff is not UTF-8"),
        ("x=" + "[" * 600 + "]" * 600, "x=" + "[" * 78 + " has a value that TOML does not read"),
        ("x=" + "1" * 20_000, "x=" + "1" * 78 + " ... is longer than 10_000 characters"),
    ],
)
def test_malformed(text: str, told: str | None) -> None:
    changes, problems = read([text])
    if told is None:
        assert changes == [(("a",), "1\n[b]\nc=3")]
    else:
        assert changes == []
        assert [(problem.where, problem.message) for problem in problems] == [("--set", told)]


def test_overrides_are_laid_on_top(folder: Any) -> None:
    loaded = folder.load(
        folder.changed(), "stages.pretrain.steps=300", "model.N=3", "engine.precision=bf16",
        "stages.pretrain.steps=200", "stages.finetune.search={batch = [4]}", "stages.finetune.steps.topic=9",
        "model.dropout=0",
    )
    pretrain, finetune = loaded.recipe.stages[:2]
    assert isinstance(pretrain, PretrainStage) and isinstance(finetune, FinetuneStage)
    assert (pretrain.steps, pretrain.warmup_steps) == (200, 10)
    assert (finetune.search.batch, finetune.steps) == ((4,), {"topic": 9})
    assert (loaded.recipe.model.N, loaded.recipe.model.dropout) == (3, 0.0)
    assert sorted(key for key, where in loaded.provenance.items() if where == "--set") == [
        "engine.precision", "model.N", "model.dropout", "stages.finetune.search.batch", "stages.finetune.steps.topic",
        "stages.pretrain.steps"]
    assert loaded.provenance["stages.finetune.search.learning_rate"] == "default"


def test_a_size_replaces_a_name(folder: Any) -> None:
    size = "model.size={layers = 1, hidden = 8, heads = 1, intermediate = 8}"
    loaded = folder.load(folder.changed(), size, "model.size.layers=2")
    assert loaded.recipe.model.size == Shape(layers=2, hidden=8, heads=1, intermediate=8)
    assert folder.load(folder.changed(), size, "model.size=BASE").recipe.model.size == "BASE"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stages.pretrain.stepz=3", "stages.pretrain.stepz: is not a key\n    did you mean stages.pretrain.steps?"),
        ("steps=3", "steps: is not a key\n    did you mean stages?; "
         "steps is a key of retrieval, pretrain and finetune stages and [tasks.define.NAME]"),
        ("engine.precison=bf16", "engine.precison: is not a key\n    did you mean engine.precision?"),
        ("stages.pretrian.steps=3",
         'stages.pretrian.steps: "pretrian" is no stage of this recipe\n    did you mean "pretrain"?'),
        ("stages.0.steps=3",
         'stages.0.steps: "0" is no stage of this recipe\n    stages: pretrain, finetune, ensemble'),
        ("stages.pretrain=3", "stages.pretrain: is not a key\n    write --set stages.ID.KEY=VALUE"),
        ("stages=[]", "stages: is not a key\n    write --set stages.ID.KEY=VALUE"),
        ("stages.pretrain.kind=retrieval", "stages.pretrain.kind: belongs in a recipe file: it is what the stage is\n"
         "    write a recipe that extends this one"),
        ("drop=['ensemble']", "drop: belongs in a recipe file"),
        ("model.N=x", 'model.N: must be a whole number, is "x"'),
        ("model.N=0", "model.N: must be at least 1, is 0"),
        ("name=123", "name: must be a text, is 123\n    quote it twice: --set 'name=\"123\"'"),
        ("name.x=1", "name: must be a text, is a table"),
        ("model.size={layers = 2}", "model.size.hidden: is missing\n--set: model.size.heads: is missing\n"
         "--set: model.size.intermediate: is missing"),
        ("corpus.sequence_length=600", "corpus.sequence_length: 600 is more than model.max_positions = 512"),
        ("stages.pretrain.steps=5", "stages.pretrain.warmup_steps: 10 is more than steps = 5"),
        ("model.N=1", "stages.ensemble.copies[1]: 2 copies do not fit in groups of N = 1"),
        (".".join("a" * 900) + "=1", "a: is not a key\n    "
         "keys here: extends, drop, name, model, tokenizer, corpus, engine, cluster, health, slurm, tasks, stages"),
    ],
)
def test_refusals(folder: Any, text: str, told: str) -> None:
    assert folder.refusal(folder.changed(), text) == f"--set: {told}"
