"""The known tasks: from the hub and from a folder they are the same task."""

from __future__ import annotations

from pathlib import Path

import pytest

from mux.recipe.averages import AVERAGES
from mux.recipe.files import split_hub
from mux.recipe.schema import TaskDefinition, TasksSection
from mux.recipe.tasks import ORIGINALS, TASKS, definition_of, known, missing

NAMED = sorted(ORIGINALS)
MINE = TaskDefinition(train="path:a.jsonl", test="path:b.jsonl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with every original file, each where it may be last: empty."""
    for original in ORIGINALS.values():
        for places in original.files.values():
            path = tmp_path / places[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return tmp_path


def test_all_tasks_of_the_paper_have_names_and_files() -> None:
    assert set(NAMED) == set(AVERAGES["glue"]) | set(AVERAGES["token"]) == set(TASKS) - {"topic"}
    for task, metric in (AVERAGES["glue"] | AVERAGES["token"]).items():
        assert metric in (TASKS[task].metric, *TASKS[task].others)


@pytest.mark.parametrize("name", NAMED)
def test_on_the_hub_a_split_is_named(name: str) -> None:
    task = definition_of(name, TasksSection())
    assert task == TASKS[name]
    for source in (task.train, task.test, *task.also.values()):
        assert split_hub(source)[3] is not None


@pytest.mark.parametrize("name", NAMED)
def test_only_places_and_columns_differ_in_the_folder(name: str, folder: Path) -> None:
    tasks = TasksSection(root=f"path:{folder}")
    here, there = definition_of(name, tasks), TASKS[name]
    assert TaskDefinition.model_validate(here.model_dump()) == here  # fields were replaced without validation
    same = ("labels", "metric", "others", "regression", "steps")
    assert {field: getattr(here, field) for field in same} == {field: getattr(there, field) for field in same}
    assert here.also.keys() == there.also.keys() and (here.tokens is None) == (there.tokens is None)
    for source in (here.train, here.test, *here.also.values()):
        assert Path(source.removeprefix("path:")).is_file() and source.startswith(f"path:{folder}/")
    assert list(missing(name, tasks)) == []


def test_mnli_is_matched_and_mismatched(folder: Path) -> None:
    task = definition_of("mnli", TasksSection(root=f"path:{folder}"))
    assert task.test.endswith("MNLI/dev_matched.tsv")
    assert {name: Path(source).name for name, source in task.also.items()} == {"mismatched": "dev_mismatched.tsv"}


def test_the_first_place_counts_and_stands_for_a_file_that_is_missing(folder: Path) -> None:
    tasks = TasksSection(root=f"path:{folder}")
    assert definition_of("sst2", tasks).train == f"path:{folder}/SST-2/train.tsv"
    (folder / "glue/SST-2").mkdir(parents=True)
    (folder / "glue/SST-2/train.tsv").touch()
    assert definition_of("sst2", tasks).train == f"path:{folder}/glue/SST-2/train.tsv"
    assert definition_of("sst2", tasks).test == f"path:{folder}/SST-2/dev.tsv"
    (folder / "SST-2/dev.tsv").unlink()
    assert definition_of("sst2", tasks).test == f"path:{folder}/glue/SST-2/dev.tsv"
    assert list(missing("sst2", tasks)) == [("glue/SST-2/dev.tsv", "glue_data/SST-2/dev.tsv", "SST-2/dev.tsv")]


def test_the_recipes_own_task_comes_first(folder: Path) -> None:
    tasks = TasksSection(root=f"path:{folder}", define={"sst2": MINE, "mine": MINE})
    assert definition_of("sst2", tasks) == definition_of("mine", tasks) == MINE
    assert list(missing("sst2", tasks)) == []
    assert definition_of("topic", tasks) == TASKS["topic"]  # it comes with the program
    assert set(known(tasks)) == {*TASKS, "mine"} and set(known(TasksSection())) == set(TASKS)
    with pytest.raises(KeyError):
        definition_of("none", tasks)
