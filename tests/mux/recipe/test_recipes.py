"""The recipes of the repository: they load, they say what the paper says, and reading them needs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mux.recipe import FinetuneStage, PretrainStage, Recipe, RetrievalStage, ThroughputStage, differences, load
from mux.recipe.digest import resolved
from mux.recipe.tasks import TASKS

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
RESULTS = sorted((ROOT / "recipes/results").glob("*.toml"))
TOP = [path for path in RECIPES if path.parent.name == "recipes"]
FAMILY = [(size, N) for size in ("SMALL", "BASE", "LARGE") for N in (1, 2, 5, 10)]


MULTIPLEXED = (2, 5, 10)
TMUX = [(size, N) for size in ("SMALL", "BASE", "LARGE") for N in MULTIPLEXED]
TABLE_12 = [(N, rate) for N in MULTIPLEXED for rate in ("0.1", "0.2", "0.5")]
TABLE_2 = {
    "hub_distilbert": "hub:distilbert/distilbert-base-uncased",
    "hub_tinybert6": "hub:huawei-noah/TinyBERT_General_6L_768D",
    "hub_mobilebert": "hub:google/mobilebert-uncased",
    "hub_prune_ofa": "hub:Intel/bert-base-uncased-sparse-85-unstructured-pruneofa",
}


OFFLINE = {"offline_eval": 2, "offline_eval_n1": 1, "offline_eval_n5": 5}


def test_there_are_recipes() -> None:
    assert {path.stem for path in TOP} == {
        "quickstart", "throughput_table", *OFFLINE, *TABLE_2,
        *(f"bert_{size.lower()}_n{N}" for size, N in FAMILY), *(f"electra_base_n{N}" for N in (1, *MULTIPLEXED)),
        *(f"tmux_{size.lower()}_n{N}" for size, N in TMUX), *(f"contextual_base_n{N}" for N in MULTIPLEXED),
        *(f"prefix_base_n{N}" for N in MULTIPLEXED), *(f"bert_large_n{N}_retrieval_{rate}" for N, rate in TABLE_12),
    }


@pytest.mark.parametrize("path", [*RECIPES, ROOT / "tests/recipes/tiny.toml"], ids=lambda path: path.stem)
def test_loads_under_its_own_name_and_says_how_to_run_it(path: Path) -> None:
    loaded = load(path)
    folder = ROOT / ("recipes" if path in RECIPES else "tests/recipes")
    assert loaded.recipe.name == "_".join(path.relative_to(folder).with_suffix("").parts)
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
    assert kinds == (["pretrain", "finetune", "throughput", "muxology"] if N == 1 else
                     ["retrieval", "pretrain", "finetune", "ensemble", "throughput", "muxology"])

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
    assert finetune.search.choose_on == "dev"  # as the paper
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
        assert ensemble.copies is None  # every number up to N


def changes(base: str, name: str) -> dict[str, object]:
    """Dotted key -> its value in recipe `name`, where that differs from the one of recipe `base`."""
    one, other = (resolved(load(ROOT / f"recipes/{recipe}.toml").recipe) for recipe in (base, name))
    found = {key: new for key, _, new in differences(one, other)}
    assert found.pop("name") == name.replace("/", "_")
    return found


@pytest.mark.parametrize("N", [1, *MULTIPLEXED])
def test_electra_is_bert_in_all_but_its_family(N: int) -> None:
    assert changes(f"bert_base_n{N}", f"electra_base_n{N}") == {"model.family": "electra"}


@pytest.mark.parametrize("N", MULTIPLEXED)
def test_the_ablations_of_table_13(N: int) -> None:
    assert changes(f"bert_base_n{N}", f"contextual_base_n{N}") == {"model.multiplexer": "contextual"}
    assert changes(f"bert_base_n{N}", f"prefix_base_n{N}") == {
        "model.demultiplexer": "prefix", "corpus.sequence_length": 512 - N}


@pytest.mark.parametrize(("N", "rate"), TABLE_12)
def test_the_retrieval_rates_of_table_12(N: int, rate: str) -> None:
    assert changes(f"bert_large_n{N}", f"bert_large_n{N}_retrieval_{rate}") == {
        "stages.pretrain.retrieval_rate": float(rate)}


@pytest.mark.parametrize(("size", "N"), TMUX)
def test_tmux_is_primed_and_fine_tuned_but_not_pre_trained(size: str, N: int) -> None:
    found = changes(f"bert_{size.lower()}_n{N}", f"tmux_{size.lower()}_n{N}")
    assert found == {
        "model.demultiplexer": "prefix",
        "corpus.sources": ["hub:Salesforce/wikitext/wikitext-103-raw-v1"],
        "corpus.sequence_length": 512 - N,
        "stages.pretrain": None,
        "stages.retrieval.steps": 500_000,
        "stages.retrieval.warmup_steps": 10_000,
        "stages.retrieval.save_every": 10_000,
        "stages.finetune.retrieval_rate": 0.1,
        "stages.finetune.search.batch": [24],
    }


@pytest.mark.parametrize(("name", "source"), TABLE_2.items())
def test_the_baselines_of_table_2_are_fine_tuned_and_timed_as_bert_is(name: str, source: str) -> None:
    found = changes("bert_base_n1", name)
    assert found.pop("engine.precision", "bf16") == "bf16"
    assert found == {"model.family": "hub", "model.source": source, "tokenizer.source": source,
                     "stages.pretrain": None}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_have_twins_that_differ_in_where_things_come_from(path: Path) -> None:
    found = changes(f"results/{path.stem}", f"results/hub/{path.stem}")
    wikitext = "hub:Salesforce/wikitext/wikitext-103-raw-v1"
    assert found.pop("tokenizer.source") == "hub:google-bert/bert-base-uncased"
    assert found.pop("corpus.sources") == [f"{wikitext}:train"] and found.pop("tasks.root") == "hub"
    assert found.pop("stages.muxology.corpus", None) in (f"{wikitext}:validation", None)
    assert all(key.endswith((".from", ".teacher")) and new.startswith("run:runs/results_hub_")
               for key, new in found.items())  # of another run: the twin of that run


def test_steps_of_table_8() -> None:
    assert {name: task.steps for name, task in TASKS.items() if name != "topic"} == {
        "rte": 2_000, "wnli": 2_000, "mrpc": 10_000, "cola": 10_000, "stsb": 10_000, "sst2": 20_000, "qnli": 20_000,
        "ner": 20_000, "pos": 20_000, "mnli": 100_000, "qqp": 100_000,
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
