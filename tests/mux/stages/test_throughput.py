"""Throughput: which models are timed, what they are fed, whose turn it is, what comes of the seconds, what is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import BertForSequenceClassification, BertForTokenClassification, DistilBertConfig, DistilBertModel

from mux.model import MuxForSequenceClassification
from mux.recipe import ModelSection, ThroughputModels, ThroughputStage, load
from mux.stages import timing
from mux.stages.throughput import BertBase, How, Table, alone, entries_of, grid, speeds
from mux.stages.timing import FED, HEADS, MODES, WINDOW, Contestant, RaggedRows, RandomRows, race

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
CPU = torch.device("cpu")


def stage(**values) -> ThroughputStage:
    small = {"kind": "throughput", "id": "throughput", "batch": 4, "sequence_length": 16, "trials": 2, "batches": 2}
    return ThroughputStage.model_validate(small | values)


@pytest.fixture
def made(context):
    """made(**model): a context that can time."""
    def made(**model):
        one = context(**model)
        one.ranks = SimpleNamespace(**vars(one.ranks) | {"device": CPU, "device_name": "cpu"})
        one.told = []
        one.progress = lambda what, done, total, unit="": one.told.append(what)
        return one
    return made


def named(context, **models) -> list[str]:
    return [entry.name for entry in entries_of(context, stage(models=models))]


# --- which models -------------------------------------------------------------------------------------------
def test_by_default_the_recipes_own_model_its_single_and_bert_base(made):
    assert named(made()) == ["bert 2x32, N = 2", "bert 2x32, N = 1", "bert BASE (transformers)"]
    assert named(made(N=1)) == ["bert 2x32, N = 1", "bert BASE (transformers)"]


def test_a_grid_has_each_model_once(made):
    found = named(made(), family=["bert", "electra"], size=["TINY", "SMALL"], N=[1, 2, 5],
                  multiplexer=["gaussian", "contextual"], demultiplexer=["rsa", "prefix"])
    assert len(found) == len(set(found)) == 2 * 2 * (1 + 2 * 2 * 2) + 1
    assert found[:6] == ["bert TINY, N = 1", "bert TINY, N = 2", "bert TINY, N = 2, prefix",
                         "bert TINY, N = 2, contextual", "bert TINY, N = 2, contextual, prefix", "bert TINY, N = 5"]
    assert found[-2:] == ["electra SMALL, N = 5, contextual, prefix", "bert BASE (transformers)"]


def test_what_a_grid_leaves_out_is_the_recipes(made):
    context = made(multiplexer="contextual", N=3, demultiplexer_layers=2)
    assert named(context, size=["TINY"]) == ["bert TINY, N = 3, contextual", "bert TINY, N = 1",
                                             "bert BASE (transformers)"]
    section = entries_of(context, stage(models={"size": ["TINY"]}))[0].section
    assert section.demultiplexer_layers == 2 and section.max_positions == 40


def test_published_numerics_multiplex_at_n1_too(made):
    found = entries_of(made(compat="princeton"), stage(models={"N": [1], "demultiplexer": ["rsa", "prefix"]}))
    assert [entry.name for entry in found[:-1]] == ["bert 2x32, N = 1", "bert 2x32, N = 1, prefix"]
    assert [entry.columns["demultiplexer"] for entry in found] == ["rsa", "prefix", None]


def test_each_has_its_own_single(made):
    context = made()
    many, one, base = entries_of(context, stage())
    assert alone(context, many) == one == alone(context, one) and alone(context, base) == base
    prefix = entries_of(context, stage(models={"demultiplexer": ["prefix"], "N": [2]}))[0]
    assert alone(context, prefix) == one


def test_columns_say_what_is_multiplexed(made, tmp_path):
    source = f"path:{tmp_path}"
    many, one, hub, base = entries_of(made(), stage(models={"hub": [source]}))
    keys = ("family", "size", "N", "multiplexer", "demultiplexer", "source")
    assert [[entry.columns[key] for key in keys] for entry in (many, one, hub, base)] == [
        ["bert", "2x32", 2, "gaussian", "rsa", None], ["bert", "2x32", 1, None, None, None],
        ["hub", None, 1, None, None, source], ["bert", "BASE", 1, None, None, None]]


def test_a_recipes_encoder_of_the_hub(made, tmp_path):
    context = made(family="hub", source=f"path:{tmp_path}")
    assert named(context) == [f"path:{tmp_path}", "bert BASE (transformers)"]
    assert named(context, family=["bert"], size=["TINY"], N=[2]) == ["bert TINY, N = 2", "bert BASE (transformers)"]
    with pytest.raises(ValueError, match=r'is a plain encoder and has no N = 2: .*family = \["bert"\]'):
        list(grid(ModelSection(family="hub", source="hub:a/b"), ThroughputModels(N=(2,))))


def test_bert_base_is_that_of_transformers_with_its_fast_attention():
    with torch.device("meta"):
        for head, kind in (("sequence", BertForSequenceClassification), ("token", BertForTokenClassification)):
            model = BertBase(1000).timed(head, HEADS[head].labels)
            assert type(model) is kind and model.config._attn_implementation == "sdpa"
            config = model.config
            assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (12, 768, 1000)
            assert config.num_labels == HEADS[head].labels
    with pytest.raises(ValueError, match="512 positions"):
        BertBase(1000).check(513)


def test_the_table_of_the_repository_has_every_model_of_the_paper():
    loaded = load(ROOT / "recipes/throughput_table.toml").recipe
    grids = {stage.id: list(dict.fromkeys(grid(loaded.model, stage.models))) for stage in loaded.stages}
    assert {name: len(sections) for name, sections in grids.items()} == {
        "throughput": 3 * (1 + 3 * 3 * 2), "electra": 4, "hub": 1}
    named = {(section.family, section.size, section.N, section.multiplexer, section.demultiplexer)
             for sections in grids.values() for section in sections}
    for recipe in RECIPES:
        model = load(recipe).recipe.model
        if model.family != "hub" and model.size in ("SMALL", "BASE", "LARGE"):
            assert (model.family, model.size, model.N, model.multiplexer, model.demultiplexer) in named, recipe
    assert {source for stage in loaded.stages for source in stage.models.hub} == {
        load(recipe).recipe.model.source for recipe in RECIPES if recipe.stem.startswith("hub_")}
    for stage in loaded.stages:
        assert (stage.batch, stage.sequence_length, stage.trials, stage.batches) == (128, 128, 3, 200)
        assert (len(stage.heads), len(stage.batches_of), len(stage.modes)) == (2, 3, 2)


# --- what they are fed --------------------------------------------------------------------------------------
def test_batches_are_whole_groups():
    assert [FED["instances"](128, N) for N in (1, 2, 5, 10)] == [128, 128, 130, 130]
    assert [FED["groups"](128, N) for N in (1, 2, 5, 10)] == [128, 256, 640, 1280]
    assert [FED["one_group"](128, N) for N in (1, 2, 5, 10)] == [1, 2, 5, 10]


@pytest.mark.parametrize("length", [8, 15, 128])
def test_pairs_fill_their_rows(small_tokenizer, length):
    rows = RandomRows(small_tokenizer, HEADS["sequence"], length, 300, True, CPU)
    batch, other = rows.batch(50), rows.batch(50)
    ids, segments = batch["input_ids"], batch["token_type_ids"]
    assert ids.shape == (50, length) and not torch.equal(ids, other["input_ids"])
    assert (ids[:, 0] == small_tokenizer.cls_token_id).all()
    ends = ids.eq(small_tokenizer.sep_token_id)
    assert (ends.sum(1) == 2).all() and ends[:, -1].all()
    first_end = ends[0].long().argmax().item()
    assert abs(first_end - length / 2) < 1
    assert not segments[:, : first_end + 1].any() and segments[:, first_end + 1 :].all()
    special = torch.isin(ids, torch.tensor(small_tokenizer.all_special_ids))
    assert (special.sum(1) == 3).all()


def test_single_rows_of_a_small_vocabulary_without_segments(small_tokenizer):
    batch = RandomRows(small_tokenizer, HEADS["token"], 32, 50, False, CPU).batch(100)
    assert set(batch) == {"input_ids"} and batch["input_ids"].max() == 49
    assert (batch["input_ids"].eq(small_tokenizer.sep_token_id).sum(1) == 1).all()


@pytest.mark.parametrize(("N", "trimmed"), [(1, True), (3, True), (3, False)])
def test_ragged_rows_share_a_pass_with_rows_of_their_length(small_tokenizer, N, trimmed):
    full, padding = RandomRows(small_tokenizer, HEADS["sequence"], 64, 300, True, CPU), small_tokenizer.pad_token_id
    batches = RaggedRows(full, N, 4, padding, trimmed).batches(50)
    assert sum(len(batch["input_ids"]) for batch in batches) == -(-50 // N) * N
    lengths = torch.cat([batch["attention_mask"].sum(1) for batch in batches])
    assert lengths.min() >= timing.SHORTEST and lengths.unique().numel() > 10 and 20 < lengths.float().mean() < 35
    asked = real = 0
    for batch in batches:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert ids.shape == mask.shape == batch["token_type_ids"].shape and 0 < len(ids) <= 4 * N and len(ids) % N == 0
        assert ids.shape[1] == (mask.sum(1).max() if trimmed else 64)
        assert ids.masked_fill(mask.bool(), padding).eq(padding).all()  # what is masked is padding
        assert ids.gather(1, mask.sum(1, keepdim=True) - 1).eq(small_tokenizer.sep_token_id).all()
        real, asked = real + int(mask.sum()), asked + mask.numel()
    assert (real / asked > 0.8) == trimmed
    assert trimmed or len(batches) == -(-50 // (4 * N))  # nothing is saved by shorter batches


def test_ragged_batches_are_timed_on_all_sides_and_never_compiled(made):
    context, asked = made(), stage(heads=["token"], batches_of=["ragged", "instances"], modes=["eager", "compiled"],
                                   sequence_length=32)
    table = tiny(context, asked)
    assert [how.batches_of for how in table.ways("token", "compiled")] == ["instances"]
    table.fill(table.entries[0], "token", "eager", "")
    ragged, full = (table.kept(table.entries[0], How("token", of, "eager")) for of in ("ragged", "instances"))
    assert (ragged["batch"], full["batch"]) == (WINDOW * 4, 4) and ragged["ratio_to_n1"] > 0
    table.fill(table.entries[0], "token", "compiled", "")
    assert [(row["batches_of"], row["mode"]) for row in table.rows()[:3]] == [
        ("ragged", "eager"), ("instances", "eager"), ("instances", "compiled")]
    assert not table.kept(table.entries[0], How("token", "ragged", "compiled"))


def test_ragged_batches_are_what_the_model_is_fed(small_tokenizer):
    widths: list[int] = []

    class Widths(nn.Module):
        def forward(self, input_ids, attention_mask=None):
            widths.append(input_ids.shape[-1])

    full = RandomRows(small_tokenizer, HEADS["token"], 64, 300, False, CPU)
    Contestant("A", Widths(), full, 40, RaggedRows(full, 1, 4, small_tokenizer.pad_token_id, True)).run(CPU)
    assert max(widths) < 64 and len(set(widths)) > 1, widths
    widths.clear()
    Contestant("A", Widths(), full, 4).run(CPU)
    assert widths == [64]


class AttentionMasks(TorchFunctionMode):
    """Notes the masks that attention gets."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention:
            self.seen.append(kwargs["attn_mask"])
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("head", HEADS)
def test_attention_gets_no_mask_on_any_side(made, head):
    """Also where nobody looks at values: on the meta device, as in a compiled graph."""
    table, meta = tiny(made(), stage()), torch.device("meta")
    contestants = [table.contestant(entry, head, "eager", "") for entry in table.entries]
    batch = {name: tensor.to(meta) for name, tensor in contestants[0].rows.batch(2).items()}
    models = [contestant.model.to(meta) for contestant in contestants]
    with meta:
        models.append(BertBase(1000).timed(head, 2).eval())
    for model in models:
        with torch.inference_mode(), AttentionMasks() as masks:
            model(**batch)
        assert masks.seen and not any(mask is not None for mask in masks.seen)


