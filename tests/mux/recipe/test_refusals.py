"""Bad recipes and, to the letter, what the user is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mux.recipe import Refusal, load, wording

TOP_KEYS = "keys here: extends, drop, name, model, tokenizer, corpus, engine, cluster, health, slurm, tasks, stages"
NAMES = "a name has letters, digits and . _ - only, at most 100, and begins with a letter or a digit"
PATIENCE = "from 5 seconds to 30 days: with less, no run gets anywhere"
IDS = "an id has small letters, digits and _ - only, at most 64, and begins with a letter or a digit"


# --- one thing is wrong ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        # unknown keys, at every depth
        ("size =", "siz =", "x.toml:4: model.siz: is not a key\n    did you mean model.size?"),
        ("steps = 100", "stepz = 100\nsteps = 100",
         "x.toml:17: stages.pretrain.stepz: is not a key\n    did you mean stages.pretrain.steps?"),
        ("[[stages]]\nkind = \"ens", "[stages.search]\nbatches = [1]\n[[stages]]\nkind = \"ens",
         "x.toml:25: stages.finetune.search.batches: is not a key\n    did you mean stages.finetune.search.batch?; "
         "batches is a key of throughput stages"),
        ("[tokenizer]", "[models]\n[tokenizer]", "x.toml:7: models: is not a key\n    did you mean model?; "
         "models is a key of throughput and muxology stages"),
        ('name = "small"', 'name = "small"\n"a\\u001b[31m b" = 1',
         f'x.toml:2: "a\\u001b[31m b": is not a key\n    {TOP_KEYS}'),
        ("vocabulary = 4_096", ".".join("a" * 1000) + " = 1",
         "x.toml:9: tokenizer.a: is not a key\n    keys here: source, vocabulary"),
        # keys in the wrong table
        ('name = "small"', 'name = "small"\nlearning_rate = 1e-4',
         "x.toml:2: learning_rate: is not a key\n    "
         "learning_rate is a key of retrieval, pretrain and finetune stages"),
        ("N = 2", "N = 2\nsteps = 10", "x.toml:6: model.steps: is not a key\n    "
         "steps is a key of retrieval, pretrain and finetune stages and [tasks.define.NAME]"),
        ("N = 2", 'N = 2\nname = "y"', "x.toml:6: model.name: is not a key\n    "
         "name is a key of the recipe itself, above its first table"),
        ("copies = [1, 2]", "copies = [1, 2]\nretrieval_rate = 0.1",
         "x.toml:27: stages.ensemble.retrieval_rate: is not a key\n    retrieval_rate is a key of "
         "pretrain and finetune stages"),
        ("copies = [1, 2]", "copies = [1, 2]\nmax_restarts = 10",
         "x.toml:27: stages.ensemble.max_restarts: is not a key\n    max_restarts is a key of [cluster]"),
        ('name = "small"', 'name = "small"\nprecison = "fp16"',
         "x.toml:2: precison: is not a key\n    did you mean precision of [engine]?"),
        ("steps = 100", 'steps = 100\nfrom_ = "x"', "x.toml:18: stages.pretrain.from_: is not a key\n    "
         "did you mean from?"),
        # missing keys
        ('source = "sentencepiece"\n', "", "x.toml:7: tokenizer.source: is missing"),
        ('[tokenizer]\nsource = "sentencepiece"\nvocabulary = 4_096\n', "", "x.toml: tokenizer: is missing"),
        ('name = "small"\n', "", "x.toml: name: is missing"),
        ('kind = "ensemble"\n', "", "x.toml:24: stages[2].kind: is missing\n    "
         "kinds: retrieval, pretrain, finetune, evaluate, ensemble, throughput, muxology"),
        ('size = "TINY"', "size = {layers = 2, hidden = 64, heads = 2}",
         "x.toml:4: model.size.intermediate: is missing"),
        # wrong types and values
        ("N = 2", "N = true", "x.toml:5: model.N: must be a whole number, is true"),
        ("N = 2", 'N = "2"', 'x.toml:5: model.N: must be a whole number, is "2"'),
        ("N = 2", "N = 2.0", "x.toml:5: model.N: must be a whole number, is 2.0\n    did you mean 2?"),
        ("N = 2", "N = inf", "x.toml:5: model.N: must be a whole number, is inf"),
        ("N = 2", "N = 0", "x.toml:5: model.N: must be at least 1, is 0"),
        ("N = 2", f"N = {'9' * 4000}",
         "x.toml:5: model.N: must be at most 1e+12, is a number of more than 60 digits"),
        ("N = 2", "[model.N]", "x.toml:5: model.N: must be a whole number, is a table"),
        ("steps = 100", "steps = 0", "x.toml:17: stages.pretrain.steps: must be at least 1, is 0"),
        ("steps = 100", "steps = 100\nlearning_rate = nan",
         "x.toml:18: stages.pretrain.learning_rate: must be a finite number, is nan"),
        ("steps = 100", "steps = 100\nlearning_rate = -inf",
         "x.toml:18: stages.pretrain.learning_rate: must be a finite number, is -inf"),
        ("steps = 100", "steps = 100\nlearning_rate = 0",
         "x.toml:18: stages.pretrain.learning_rate: must be more than 0, is 0"),
        ("steps = 100", 'steps = 100\nlearning_rate = "1e-4"',
         'x.toml:18: stages.pretrain.learning_rate: must be a number, is "1e-4"'),
        ("steps = 100", "steps = 100\nretrieval_rate = 1.5",
         "x.toml:18: stages.pretrain.retrieval_rate: must be at most 1, is 1.5"),
        ('tasks = ["topic"]', 'tasks = ["topic"]\nretrieval_rate = 1.0',
         "x.toml:23: stages.finetune.retrieval_rate: must be less than 1, is 1.0"),
        ('tasks = ["topic"]', 'tasks = ["topic"]\nteacher = "runs/n1"',
         'x.toml:23: stages.finetune.teacher: "runs/n1" names no run\n    write run:PATH, '
         'as in "run:runs/bert_base_n1"'),
        ('tasks = ["topic"]', 'tasks = ["topic"]\ntemperature = 4',
         "x.toml:23: stages.finetune.temperature: has no meaning without a teacher\n    "
         'write teacher = "run:PATH", or leave it out'),
        ("steps = 100", "steps = 100\nadam_betas = [0.9, 1.0]",
         "x.toml:18: stages.pretrain.adam_betas[1]: must be less than 1, is 1.0"),
        ("steps = 100", "steps = 100\nadam_betas = [0.9]",
         "x.toml:18: stages.pretrain.adam_betas[1]: is missing"),
        ("steps = 100", "steps = 100\nadam_betas = [0.9, 0.9, 0.9]",
         "x.toml:18: stages.pretrain.adam_betas: takes 2 values, has 3"),
        ('size = "TINY"', 'size = "LAGRE"', "x.toml:4: model.size: must be 'TINY', 'SMALL', 'BASE' or 'LARGE', "
         'is "LAGRE"\n    did you mean "LARGE"?'),
        ('size = "TINY"', "size = 12", "x.toml:4: model.size: must be 'TINY', 'SMALL', 'BASE' or 'LARGE', is 12\n"
         "    or a table {layers = 4, hidden = 256, heads = 4, intermediate = 1024}"),
        ('["builtin:wiki_leads"]', '"builtin:wiki_leads"', "x.toml:12: corpus.sources: must be an array, is "
         '"builtin:wiki_leads"\n    did you mean ["builtin:wiki_leads"]?'),
        ('["builtin:wiki_leads"]', '[\n"builtin:wiki_leads",\n7]',
         "x.toml:14: corpus.sources[1]: must be a text, is 7"),
        ('["builtin:wiki_leads"]', "[[[]]]", "x.toml:12: corpus.sources[0]: must be a text, is [[...]]"),
        ('["builtin:wiki_leads"]', '["path:a\\u0000b"]', 'x.toml:12: corpus.sources[0]: is "path:a\\u0000b"\n    '
         "control characters are not allowed here"),
        ('tasks = ["topic"]', 'tasks = ["topic"]\nsteps = "many"',
         'x.toml:23: stages.finetune.steps: must be a whole number, is "many"'),
        ('tasks = ["topic"]', 'tasks = ["topic"]\nsteps = {topic = 0}',
         "x.toml:23: stages.finetune.steps.topic: must be at least 1, is 0"),
        ("[tokenizer]", "[engine]\nzero_stage = true\n[tokenizer]",
         "x.toml:8: engine.zero_stage: must be a whole number, is true"),
        ("[tokenizer]", "[engine]\nactivation_checkpointing = 1\n[tokenizer]",
         "x.toml:8: engine.activation_checkpointing: must be true or false, is 1"),
        ('[corpus]\nsources = ["builtin:wiki_leads"]\nsequence_length = 64\n', "[[corpus]]\n",
         "x.toml:11: corpus: must be a table, is [a table]"),
        # a number or a word
        ("[tokenizer]", "[engine]\nmicro_batch = true\n[tokenizer]",
         "x.toml:8: engine.micro_batch: must be a whole number or 'auto', is true"),
        ("[tokenizer]", "[engine]\nmicro_batch = 1.5\n[tokenizer]",
         "x.toml:8: engine.micro_batch: must be a whole number or 'auto', is 1.5"),
        ("[tokenizer]", "[engine]\nmicro_batch = {a = 1}\n[tokenizer]",
         "x.toml:8: engine.micro_batch: must be a whole number or 'auto', is a table"),
        ("[tokenizer]", '[engine]\nmicro_batch = "big"\n[tokenizer]',
         "x.toml:8: engine.micro_batch: must be a whole number or 'auto', is \"big\""),
        ("[tokenizer]", "[engine]\nmicro_batch = 0\n[tokenizer]",
         "x.toml:8: engine.micro_batch: must be at least 1, is 0"),
        ('kind = "pretrain"', 'kind = "pretran"', 'x.toml:16: stages.pretran.kind: is "pretran", '
         'which is no kind of stage\n    did you mean "pretrain"?'),
        ('kind = "pretrain"', "kind = 3", "x.toml:16: stages[0].kind: is 3, which is no kind of stage\n    "
         "kinds: retrieval, pretrain, finetune, evaluate, ensemble, throughput, muxology"),
        # times that no run could live with, and what SLURM does not take
        ("[tokenizer]", "[cluster]\nheartbeat_seconds = 1e-9\n[tokenizer]",
         f"x.toml:8: cluster.heartbeat_seconds: must be at least 5, is 1e-09\n    {PATIENCE}"),
        ("[tokenizer]", "[cluster]\nstall_seconds = 0\n[tokenizer]",
         f"x.toml:8: cluster.stall_seconds: must be at least 5, is 0\n    {PATIENCE}"),
        ("[tokenizer]", "[cluster]\ncollective_timeout_seconds = 1e300\n[tokenizer]",
         f"x.toml:8: cluster.collective_timeout_seconds: must be at most 2,592,000, is 1e+300\n    {PATIENCE}"),
        ("[tokenizer]", "[slurm]\nsignal_seconds = 1\n[tokenizer]",
         "x.toml:8: slurm.signal_seconds: must be at least 10, is 1\n    "
         "from 10 to 65,535: a checkpoint takes its time, and sbatch takes no more"),
        ("[tokenizer]", '[slurm]\naccount = "$(id)"\n[tokenizer]',
         'x.toml:8: slurm.account: is "$(id)"\n    SLURM\'s name of it has letters, digits and _ . , : + - only, '
         "at most 100, and begins with a letter, a digit or _"),
        ("[tokenizer]", '[slurm]\ntime = "soon"\n[tokenizer]',
         'x.toml:8: slurm.time: is "soon"\n    as sbatch takes it: "90" (minutes), "12:00:00", "1-00:00:00" (a day)'),
        # names
        ('"small"', '"../x"', f'x.toml:1: name: is "../x"\n    {NAMES}'),
        ('"small"', '"/etc/x"', f'x.toml:1: name: is "/etc/x"\n    {NAMES}'),
        ('"small"', '"-rf"', f'x.toml:1: name: is "-rf"\n    {NAMES}'),
        ('"small"', '"a\\u0000b"', f'x.toml:1: name: is "a\\u0000b"\n    {NAMES}'),
        ('"small"', '"a\\nb"', f'x.toml:1: name: is "a\\nb"\n    {NAMES}'),
        ('"small"', '"\\u001b]0;x\\u0007"', f'x.toml:1: name: is "\\u001b]0;x\\u0007"\n    {NAMES}'),
        ('"small"', f'"{"n" * 300}"', f'x.toml:1: name: is "{"n" * 60}..."\n    {NAMES}'),
        ('"small"', "1979-05-27", "x.toml:1: name: must be a text, is 1979-05-27"),
        ('kind = "pretrain"', 'kind = "pretrain"\nid = "../x"', f'x.toml:17: stages."../x".id: is "../x"\n    {IDS}'),
    ],
)
def test_one_thing_is_wrong(folder: Any, old: str, new: str, told: str) -> None:
    assert folder.refusal(folder.changed((old, new))) == told


def test_two_keys_of_one_table_are_wrong(folder: Any) -> None:
    wrong = folder.changed(("[tokenizer]", '[engine]\nprecision = 5\nzero_stage = "two"\n[tokenizer]'),
                           ("N = 2", 'N = "2"'), ('[model]', '[model]\nfamily = "foo"'))
    told = folder.refusal(wrong)
    for words in ("engine.precision: must be 'fp32', 'fp16' or 'bf16', is 5",
                  'engine.zero_stage: must be a whole number, is "two"', 'model.N: must be a whole number, is "2"',
                  "model.family: must be 'bert', 'electra' or 'hub', is \"foo\""):
        assert words in told


# --- what holds between keys ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('size = "TINY"', "size = {layers = 2, hidden = 33, heads = 2, intermediate = 64}",
         "x.toml:4: model.size.hidden: 33 is not a multiple of heads = 2\n    32 or 34 would be"),
        ("[corpus]", '[engine]\nprecision = "fp16"\nzero_stage = 0\n[corpus]',
         "x.toml:13: engine.zero_stage: fp16 is not trained at ZeRO 0: DeepSpeed does not scale the loss there\n"
         "    --set engine.zero_stage=1"),
        ("sequence_length = 64", "sequence_length = 1024",
         "x.toml:13: corpus.sequence_length: 1024 is more than model.max_positions = 512"),
        ("N = 2", "N = 2\nmax_positions = 100",
         "x.toml:6: stages.finetune.sequence_length: 128 is more than model.max_positions = 100"),
        ("warmup_steps = 10", "warmup_steps = 101",
         "x.toml:18: stages.pretrain.warmup_steps: 101 is more than steps = 100"),
        ("warmup_steps = 10", "log_every = 10",
         "x.toml:17: stages.pretrain.warmup_steps: 10000 is more than steps = 100"),
        ('"sentencepiece"', '"google-bert/bert-base-uncased"', "x.toml:8: tokenizer.source: "
         '"google-bert/bert-base-uncased" is none of hub:ID, path:DIR and sentencepiece'),
        ('"sentencepiece"', '"hub:a/b:train"', 'x.toml:8: tokenizer.source: "hub:a/b:train": a tokenizer has no '
         "configuration or split, only hub:ID[@REVISION]"),
        ("builtin:wiki_leads", "builtin:wikileads",
         'x.toml:12: corpus.sources[0]: "builtin:wikileads" does not exist: did you mean "wiki_leads"?'),
        ("builtin:wiki_leads", "wiki.txt",
         'x.toml:12: corpus.sources[0]: "wiki.txt" is none of hub:ID, path:FILES and builtin:NAME'),
        ("builtin:wiki_leads", "path:",
         'x.toml:12: corpus.sources[0]: "path:" is none of hub:ID, path:FILES and builtin:NAME'),
        ("builtin:wiki_leads", "hub:a b", 'x.toml:12: corpus.sources[0]: "hub:a b" names no data set of the hub\n'
         "    write hub:ID[/CONFIG][@REVISION][:SPLIT], as in hub:wikimedia/wikipedia/20231101.en"),
        ('["builtin:wiki_leads"]', "[]", "x.toml:12: corpus.sources: is empty"),
        ('tasks = ["topic"]', "tasks = []", "x.toml:22: stages.finetune.tasks: is empty"),
        ('tasks = ["topic"]', 'tasks = ["topic", "mlni"]', 'x.toml:22: stages.finetune.tasks[1]: "mlni" is no known '
         'task\n    did you mean "mnli"?; define others with [tasks.define.NAME]'),
        ('tasks = ["topic"]', 'tasks = ["topic", "topic"]',
         'x.toml:22: stages.finetune.tasks[1]: "topic" is there twice'),
        ('tasks = ["topic"]', 'tasks = ["topic"]\nsteps = {topics = 3}', "x.toml:23: stages.finetune.steps.topics: "
         'is no known task\n    did you mean "topic"?'),
        ('tasks = ["topic"]', 'tasks = ["topic"]\nsearch.batch = []', "x.toml:23: stages.finetune.search.batch: "
         "is empty\n    leave it out to search nothing"),
        ('tasks = ["topic"]', 'tasks = ["topic"]\nseeds = [0, 0]',
         "x.toml:23: stages.finetune.seeds[1]: 0 is there twice"),
        ("copies = [1, 2]", "copies = [1, 3]",
         "x.toml:26: stages.ensemble.copies[1]: 3 copies do not fit in groups of N = 2"),
        ("copies = [1, 2]", "copies = [1, 1]", "x.toml:26: stages.ensemble.copies[1]: 1 is there twice"),
        ("copies = [1, 2]", 'copies = [1, 2]\nfrom = "pretrain"', 'x.toml:27: stages.ensemble.from: "pretrain" is no '
         "finetune stage before this one\n    finetune stages: finetune"),
        ('kind = "finetune"\ntasks = ["topic"]', 'kind = "throughput"', "x.toml:23: stages.ensemble: "
         "needs a finetune stage before it: ensemble has no model to work on"),
        ('tasks = ["topic"]', 'tasks = ["topic"]\nfrom = "ensemble"', 'x.toml:23: stages.finetune.from: "ensemble" is '
         "no stage before this one\n    stages before it: pretrain; or run:PATH, path:DIR, hub:ID, princeton:NAME"),
        ("copies = [1, 2]", 'copies = [1, 2]\n[[stages]]\nkind = "throughput"\nfrom = "ensemble"', "x.toml:29: "
         "stages.throughput.from: has no meaning here: speed does not depend on the weights\n    leave it out"),
        ('tasks = ["topic"]', 'tasks = ["topic"]\nfrom = "princeton:x"', "x.toml:23: stages.finetune.from: "
         '"princeton:x" is a model of the published numerics\n    write compat = "princeton" in [model]'),
        ('tasks = ["topic"]', 'tasks = ["topic"]\nfrom = "princeton:a/b"', "x.toml:23: stages.finetune.from: "
         '"princeton:a/b" names no published model\n    write its name alone, as in '
         'princeton:muxbert_base_gaussian_hadamard_index_pos_2\nx.toml:23: stages.finetune.from: "princeton:a/b" is a '
         'model of the published numerics\n    write compat = "princeton" in [model]'),
        ('tasks = ["topic"]', 'tasks = ["topic"]\nfrom = "hub:a b"', "x.toml:23: stages.finetune.from: "
         '"hub:a b" names no model of the hub\n    write hub:ID[@REVISION], as in hub:google-bert/bert-base-uncased'),
        ('tasks = ["topic"]', 'tasks = ["topic"]\nfrom = "hub:a/b/c"', "x.toml:23: stages.finetune.from: "
         '"hub:a/b/c": a model has no configuration or split, only hub:ID[@REVISION]'),
        ('tasks = ["topic"]', 'tasks = ["topic"]\nfrom = "run:"', 'x.toml:23: stages.finetune.from: "run:" names no '
         "place\n    write run:PATH or path:DIR"),
        ('tasks = ["topic"]', 'tasks = ["topic", "rte"]\n[[stages]]\nid = "more"\nkind = "finetune"\n'
         'from = "finetune"\ntasks = ["mrpc"]', 'x.toml:26: stages.more.from: "finetune" makes a model for each of its '
         "2 tasks\n    give the task that is to go on a finetune stage of its own"),
        ("copies = [1, 2]", 'copies = [1, 2]\n[[stages]]\nid = "more"\nkind = "pretrain"\nfrom = "finetune"',
         "x.toml:30: stages.more.from: \"finetune\" leaves a model with a task's head in place of the one that "
         "pretrain trains\n    name a stage before it that pre-trains"),
        ("copies = [1, 2]", 'copies = [1, 2]\n[[stages]]\nkind = "retrieval"\nfrom = "finetune"',
         "x.toml:29: stages.retrieval.from: \"finetune\" leaves a model with a task's head in place of the one that "
         "retrieval trains\n    name a stage before it that pre-trains"),
        ("[tokenizer]", '[tasks]\nroot = "glue"\n[tokenizer]', 'x.toml:8: tasks.root: "glue" is neither hub nor '
         "path:DIR, a folder of original files"),
        ('tasks = ["topic"]', 'tasks = ["topic"]\nsearch.batch = [16, 16]',
         "x.toml:23: stages.finetune.search.batch[1]: 16 is there twice"),
        ('kind = "ensemble"\ncopies = [1, 2]', 'kind = "evaluate"\ncompositions = ["random", "random"]',
         'x.toml:26: stages.evaluate.compositions[1]: "random" is there twice'),
        ('kind = "ensemble"\ncopies = [1, 2]',
         'kind = "muxology"\ncorpus = "wiki.txt"\nmodels = ["pretrain", "hub:a b"]',
         'x.toml:26: stages.muxology.corpus: "wiki.txt" is none of hub:ID, path:FILES and builtin:NAME\n'
         'x.toml:27: stages.muxology.models[0]: "pretrain" is none of run:PATH, path:DIR, hub:ID and princeton:NAME\n'
         'x.toml:27: stages.muxology.models[1]: "hub:a b" names no model of the hub\n'
         "    write hub:ID[@REVISION], as in hub:google-bert/bert-base-uncased"),
        ('kind = "ensemble"\ncopies = [1, 2]', 'kind = "throughput"\nmodes = ["eager", "eager"]\n[stages.models]\n'
         'N = []\nhub = ["bert"]', 'x.toml:26: stages.throughput.modes[1]: "eager" is there twice\n'
         "x.toml:28: stages.throughput.models.N: is empty\n"
         'x.toml:29: stages.throughput.models.hub[0]: "bert" is none of hub:ID[@REVISION] and path:DIR'),
        ('kind = "ensemble"\ncopies = [1, 2]',
         'kind = "throughput"\nbatches_of = ["ragged"]\nmodes = ["compiled"]',
         "x.toml:27: stages.throughput.modes: has no eager, and ragged batches are not compiled: each has a shape of "
         'its own\n    modes = ["eager", "compiled"], or leave "ragged" out of batches_of'),
        ('kind = "ensemble"', 'kind = "ensemble"\nid = "logs"',
         'x.toml:26: stages.logs.id: "logs" is taken: a run directory has something else there'),
    ],
)
def test_keys_do_not_go_together(folder: Any, old: str, new: str, told: str) -> None:
    assert folder.refusal(folder.changed((old, new))) == told


def test_tasks_of_words(folder: Any) -> None:
    text = folder.changed(('tasks = ["topic"]', 'tasks = ["words"]\nsteps = 10')) + """
