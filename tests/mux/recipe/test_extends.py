"""`extends`, `drop` and `before`: what a child says on top of its base."""

from __future__ import annotations

from typing import Any

import pytest

from mux.recipe import EnsembleStage, FinetuneStage, PretrainStage, Recipe, RetrievalStage, Shape


def ids(recipe: Recipe) -> list[str]:
    return [stage.id for stage in recipe.stages]


def test_tables_merge_key_by_key_and_stages_by_id(folder: Any) -> None:
    loaded = folder.load("""
extends = "small.toml"
name = "child"
[model]
N = 5
[engine]
precision = "bf16"
[[stages]]
kind = "pretrain"
steps = 200
[[stages]]
id = "ensemble"                       # an id is enough: the kind is the base's
copies = [1, 5]
""")
    recipe = loaded.recipe
    assert (recipe.name, recipe.model.N, recipe.model.size, recipe.engine.precision) == ("child", 5, "TINY", "bf16")
    assert ids(recipe) == ["pretrain", "finetune", "ensemble"]
    pretrain, ensemble = recipe.stages[0], recipe.stages[2]
    assert isinstance(pretrain, PretrainStage) and isinstance(ensemble, EnsembleStage)
    assert (pretrain.steps, pretrain.warmup_steps, ensemble.copies) == (200, 10, (1, 5))
    expected = {
        "name": "x.toml:3", "model.N": "x.toml:5", "model.size": "small.toml:4", "engine.precision": "x.toml:7",
        "engine.zero_stage": "default", "stages.pretrain.steps": "x.toml:10",
        "stages.pretrain.warmup_steps": "small.toml:18", "stages.pretrain.id": "default",
        "stages.ensemble.id": "x.toml:12", "stages.ensemble.kind": "small.toml:25",
        "stages.ensemble.copies": "x.toml:13", "stages.ensemble.tickets": "default",
    }
    assert {key: loaded.provenance[key] for key in expected} == expected


def test_new_stages_go_to_the_end_or_before_another(folder: Any) -> None:
    recipe = folder.load("""
extends = "small.toml"
[[stages]]
kind = "throughput"
[[stages]]
kind = "retrieval"
before = "pretrain"
[[stages]]
id = "again"
kind = "finetune"
before = "throughput"
from = "pretrain"
tasks = ["topic"]
""").recipe
    assert ids(recipe) == ["retrieval", "pretrain", "finetune", "ensemble", "again", "throughput"]


def test_before_moves_a_stage_of_the_base(folder: Any) -> None:
    folder.write("base.toml", folder.changed() + '[[stages]]\nkind = "retrieval"\nsteps = 5\n')
    recipe = folder.load('extends = "base.toml"\n[[stages]]\nid = "retrieval"\nbefore = "pretrain"\n').recipe
    assert ids(recipe) == ["retrieval", "pretrain", "finetune", "ensemble"]
    assert isinstance(recipe.stages[0], RetrievalStage) and recipe.stages[0].steps == 5


def test_the_steps_of_a_parent_may_name_tasks_that_a_child_leaves_out(folder: Any) -> None:
    both = 'tasks = ["topic", "sst2"]\nsteps = {topic = 7, sst2 = 8}'
    folder.write("base.toml", folder.changed(('tasks = ["topic"]', both)))
    recipe = folder.load('extends = "base.toml"\n[[stages]]\nid = "finetune"\ntasks = ["sst2"]\n').recipe
    assert next(stage.steps for stage in recipe.stages if stage.id == "finetune") == {"topic": 7, "sst2": 8}


def test_drop_removes_stages_of_the_base(folder: Any) -> None:
    recipe = folder.load('extends = "small.toml"\ndrop = ["ensemble", "pretrain"]\n').recipe
    assert ids(recipe) == ["finetune"]


def test_a_dropped_stage_can_be_written_anew(folder: Any) -> None:
    loaded = folder.load("""
extends = "small.toml"
drop = ["pretrain"]
[[stages]]
kind = "pretrain"
before = "finetune"
steps = 20_000
""")
    assert ids(loaded.recipe) == ["pretrain", "finetune", "ensemble"]
    assert loaded.provenance["stages.pretrain.warmup_steps"] == "default"
    assert loaded.provenance["stages.pretrain.steps"] == "x.toml:7"


def test_a_stage_of_another_kind_takes_place_and_id_but_no_key(folder: Any) -> None:
    loaded = folder.load('extends = "small.toml"\n[[stages]]\nid = "pretrain"\nkind = "retrieval"\nsteps = 7\n')
    stage = loaded.recipe.stages[0]
    assert isinstance(stage, RetrievalStage)
    assert (stage.id, stage.steps, stage.warmup_steps) == ("pretrain", 7, 0)
    assert loaded.provenance["stages.pretrain.warmup_steps"] == "default"