# --- whose turn it is ---------------------------------------------------------------------------------------
class Noted(nn.Module):
    """Notes whose turn it is, and how many rows it was fed."""

    def __init__(self, name: str, turns: list) -> None:
        super().__init__()
        self.name, self.turns = name, turns

    def forward(self, input_ids):
        self.turns.append((self.name, len(input_ids)))


def test_models_take_turns_after_a_warm_up(small_tokenizer):
    turns, told = [], []
    rows = RandomRows(small_tokenizer, HEADS["token"], 8, 300, False, CPU)
    racing = [Contestant(name, Noted(name, turns), rows, instances) for name, instances in (("A", 4), ("B", 6))]
    seconds = race(racing, 3, CPU, lambda done, total: told.append((done, total)))
    assert seconds.shape == (3, 2) and (seconds > 0).all()
    warm_up = timing.WARM_UP
    assert turns == [("A", 4)] * warm_up + [("B", 6)] * warm_up + [("A", 4), ("B", 6)] * 3
    assert told[-4:] == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_numbers_come_from_the_seconds():
    """Three rounds of one trial each; the second is disturbed, for all alike."""
    seconds = np.array([[1.0, 2.0, 4.0], [10.0, 20.0, 40.0], [1.0, 2.5, 5.0]])
    fed = np.array([10, 5, 5])
    found = speeds(seconds, fed, 3, 0, {"n1": 1, "bert_base": -1})
    assert found["trials_instances_per_second"] == pytest.approx([10, 1, 10])
    assert found["instances_per_second"] == pytest.approx(7)
    assert (found["milliseconds_per_batch"], found["batch"]) == (1000, 10)
    assert found["ratio_to_n1"] == pytest.approx(4) and found["ratio_to_n1_quartiles"] == pytest.approx([4, 4.5])
    assert found["ratio_to_bert_base"] == pytest.approx(8)
    assert found["ratio_to_bert_base_quartiles"] == pytest.approx([8, 9])
    json.dumps(found)
    pairs = speeds(np.array([[1.0], [3.0], [2.0], [2.0]]), np.array([6]), 2, 0, {"n1": 0})
    assert pairs["trials_instances_per_second"] == pytest.approx([3, 3]) and pairs["ratio_to_n1"] == 1