[tasks.define.words]
train = "path:rows.csv"
test = "path:rows.jsonl"
tokens = "tokens"
label = "labels"
label_name = "names"
text_pair = "second"
regression = true
metric = "spearman"
others = ["accuracy"]
"""
    assert folder.refusal(text) == """\
x.toml:30: tasks.define.words.train: "path:rows.csv" is not a .jsonl, .conll or .conllu file
    format = says how others are written
x.toml:34: tasks.define.words.label_name: has no meaning beside tokens
    leave it out
x.toml:35: tasks.define.words.text_pair: has no meaning beside tokens
    leave it out
x.toml:36: tasks.define.words.regression: words have classes, not numbers
    leave out one of the two
x.toml:37: tasks.define.words.metric: spearman does not measure the classes of words
    accuracy, f1 and entity_f1 do"""


def test_definitions_of_tasks(folder: Any) -> None:
    text = folder.changed(('tasks = ["topic"]', 'tasks = ["mine", "sst2"]')) + """
[tasks.define.mine]
train = "path:rows.txt"
test = "hub:a/b"
metric = "pearson"
[tasks.define.model]
train = "builtin:topic_trian"
test = "https://x"
others = ["f1", "spearman"]
[tasks.define."../x"]
train = "path:a.tsv"
test = "path:a.csv"
"""
    assert folder.refusal(text) == """\