def test_size_as_a_name_and_as_a_table(folder: Any) -> None:
    table = "size = {layers = 4, hidden = 64, heads = 2, intermediate = 128}"
    folder.write("base.toml", folder.changed(('size = "TINY"', table)))
    assert folder.load('extends = "base.toml"\n[model]\nsize = "SMALL"\n').recipe.model.size == "SMALL"
    child = folder.load('extends = "base.toml"\n[model.size]\nlayers = 3\n')  # tables merge here, too
    assert child.recipe.model.size == Shape(layers=3, hidden=64, heads=2, intermediate=128)
    assert child.provenance["model.size.layers"] == "x.toml:3"
    assert child.provenance["model.size.heads"] == "base.toml:4"
    assert "model.size" not in child.provenance
    replaced = folder.load(f'extends = "small.toml"\n[model]\n{table}\n')
    assert isinstance(replaced.recipe.model.size, Shape)


def test_steps_as_a_number_and_by_task(folder: Any) -> None:
    def steps(base: str, child: str) -> Any:
        folder.write("base.toml", folder.changed(('tasks = ["topic"]', f'tasks = ["topic", "rte"]\nsteps = {base}')))
        stage = folder.load(f'extends = "base.toml"\n[[stages]]\nkind = "finetune"\nsteps = {child}\n').recipe.stages[1]
        assert isinstance(stage, FinetuneStage)
        return stage.steps

    assert steps("5", "{topic = 6}") == {"topic": 6}
    assert steps("{topic = 6}", "5") == 5
    assert steps("{topic = 6, rte = 7}", "{topic = 8}") == {"topic": 8, "rte": 7}


def test_other_lists_replace(folder: Any) -> None:
    folder.write("base.toml", folder.changed(('["topic"]', '["topic", "rte"]\nsearch = {batch = [16, 64]}')))
    recipe = folder.load("""
extends = "base.toml"
[[stages]]
kind = "finetune"
tasks = ["cola"]
[stages.search]
learning_rate = [1e-5]
""").recipe
    stage = recipe.stages[1]
    assert isinstance(stage, FinetuneStage)
    assert (stage.tasks, stage.search.batch, stage.search.learning_rate) == (("cola",), (16, 64), (1e-5,))


def test_bases_of_bases_are_found_from_the_file_that_names_them(folder: Any) -> None:
    folder.write("lib/b.toml", 'extends = "../small.toml"\n[model]\nN = 3\n')
    folder.write("lib/a.toml", 'extends = "b.toml"\n[model]\ndropout = 0.2\n')
    loaded = folder.load('extends = "lib/a.toml"\nname = "x"\n')
    assert (loaded.recipe.model.N, loaded.recipe.model.dropout) == (3, 0.2)
    assert loaded.provenance["model.N"] == "lib/b.toml:3"
    assert loaded.provenance["model.size"] == "lib/../small.toml:4"
    assert loaded.text == 'extends = "lib/a.toml"\nname = "x"\n'


def test_of_several_bases_the_later_stands_and_a_file_counts_once(folder: Any) -> None:
    """Two children of one base are two experiments: together they are both, not the last and its base again."""
    folder.write("deep.toml", 'extends = "small.toml"\n[model]\nN = 3\n[corpus]\nsequence_length = 64\n')
    folder.write("dry.toml", 'extends = "small.toml"\ndrop = ["ensemble"]\n[model]\ndropout = 0.2\nN = 5\n')
    both = folder.load('extends = ["deep.toml", "dry.toml"]\nname = "x"\n')
    assert (both.recipe.model.N, both.recipe.model.dropout, both.recipe.corpus.sequence_length) == (5, 0.2, 64)
    assert "ensemble" not in [stage.id for stage in both.recipe.stages]
    assert both.provenance["corpus.sequence_length"] == "deep.toml:5" and both.provenance["model.N"] == "dry.toml:5"
    other = folder.load('extends = ["dry.toml", "deep.toml", "./dry.toml"]\nname = "x"\n')
    assert (other.recipe.model.N, other.recipe.model.dropout, other.recipe.corpus.sequence_length) == (3, 0.2, 64)


def test_what_several_bases_drop(folder: Any) -> None:
    folder.write("dry.toml", 'extends = "small.toml"\ndrop = ["ensemble"]\n')
    folder.write("short.toml", 'extends = "small.toml"\ndrop = ["ensemble", "pretrain"]\n')
    folder.write("more.toml", 'extends = "small.toml"\n[[stages]]\nid = "ensemble"\ntickets = 3\n')
    assert ids(folder.load('extends = ["dry.toml", "short.toml"]\nname = "x"\n').recipe) == ["finetune"]
    assert "ensemble" not in ids(folder.load('extends = ["more.toml", "dry.toml"]\nname = "x"\n').recipe)
    assert folder.refusal('extends = ["dry.toml", "more.toml"]\nname = "x"\n') == """\
more.toml:2: stages.ensemble: was dropped in dry.toml:2
    give it a kind of its own, or have extends name the file that drops it last"""