# --- compiled -----------------------------------------------------------------------------------------------
class Talking(nn.Module):
    """Cannot be compiled as a whole."""

    def forward(self, input_ids):
        torch._dynamo.graph_break()
        return input_ids + 1


def test_what_cannot_be_compiled_is_named_and_not_timed_eagerly(small_tokenizer):
    rows = RandomRows(small_tokenizer, HEADS["token"], 8, 300, False, CPU)
    race([Contestant("talking", MODES["eager"](Talking()), rows, 2)], 1, CPU, lambda *_: None)
    with pytest.raises(ValueError, match="talking, cannot be run"):
        race([Contestant("talking", MODES["compiled"](Talking()), rows, 2)], 1, CPU, lambda *_: None)


def test_a_missing_compiler_is_told_early(tmp_path):
    """In a process of its own: torch remembers the compiler that it has found."""
    code = "import torch; from mux.stages.timing import check_compiler; check_compiler(torch.device('cpu'))"
    found = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                            env=os.environ | {"CXX": cxx, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / cxx.strip("/"))})
             for cxx in ("g++", "/no/compiler")]
    assert found[0].returncode == 0, found[0].stderr
    last = found[1].stderr.splitlines()[-1]
    assert last.startswith("ValueError: torch.compile does not work here: ") and "C++ compiler (g++, or CXX)" in last