x.toml:22: stages.finetune.steps: are needed: task "mine" says none of its own
    write steps = 1_000, say, or a table of them by task
x.toml:29: tasks.define.mine.train: "path:rows.txt" is not a .jsonl, .tsv or .csv file
    format = says how others are written
x.toml:30: tasks.define.mine.test: "hub:a/b" names no split: write hub:a/b:train, say
x.toml:31: tasks.define.mine.metric: pearson does not measure classes
    accuracy, f1 and matthews do
x.toml:32: tasks.define.model: cannot be the name of a task: its folder bears it
    use small letters, digits and _ -; checkpoints and model are taken
x.toml:33: tasks.define.model.train: "builtin:topic_trian" does not exist: did you mean "topic_train"?
x.toml:34: tasks.define.model.test: "https://x" is none of hub:ID, path:FILES and builtin:NAME
x.toml:35: tasks.define.model.others: spearman does not measure classes
    accuracy, f1 and matthews do
x.toml:36: tasks.define."../x": cannot be the name of a task: its folder bears it
    use small letters, digits and _ -; checkpoints and model are taken"""


DEFINED = """
[tasks.define.mine]
train = "path:rows.txt"
test = "path:rows.txt"
steps = 10
"""


@pytest.mark.parametrize(("keys", "told"), [
    ('format = "tsv"\ncolumns = ["text", "label"]\ndev = "path:x.dat"\nalso = {far = "path:y.dat"}', None),
    ('format = "conll"\ntokens = "tokens"\nlabel = "labels"\nmetric = "entity_f1"', None),
    ('format = "conllu"\ntokens = "form"\nlabel = "xpos"', None),
    ('format = "tsv"\nlabels = ["no", "yes"]\nbroken_lines = 3', None),
    ('format = "tsv"\nchoose = 1', "x.toml:33: tasks.define.mine.choose: is not a key\n"
     "    did you mean choose_on of finetune stages (in [stages.search])?"),
    ('format = "conll"', "x.toml:32: tasks.define.mine.format: conll holds no rows of texts; rows of words name a "
     "column of them in tokens\n    jsonl, tsv or csv do"),
    ('format = "tsv"\ntokens = "tokens"', "x.toml:32: tasks.define.mine.format: tsv holds no rows of words\n"
     "    jsonl, conll or conllu do"),
    ('format = "jsonl"\ncolumns = ["text", "label"]', "x.toml:33: tasks.define.mine.columns: are for tsv and csv files "
     "whose first line names none\n    leave them out"),
    ('format = "csv"\ncolumns = ["sentence", "label"]', 'x.toml:28: tasks.define.mine.text: "text" is no column of '
     "these files\n    columns: sentence, label"),
    ('format = "csv"\ncolumns = ["text", "text", "label"]',
     "x.toml:33: tasks.define.mine.columns: name a column twice"),
    ('format = "conll"\ntokens = "tokens"', 'x.toml:28: tasks.define.mine.label: "label" is no column of these files\n'
     '    did you mean "labels"?'),
    ('format = "conllu"\ntokens = "tokens"\nlabel = "upos"', 'x.toml:33: tasks.define.mine.tokens: "tokens" is no '
     "column of these files\n    columns: id, form, lemma, upos, xpos, feats, head, deprel, deps, misc"),
    ('format = "tsv"\ndev = "rows.tsv"\nalso = {test = "path:a.tsv", far = "hub:a/b"}',
     'x.toml:33: tasks.define.mine.dev: "rows.tsv" is none of hub:ID, path:FILES and builtin:NAME\n'
     "x.toml:34: tasks.define.mine.also.test: cannot be the name of further rows\n"
     "    use small letters, digits and _ -; test and dev are taken\n"
     'x.toml:34: tasks.define.mine.also.far: "hub:a/b" names no split: write hub:a/b:train, say'),
    ('format = "tsv"\nmetric = "entity_f1"', "x.toml:33: tasks.define.mine.metric: entity_f1 does not measure classes\n"
     "    accuracy, f1 and matthews do"),
    ('format = "tsv"\nlabels = ["a", "a"]\nlabel_name = "n"', "x.toml:33: tasks.define.mine.labels: have no meaning "
     "beside label_name\n    leave out one of the two\n"
     "x.toml:33: tasks.define.mine.labels: must be two classes or more, each there once"),
])
def test_formats_and_columns_of_tasks(folder: Any, keys: str, told: str | None) -> None:
    text = folder.changed(('tasks = ["topic"]', 'tasks = ["mine"]')) + DEFINED + keys + "\n"
    if told is None:
        folder.load(text)
    else:
        assert folder.refusal(text).startswith(told)


def test_models_to_time_that_cannot_be(folder: Any) -> None:
    text = folder.changed(('kind = "ensemble"\ncopies = [1, 2]', 'kind = "throughput"\nsequence_length = 510\n'
                           '[stages.models]\nN = [1, 2, 5]\ndemultiplexer = ["rsa", "prefix"]\nsize = ["TINY"]'))
    assert folder.refusal(text) == """\