def test_bases_have_an_end(folder: Any) -> None:
    for index in range(25):
        folder.write(f"b{index}.toml", f'extends = ["small.toml", "b{index + 1}.toml"]\n')
    assert folder.refusal('extends = "b0.toml"\n').startswith(
        "b17.toml:1: extends[1]: is one base too many: with all they extend, recipes are at most 20 files")
    folder.write("b2.toml", 'extends = "small.toml"\n')
    assert folder.load('extends = ["b0.toml", "b1.toml", "b2.toml"]\nname = "x"\n').recipe.name == "x"
    told = folder.refusal(f"extends = {['small.toml'] * 21}\n")
    assert told.startswith("x.toml:1: extends[20]: is one base too many")


def test_what_was_replaced_is_forgotten(folder: Any) -> None:
    """The places of a table's keys do not outlive the table."""
    table = "size = {layers = 4, hidden = 64, heads = 2, intermediate = 128}"
    folder.write("base.toml", folder.changed(('size = "TINY"', table)))
    folder.write("mid.toml", 'extends = "base.toml"\n[model]\nsize = "SMALL"\n')
    told = folder.refusal('extends = "mid.toml"\n[model.size]\nlayers = 3\nheads = 1\nintermediate = 8\n')
    assert told == "x.toml:2: model.size.hidden: is missing"


NO_PATH = "must be the path of a recipe, from the folder of this one, or an array of such paths; it is"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('extends = "smal.toml"\n', "x.toml:1: extends: smal.toml: no such file\n    did you mean small.toml?"),
        ('\nextends = ""\n', f'x.toml:2: extends: {NO_PATH} ""'),
        ("extends = []\n", f"x.toml:1: extends: {NO_PATH} []"),
        ("extends = 1\n", f"x.toml:1: extends: {NO_PATH} 1"),
        ('extends = [\n"small.toml",\n1]\n', f"x.toml:3: extends[1]: {NO_PATH} 1"),
        ('extends = ["small.toml", "smal.toml"]\n',
         "x.toml:1: extends[1]: smal.toml: no such file\n    did you mean small.toml?"),
        ('extends = ["small.toml", "x.toml"]\n', "x.toml:1: extends[1]: goes round in a circle: x.toml -> x.toml"),
        ('extends = "x.toml"\n', "x.toml:1: extends: goes round in a circle: x.toml -> x.toml"),
        ('extends = "lib/up.toml"\n',
         "lib/up.toml:1: extends: goes round in a circle: x.toml -> lib/up.toml -> lib/../x.toml"),
        ('extends = "lib"\n', "x.toml:1: extends: lib: is a directory, not a recipe\n    lib has: up.toml"),
        ('extends = "a\\u0000b"\n', "x.toml:1: extends: a\\u0000b: cannot be read: embedded null byte"),
        ('extends = "bad.toml"\n', "bad.toml:2: is not TOML, column 5: invalid value"),
        ('extends = "small.toml"\ndrop = ["ensembel"]\n',
         'x.toml:2: drop: "ensembel" is no stage of the base\n    did you mean "ensemble"?'),
        ('extends = "small.toml"\ndrop = "ensemble"\n',
         'x.toml:2: drop: must be an array of stage ids, is "ensemble"'),
        ('extends = "small.toml"\ndrop = ["pretrain", "finetune", "ensemble"]\n',
         "x.toml:2: stages: needs at least one"),
        ('extends = "small.toml"\n[[stages]]\nkind = "throughput"\nbefore = "train"\n',
         'x.toml:4: stages.throughput.before: "train" is no other stage of this recipe\n    did you mean "pretrain"?'),
        ('extends = "small.toml"\n[[stages]]\nkind = "throughput"\nbefore = 3\n',
         "x.toml:4: stages.throughput.before: must be the id of a stage, is 3"),
        ('extends = "small.toml"\n[model]\nN = 1\n',
         "x.toml:3: stages.ensemble.copies[1]: 2 copies do not fit in groups of N = 1"),
        ('extends = "small.toml"\n[[stages]]\nid = "pretrain"\nsteps = 5\n',
         "x.toml:4: stages.pretrain.warmup_steps: 10 is more than steps = 5"),
    ],
)
def test_refusals(folder: Any, text: str, told: str) -> None:
    folder.write("lib/up.toml", 'extends = "../x.toml"\n')
    folder.write("bad.toml", "a = 1\nb = ?\n")
    assert folder.refusal(text) == told


def test_drop_and_before_need_a_base(folder: Any) -> None:
    text = folder.changed(('name = "small"', 'name = "small"\ndrop = ["x"]'),
                          ('kind = "ensemble"', 'kind = "ensemble"\nbefore = "pretrain"'))
    assert folder.refusal(text) == """\
x.toml:2: drop: drops stages of a base, but this file extends none
x.toml:27: stages.ensemble.before: places a stage among those of a base, but this file extends none
    write the stages in the order in which they run"""