def test_a_model_is_compiled_for_each_shape_of_batch(made):
    context = made()
    table = Table(context, stage(), entries_of(context, stage()))
    contestant = table.contestant(table.entries[0], "sequence", "compiled", "")
    assert isinstance(contestant.model._orig_mod, MuxForSequenceClassification)
    for instances in (4, 2):
        contestant.instances = instances
        assert race([contestant], 1, CPU, lambda *_: None).shape == (1, 1)
    batch = contestant.rows.batch(2)
    with torch.inference_mode():
        assert torch.allclose(contestant.model(**batch).logits, contestant.model._orig_mod(**batch).logits, atol=1e-5)


# --- what is kept -------------------------------------------------------------------------------------------
def tiny(context, asked):
    """A table without BERT BASE, which is too much for a test: the last entry takes its place."""
    return Table(context, asked, entries_of(context, asked)[:-1])


def test_a_row_for_every_entry_and_way(made, tmp_path):
    context, asked = made(), stage(models={"N": [2, 1], "demultiplexer": ["rsa", "prefix"]})
    table = tiny(context, asked)
    for number, entry in enumerate(table.entries, 1):
        for head in asked.heads:
            table.fill(entry, head, "eager", f"model {number} of 3")
    rows = table.rows()
    assert [(row["model"], row["head"], row["batches_of"], row["batch"]) for row in rows] == [
        (f"bert 2x32, N = {N}{more}", head, batches_of, fed)
        for N, more, sizes in ((2, "", (4, 8, 2)), (2, ", prefix", (4, 8, 2)), (1, "", (4, 4, 1)))
        for head in ("sequence", "token")
        for batches_of, fed in zip(("instances", "groups", "one_group"), sizes, strict=True)]
    for row in rows:
        assert len(row["trials_instances_per_second"]) == 2 and row["milliseconds_per_batch"] > 0
        assert row["mode"] == "eager" and row["device"] == "cpu" and row["dtype"] == "fp32"
        assert (row["ratio_to_n1"] == 1.0) == (row["N"] == 1)
    assert "timing bert 2x32, N = 2, prefix, token, one_group, eager, model 2 of 3" in context.told