x.toml:27: stages.throughput.models: with size = "TINY", N = 5 and demultiplexer = "prefix": 510 and a prefix of 5 are \
more than model.max_positions = 512
    507 would fit"""
    folder.load(text.replace("510", "507"))


def test_where_to_choose_without_a_search(folder: Any) -> None:
    search = 'search = {choose_on = "dev", held_out = 0.2}'
    folder.load(folder.changed(('tasks = ["topic"]', f'tasks = ["topic"]\n{search}')))


# --- everything at once ---------------------------------------------------------------------------------------
def test_all_problems_are_told_at_once_by_line(folder: Any) -> None:
    text = folder.changed(
        ("N = 2", "N = 0\ndropuot = 0.1"), ("sequence_length = 64", 'sequence_length = "64"'),
        ("steps = 100", "steps = -1\nfrom_ = 3"),
        ("copies = [1, 2]", 'copies = 3\n[[stages]]\nkind = "pretrain"\nmask_rate = 1'),
    )
    assert folder.refusal(text, "engine.precision=fp8", "nope") == """\
x.toml:5: model.N: must be at least 1, is 0
x.toml:6: model.dropuot: is not a key
    did you mean model.dropout?
x.toml:14: corpus.sequence_length: must be a whole number, is "64"
x.toml:18: stages.pretrain.steps: must be at least 1, is -1
x.toml:19: stages.pretrain.from_: is not a key
    did you mean from?
