"""The recipes of the repository: they load, they say what the paper says, and reading them needs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mux.recipe import FinetuneStage, PretrainStage, Recipe, RetrievalStage, ThroughputStage, load
from mux.recipe.tasks import TASKS

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
FAMILY = [(size, N) for size in ("SMALL", "BASE", "LARGE") for N in (1, 2, 5, 10)]


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 13
    assert {path.stem for path in RECIPES} >= {"quickstart", *(f"bert_{size.lower()}_n{N}" for size, N in FAMILY)}


@pytest.mark.parametrize("path", [*RECIPES, ROOT / "tests/recipes/tiny.toml"], ids=lambda path: path.stem)
def test_loads_under_its_own_name_and_says_how_to_run_it(path: Path) -> None:
    loaded = load(path)
    assert loaded.recipe.name == path.stem
    first_comment = loaded.text.split("\n\n")[0]
    assert first_comment.startswith("#") and f"mux-launch {path.relative_to(ROOT)}" in first_comment


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_provenance_names_the_lines_that_hold_the_keys(path: Path) -> None:
    loaded = load(path)
    stated = {key: where for key, where in loaded.provenance.items() if where != "default"}
    assert len(stated) >= 20
    for key, where in stated.items():
        file, line = where.rsplit(":", 1)
        assert key.split(".")[-1] in Path(file).read_text().splitlines()[int(line) - 1], (key, where)


def stage(recipe: Recipe, kind: type) -> object:
    return next(stage for stage in recipe.stages if isinstance(stage, kind))


@pytest.mark.parametrize(("size", "N"), FAMILY)
def test_the_family_carries_tables_7_and_8(size: str, N: int) -> None:
    recipe = load(ROOT / f"recipes/bert_{size.lower()}_n{N}.toml").recipe
    assert (recipe.model.size, recipe.model.N, recipe.model.family) == (size, N, "bert")
    assert (recipe.model.dropout, recipe.model.attention_dropout) == (0.1, 0.1)
    assert (recipe.corpus.sequence_length, recipe.engine.precision, recipe.cluster.max_restarts) == (512, "fp16", 10)
    kinds = [stage.kind for stage in recipe.stages]
    assert kinds == (["pretrain", "finetune", "throughput"] if N == 1 else
                     ["retrieval", "pretrain", "finetune", "ensemble", "throughput"])

    pretrain = stage(recipe, PretrainStage)
    assert isinstance(pretrain, PretrainStage)
    assert (pretrain.steps, pretrain.batch, pretrain.learning_rate) == (1_000_000, 256, 1e-4)
    assert (pretrain.warmup_steps, pretrain.mask_rate) == (10_000, 0.15)
    assert (pretrain.adam_epsilon, pretrain.adam_betas) == (1e-6, (0.9, 0.999))

    finetune = stage(recipe, FinetuneStage)
    assert isinstance(finetune, FinetuneStage)
    assert set(finetune.tasks) == set(TASKS) - {"topic"}
    assert finetune.search.batch == ((16, 64) if size == "LARGE" else (32, 128))
    assert finetune.search.learning_rate == (2e-5, 5e-5)
    assert (finetune.adam_epsilon, finetune.warmup_fraction, finetune.weight_decay) == (1e-8, 0.1, 0)
    assert (finetune.sequence_length, finetune.tickets, finetune.steps) == (128, 5, None)

    throughput = stage(recipe, ThroughputStage)
    assert isinstance(throughput, ThroughputStage)
    assert (throughput.batch, throughput.sequence_length) == (128, 128)
    assert (throughput.trials, throughput.batches) == (3, 200)
    if N > 1:
        retrieval = stage(recipe, RetrievalStage)
        assert isinstance(retrieval, RetrievalStage)
        assert (retrieval.steps, retrieval.learning_rate, retrieval.batch) == (10_000, 1e-4, 256)
        ensemble = next(stage for stage in recipe.stages if stage.kind == "ensemble")
        assert ensemble.copies == (1, N)


def test_steps_of_table_8() -> None:
    assert {name: task.steps for name, task in TASKS.items() if name != "topic"} == {
        "rte": 2_000, "wnli": 2_000, "mrpc": 10_000, "cola": 10_000, "stsb": 10_000, "sst2": 20_000, "qnli": 20_000,
        "mnli": 100_000, "qqp": 100_000,
    }


def test_reading_recipes_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import mux.event, mux.run, mux.recipe, mux.recipe.files\n"
        "mux.recipe.load(Path(sys.argv[1]))\n"
        "heavy = {'torch', 'deepspeed', 'transformers', 'datasets', 'numpy', 'sentencepiece'} & set(sys.modules)\n"
        "print(sorted(heavy))\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(ROOT / "recipes/bert_large_n2.toml")], cwd=ROOT,
                         capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