def test_what_is_done_is_not_timed_again(made):
    context, asked = made(), stage(heads=["token"], batches_of=["instances", "one_group"])
    table = tiny(context, asked)
    table.path(table.entries[0], How("token", "instances", "eager")).parent.mkdir(parents=True)
    table.fill(table.entries[0], "token", "eager", "")
    first = {path.name: path.stat().st_mtime_ns for path in table.folder.iterdir()}
    assert len(first) == 4
    (gone,) = [path for path in table.folder.iterdir() if json.loads(path.read_text())["N"] == 2
               and json.loads(path.read_text())["batches_of"] == "one_group"]
    gone.unlink()
    again = tiny(context, asked)
    for entry in again.entries:
        again.fill(entry, "token", "eager", "")
    second = {path.name: path.stat().st_mtime_ns for path in again.folder.iterdir()}
    assert [name for name in second if second[name] != first[name]] == [gone.name]
    assert all(again.rows())


@pytest.mark.parametrize("other", [{"batch": 6}, {"batches": 3}, {"sequence_length": 12}, {"trials": 1}], ids=str)
def test_rows_of_other_conditions_are_not_taken(made, other):
    context = made()
    one, two = (tiny(context, stage(**values)) for values in ({}, other))
    entry, how = one.entries[0], How("token", "instances", "eager")
    assert one.path(entry, how) != two.path(two.entries[0], how)
    assert one.path(entry, how) == tiny(context, stage()).path(entry, how)
    more = made(dropout=0.0)
    assert one.path(entry, how).name != tiny(more, stage()).path(entries_of(more, stage())[0], how).name


def test_an_encoder_with_fewer_tokens_than_the_tokenizer_can_be_timed(made, tmp_path):
    DistilBertModel(DistilBertConfig(vocab_size=40, dim=32, hidden_dim=64, n_layers=2, n_heads=4,
                                     max_position_embeddings=40)).save_pretrained(tmp_path / "small")
    context, models = made(), {"hub": [f"path:{tmp_path / 'small'}"], "N": [1]}
    asked = stage(heads=["sequence"], batches_of=["instances"], models=models)
    table = tiny(context, asked)
    table.fill(table.entries[-1], "sequence", "eager", "")
    (row,) = [row for row in table.rows() if row]
    assert (row["model"], row["family"], row["ratio_to_n1"]) == (f"path:{tmp_path / 'small'}", "hub", 1.0)
    with pytest.raises(ValueError, match=r"cannot be timed: .*has 40 positions: sequence_length = 41 is more"):
        table.entries[-1].check(41)