x.toml:28: stages.ensemble.copies: must be an array, is 3
    did you mean [3]?
x.toml:29: stages[3].id: "pretrain" is the id of two stages, the first in line 16
    give one an id of its own
x.toml:31: stages[3].mask_rate: must be less than 1, is 1
--set: nope is not KEY=VALUE
    write KEY=VALUE, as in --set stages.pretrain.steps=100
--set: engine.precision: must be 'fp32', 'fp16' or 'bf16', is "fp8\""""


def test_an_empty_recipe(folder: Any) -> None:
    assert folder.refusal("") == """\
x.toml: name: is missing
x.toml: model: is missing
x.toml: tokenizer: is missing
x.toml: corpus: is missing
x.toml: stages: is missing"""


@pytest.mark.parametrize("stages", ["3", "[1]", "{pretrain = {steps = 3}}", '["x", {}]'])
def test_stages_that_are_no_array_of_tables(folder: Any, stages: str) -> None:
    text = folder.refusal(folder.changed().partition("[[stages]]")[0].replace("name", f"stages = {stages}\nname"))
    first, second = text.split("\n")
    assert first.startswith("x.toml:1: stages: must be an array of tables, is ")
    assert second == "    write [[stages]] above each stage, with its kind"


def test_no_stages(folder: Any) -> None:
    assert folder.refusal("stages = []\n" + folder.changed().partition("[[stages]]")[0]) == (
        "x.toml:1: stages: needs at least one")


def test_the_file_that_has_dropped_all_stages_is_named(folder: Any) -> None:
    child = 'extends = "small.toml"\nname = "y"\ndrop = ["pretrain", "finetune", "ensemble"]\n'
    assert folder.refusal(child) == "x.toml:3: stages: needs at least one"
    folder.write("middle.toml", child)
    assert folder.refusal('extends = "middle.toml"\nname = "z"') == "middle.toml:3: stages: needs at least one"
    folder.load('extends = "middle.toml"\nname = "z"\n[[stages]]\nkind = "pretrain"\nsteps = 9\nwarmup_steps = 0')


def test_a_file_of_nothing_but_mistakes_is_told_in_part(folder: Any) -> None:
    with pytest.raises(Refusal) as refused:
        folder.load("\n".join(f"key_{number} = 1" for number in range(10_000)))
    first, *_, last = refused.value.problems
    assert len(refused.value.problems) == 21 and str(last) == "and 9,985 more"  # 5 things are missing, too
    assert str(first) == "x.toml: name: is missing"


def test_many_options_are_not_compared_with_many_mistakes(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is compared with some hundred others at most: time grows with the recipe, not with its square."""
    compared = []
    monkeypatch.setattr(wording.difflib, "get_close_matches",
                        lambda word, options, **more: compared.append(len(options)) or [])
    defined = "\n".join(f'[tasks.define.t{n}]\ntrain = "path:a.tsv"\ntest = "path:b.tsv"' for n in range(1000))
    tasks = ", ".join(f'"u{n}"' for n in range(1000))
    text = folder.refusal(folder.changed(('"topic"', tasks)) + defined)
    assert 'x.toml:22: stages.finetune.tasks[3]: "u3" is no known task' in text and text.endswith("\nand 980 more")
    folder.refusal("\n".join(f"key_{n} = 1" for n in range(1000)))
    assert max(compared, default=0) <= 300 and len(compared) <= 100


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('name = "x"\nsteps = = 3\n', "x.toml:2: is not TOML, column 9: invalid value"),
        ("[engine]\nprecision = bf16 # half\n",
         'x.toml:2: is not TOML, column 13: invalid value\n    texts need quotes: precision = "bf16"'),
        ("a = '''", "x.toml:1: is not TOML, at the end of the file: expected \"'''\""),
        ("[m]\na = 1\nb = 2\na = 3\n", "x.toml:4: m.a: is given twice, first in line 2"),
        ("[m]\na = 1\n[m]\n", "x.toml:3: m: is given twice, first in line 1"),
        ("a = 1\na.b = 2\n", "x.toml:2: is not TOML, column 8: cannot overwrite a value"),
        ("x = 1\na = " + "[" * 500 + "]" * 500, "x.toml:2: is nested too deeply\n    nothing in a recipe needs that"),
        (".".join("a" * 1001) + " = 1\n", "x.toml:1: is nested too deeply\n    nothing in a recipe needs that"),
        ("x = 1\na = " + "1" * 5000,
         "x.toml:2: has an integer of too many digits\n    nothing in a recipe needs that"),
        (b"a = 1\nb = '\xff'\n", "x.toml:2: is not UTF-8: byte 0xff\n    save the file as UTF-8"),
        (b"a = 1\nb = '\xe2\x82", "x.toml:2: is not UTF-8: byte 0xe2\n    save the file as UTF-8"),
        (b"\x80\x02}q\x00.", "x.toml:1: is not UTF-8: byte 0x80\n    save the file as UTF-8"),
        (b"a" * 200_001, "x.toml: is larger than 200_000 bytes, which no recipe is"),
    ],
)
def test_not_a_recipe(folder: Any, text: str | bytes, told: str) -> None:
    assert folder.refusal(text).startswith(told)


def test_a_file_that_is_not_there(folder: Any) -> None:
    folder.write("recipes/bert_large_n2.toml", "")
    folder.write("recipes/quickstart.toml", "")
    told = {
        "recipes/bert_large_n3.toml": "no such file\n    did you mean recipes/bert_large_n2.toml?",
        "recipes/quickstart": "no such file\n    did you mean recipes/quickstart.toml?",
        "recipes/zzz": "no such file\n    recipes has: bert_large_n2.toml, quickstart.toml",
        "nowhere/x.toml": "no such file\n    there is no folder nowhere either",
        "recipes": "is a directory, not a recipe\n    recipes has: bert_large_n2.toml, quickstart.toml",
        "smal.toml": "no such file\n    did you mean small.toml?",
        "small.toml/x": "cannot be read: not a directory",
    }
    for path, text in told.items():
        with pytest.raises(Refusal) as refused:
            load(Path(path))
        assert str(refused.value) == f"{path}: {text}"


def test_a_pipe_is_not_waited_for(folder: Any) -> None:
    os.mkfifo(folder.path / "pipe.toml")
    with pytest.raises(Refusal, match=r"^pipe\.toml: is not a regular file"):
        load(Path("pipe.toml"))


def test_a_path_that_no_system_takes(folder: Any) -> None:
    with pytest.raises(Refusal, match="cannot be read: embedded null byte"):
        load(Path("a\0b.toml"))


def test_windows_files_are_read(folder: Any) -> None:
    """A byte order mark and CR LF are what some editors write; the text is kept as it is."""
    data = b"\xef\xbb\xbf" + folder.changed().replace("\n", "\r\n").encode()
    loaded = folder.load(data)
    assert loaded.provenance["model.N"] == "x.toml:5"
    assert loaded.text.encode() == data
    assert folder.refusal(data.replace(b"N = 2", b"N = 0")) == "x.toml:5: model.N: must be at least 1, is 0"


# --- whatever it is -------------------------------------------------------------------------------------------
LINES = st.sampled_from([
    "[[stages]]", 'kind = "pretrain"', 'kind = "finetune"', 'kind = "ensemble"', 'id = "a"', 'id = ["a"]', "kind = {}",
    'before = "a"', "before = 1", 'drop = ["pretrain"]', "drop = 1", 'extends = "small.toml"', "extends = []",
    "steps = {topic = 1}", "steps = 5", "[stages]", "[stages.search]", "[model]", "size = {layers = 1}", "N = nan",
    'from = "a"', "copies = [9]", "stages = [{}]", "stages = [[1]]", "[tasks.define.x]", "[[tasks.define]]",
    "tasks = [1, 'mnli']", "[tasks]", "define = 3", 'id = ""', "[[model.size]]", "'' = 1", 'id = "\\u001b[31m"',
    '[tasks.define."\\u0007"]', '"\\u0085" = 1', 'drop = ["\\u202e"]', 'before = "\\u0000"',
])
CHANGES = st.lists(
    st.tuples(st.sampled_from(["stages.a.steps", "stages.pretrain.kind", "stages", "model", "model.size.layers",
                               "tasks.define.x", '""', "a.b", "stages.finetune.steps.topic", "drop"]),
              st.sampled_from(["1", "{}", "[]", "nan", "x", "{a = {b = 1}}", '""', "[[1]]"])).map("=".join) | st.text(),
    max_size=3,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, max_size=12), CHANGES)
def test_nothing_but_refusals(folder: Any, lines: list[str], changes: list[str]) -> None:
    """No traceback, whatever the file and the command line hold; and each problem says where and what."""
    try:
        folder.load("\n".join(lines), *changes)
    except Refusal as refused:
        assert all(problem.where and problem.message for problem in refused.problems)
        assert all(letter.isprintable() or letter == "\n" for letter in str(refused))
