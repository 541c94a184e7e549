"""What is refused between the plan and the first process, and what a dry run warns of."""

import json
import lzma
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher import gpu, hostfile, named_files, plan, preflight
from mux.data.tasks import load_task
from mux.plan import Cluster, Host, Plan
from mux.recipe import Recipe, load
from mux.run import RunDirectory

RECIPE = """
name = "case"
[model]
size = "TINY"
N = 2
[tokenizer]
source = "sentencepiece"
vocabulary = 1000
[corpus]
sources = ["path:texts"]
sequence_length = 64
[tasks.define.mood]
train = "path:train.jsonl"
test = "path:test.tsv"
[[stages]]
kind = "pretrain"
steps = 200
warmup_steps = 20
[[stages]]
kind = "finetune"
tasks = ["mood"]
steps = 10
"""
FINETUNING_ONLY = RECIPE.replace('kind = "pretrain"\nsteps = 200\nwarmup_steps = 20\n[[stages]]\n', "")
HERE = Host(name="localhost", slots=2, local=True)
A100, V100 = gpu.Gpu("NVIDIA A100", "GPU-a", (8, 0)), gpu.Gpu("Tesla V100", "GPU-b", (7, 0))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A directory with all that the recipe names, as the current one; a machine without GPUs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu, "installed", list)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("One text.\n\nAnother text, of some length.\n" * 9)
    (tmp_path / "train.jsonl").write_text('{"text": "good", "label": 1}\n{"text": "bad", "label": 0}\n')
    (tmp_path / "test.tsv").write_text("text\tlabel\nfine\t1\n")


def planned(*changes: str, device="cpu", hosts=(HERE,), source="this host") -> Plan:
    Path("case.toml").write_text(RECIPE)
    cluster = Cluster(hosts=hosts, device=device, source=source)
    return plan.make(load(Path("case.toml"), changes), cluster, Path("runs/case"))


def problems(made: Plan, run: str = "runs/case") -> list[str]:
    return [str(problem) for problem in preflight.check(made, RunDirectory(run))]


def only(texts: list[str]) -> str:
    assert len(texts) == 1, texts
    return texts[0]


def test_nothing_to_say_when_all_is_there():
    made = planned()
    assert problems(made) == []
    assert preflight.warnings(made) == []
    assert not Path("runs").exists()


# --- hardware -------------------------------------------------------------------------------------
def test_fp16_on_a_cpu():
    made = planned('engine.precision="fp16"')
    text = only(problems(made))
    assert text.startswith("--set: engine.precision: fp16 cannot be trained on a CPU\n")
    assert text.endswith('    --set engine.precision="bf16"')
    assert preflight.warnings(made) == [text]
    assert problems(planned('engine.precision="bf16"')) == []


def test_fewer_gpus_than_slots(monkeypatch):
    made = planned(device="cuda", source="hosts.txt")
    assert "hosts.txt: localhost has slots=2, but this machine has 0 GPUs" in only(problems(made))
    assert "this machine has 0 GPUs" in only(preflight.warnings(made))
    monkeypatch.setattr(gpu, "installed", lambda: [A100, A100])
    assert problems(made) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert "this machine has 1 GPUs with CUDA_VISIBLE_DEVICES='1'" in only(problems(made))


def test_nothing_is_known_of_other_hosts():
    assert problems(planned(device="cuda", hosts=(Host(name="far", slots=2),), source="hosts.txt")) == []


def test_bf16_on_old_gpus(monkeypatch):
    made = planned('engine.precision="bf16"', device="cuda")
    monkeypatch.setattr(gpu, "installed", lambda: [A100, V100])
    assert only(problems(made)) == (
        "--set: engine.precision: Tesla V100 has no bf16: its compute capability is below 8.0\n"
        '    --set engine.precision="fp16"')
    monkeypatch.setattr(gpu, "installed", lambda: [A100, A100, V100])  # the third is not used
    assert problems(made) == []


def test_a_hostfile_of_this_machine_without_gpus_is_a_warning(tmp_path):
    path = tmp_path / "hosts.txt"
    path.write_text("localhost slots=2\n")
    cluster = hostfile.read(path)
    made = planned(device=cluster.device, hosts=cluster.hosts, source=cluster.source)
    assert problems(made) == []
    assert f"this machine has no GPU: {path} would start 2 ranks on its CPU" in only(preflight.warnings(made))


def test_a_warning_where_finetuning_has_nothing_to_start_from():
    Path("case.toml").write_text(FINETUNING_ONLY)
    made = plan.make(load(Path("case.toml")), hostfile.this_host(1), Path("runs/case"))
    assert "starts from new weights" in only(preflight.warnings(made))


# --- files ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("content", "wrong"), [
    (None, "matches no file"),
    ("", "corpus.sources: the corpus has no text in it"),
    (" \n\n ", "corpus.sources: the corpus has no text in it"),
    (b"fine\n\xff\n", "a.txt:2: is not UTF-8"),
])
def test_bad_corpus(content, wrong):
    path = Path("texts/a.txt")
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    text = only(problems(planned()))
    assert wrong in text
    if content is None:
        assert text.startswith("case.toml:10: corpus.sources: ")


def test_all_sources_are_checked_at_once():
    Path("b.jsonl").write_text('{"text": "x"}\n{"words": "y"}\n')
    sources = 'corpus.sources=["path:none/*.txt", "builtin:wiki_leads", "path:b.jsonl", "path:case.toml"]'
    found = problems(planned(sources))
    assert len(found) == 3
    assert "none/*.txt" in found[0] and "b.jsonl:2" in found[1] and "case.toml" in found[2]


@pytest.mark.parametrize(("corpus", "wrong"), [
    ("none.txt", "matches no file"), ("case.toml", "case.toml: must be a .txt"), ("empty.txt", "has no text in it")])
def test_the_corpus_of_muxology_is_checked(corpus, wrong):
    Path("empty.txt").touch()
    Path("case.toml").write_text(f'{RECIPE}[[stages]]\nkind = "muxology"\ncorpus = "path:{corpus}"\n')
    made = plan.make(load(Path("case.toml")), hostfile.this_host(1), Path("runs/case"))
    assert wrong in only(problems(made))


def test_a_corpus_that_nothing_reads_is_not_checked():
    shutil.rmtree("texts")
    Path("tokens").mkdir()
    Path("tokens/tokenizer.json").touch()
    Path("case.toml").write_text(FINETUNING_ONLY)
    made = [plan.make(load(Path("case.toml"), changes), hostfile.this_host(1), Path("runs/case"))
            for changes in ((), ('tokenizer.source="path:tokens"',))]
    assert "matches no file" in only(problems(made[0]))  # sentencepiece reads it
    assert problems(made[1]) == []


def test_of_a_large_corpus_only_the_beginning_is_parsed(monkeypatch):
    Path("texts/a.txt").write_bytes(b"text\n\n" * 2000 + b"\xff\n")
    assert "a.txt:4001" in only(problems(planned()))
    monkeypatch.setattr(named_files, "PARSED_BYTES", 1000)
    assert problems(planned()) == []


@pytest.mark.parametrize(("name", "content", "wrong"), [
    ("train.jsonl", None, "tasks.define.mood.train: \"path:train.jsonl\" matches no file"),
    ("test.tsv", None, "tasks.define.mood.test: \"path:test.tsv\" matches no file"),
    ("train.jsonl", "", "tasks.define.mood.train: train.jsonl has no rows"),
    ("test.tsv", "text\tlabel\n", "tasks.define.mood.test: test.tsv has no rows"),
    ("test.tsv", "", "test.tsv: is empty"),
    ("test.tsv", "text\tlabel\na\tb\tc\n", "test.tsv:2: has 3 values"),
    ("train.jsonl", '{"text": "x", "label": 1}\n{', "train.jsonl:2: is not JSON"),
    ("test.tsv", "sentence\tlabel\na\t1\n",
     'row 1 of test.tsv has no column "text"\n    it has "sentence" and "label"'),
    ("train.jsonl", '{"text": "x", "label": 1}\n{"review": "x"}\n',
     'row 2 of train.jsonl has no column "text" and "label"\n    it has "review"'),
])
def test_bad_task_files(name, content, wrong):
    if content is None:
        Path(name).unlink()
    else:
        Path(name).write_text(content)
    assert wrong in only(problems(planned()))


def test_columns_that_the_task_names():
    found = problems(planned('tasks.define.mood.text_pair="second"', 'tasks.define.mood.label_name="name"'))
    assert len(found) == 2
    assert all('has no column "second" and "name"' in text for text in found)


WORDS = ('tasks.define.mood.tokens="words"', 'tasks.define.mood.label="tags"',
         'tasks.define.mood.train="path:words.jsonl"', 'tasks.define.mood.test="path:words.jsonl"')


@pytest.mark.parametrize(("row", "wrong"), [
    ('{"words": ["Ada", "wrote"], "tags": ["A", 0]}', None),
    ('{"words": ["Ada"]}', 'has no column "tags"\n    it has "words"'),
    ('{"words": "Ada", "tags": ["A"]}', 'row 2 of words.jsonl has no list in column "words"'),
    ('{"words": ["Ada"], "tags": []}', 'row 2 of words.jsonl has no list in column "tags"'),
    ('{"words": ["Ada", "wrote"], "tags": ["A"]}', 'has "words" of 2 and "tags" of 1: a class for each word'),
    ('{"words": ["Ada", " "], "tags": ["A", "B"]}', 'has something else than words in column "words"'),
    ('{"words": ["Ada"], "tags": [1.0]}', None),
    ('{"words": ["Ada"], "tags": [null]}', "has words without a label"),
    ('{"words": ["Ada"], "tags": [" "]}', "has words without a label"),
    ('{"words": ["Ada"], "tags": [["A"]]}', "has words without a label"),
])
def test_rows_of_words(row, wrong):
    Path("words.jsonl").write_text('{"words": ["x", "y"], "tags": ["A", "B"]}\n' + row)
    found = problems(planned(*WORDS))
    assert len(found) == (2 if wrong else 0)  # it is both train and test
    assert all(wrong in text for text in found)


def test_labels_are_spelt_as_the_reader_spells_them():
    """What load_task takes, and only that: one label may be 1, 1.0 or "1"."""
    Path("test.jsonl").write_text('{"text": "fine", "label": 1.0}\n{"text": "poor", "label": " 0"}\n')
    test = 'tasks.define.mood.test="path:test.jsonl"'
    made = planned(test)
    assert problems(made) == []
    definition = Recipe.model_validate(made.recipe).tasks.define["mood"]
    assert load_task("mood", definition).test.labels.tolist() == [1, 0]
    assert problems(planned(test, 'tasks.define.mood.labels=["bad", "good"]')) == []
    named = planned(test, 'tasks.define.mood.labels=["0", "5"]')
    assert 'the task\'s labels lack "1"' in problems(named)[0]
    with pytest.raises(ValueError, match="label '1' is not among the classes"):
        load_task("mood", Recipe.model_validate(named.recipe).tasks.define["mood"])


def test_words_of_one_class():
    Path("words.jsonl").write_text('{"words": ["x", "y"], "tags": ["A", "A"]}')
    assert 'all rows have the label "A"' in only(problems(planned(*WORDS)))


def originals(folder: str, **texts: str) -> None:
    for name, text in texts.items():
        path = Path(folder, name.replace("__", "/").replace("_tsv", ".tsv"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


MRPC = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
NAMED = ('tasks.root="path:data"', 'stages.finetune.tasks=["mood", "mrpc"]')


def test_original_files():
    made = planned(*NAMED)
    assert only(problems(made)) == f"--set: tasks.root: there is no folder {Path.cwd()}/data"
    originals("data", glue__MRPC__train_tsv=f'\ufeff{MRPC}1\t1\t2\tOne "odd.\tTwo.\n0\t3\t4\tThree.\tFour.\n')
    assert only(problems(made)) == (
        "--set: tasks.root: task mrpc has no file glue/MRPC/dev.tsv there\n"
        f"    looked for glue/MRPC/dev.tsv, glue_data/MRPC/dev.tsv or MRPC/dev.tsv in {Path.cwd()}/data")
    assert preflight.warnings(made) == problems(made)
    originals("data", glue__MRPC__dev_tsv=f"{MRPC}1\t5\t6\tFive.\t\n")
    assert problems(planned(*NAMED)) == []
    originals("data", glue__MRPC__dev_tsv=f"{MRPC}1\t5\t6\tFive.\n")
    assert only(problems(planned(*NAMED))).startswith("data/glue/MRPC/dev.tsv:2: has 4 values")
    originals("data", glue__MRPC__dev_tsv=f"{MRPC}1\t5\t6\t\t \n")
    assert 'row 1 of data/glue/MRPC/dev.tsv has no text in column "#1 String" and "#2 String"' in only(
        problems(planned(*NAMED)))


def test_further_rows_and_rows_to_choose_on():
    keys = ('tasks.define.mood.dev="path:dev.jsonl"', 'tasks.define.mood.also={far = "path:far.jsonl"}')
    found = problems(planned(*keys))
    assert len(found) == 2
    assert found[0].startswith('--set: tasks.define.mood.dev: "path:dev.jsonl" matches no file')
    assert found[1].startswith('--set: tasks.define.mood.also.far: "path:far.jsonl" matches no file')
    Path("dev.jsonl").write_text('{"text": "x", "label": 1}\n')
    Path("far.jsonl").write_text('{"text": "x", "label": 2}\n')
    assert "no row of path:train.jsonl has the label" in only(problems(planned(*keys)))
    assert problems(planned(*keys, 'tasks.define.mood.labels=["bad", "good", "fine"]')) == []
    assert only(problems(planned(*keys, 'tasks.define.mood.labels=["bad", "good"]'))) == (
        "--set: tasks.define.mood.also.far: the task's labels lack \"2\"\n    they are \"bad\" and \"good\"")


def test_classes_of_a_file_that_is_not_parsed_whole_are_unknown(monkeypatch):
    Path("test.tsv").write_text("text\tlabel\nfine\t2\n")
    assert "no row of path:train.jsonl has the label" in only(problems(planned()))
    monkeypatch.setattr(named_files, "PARSED_BYTES", Path("train.jsonl").stat().st_size - 1)
    assert problems(planned()) == []


def test_formats_that_are_named():
    Path("words.txt").write_text("Ada B-PER\nwrote O\n\nno O\n")
    keys = [key.replace("words.jsonl", "words.txt").replace('"words"', '"tokens"').replace('"tags"', '"labels"')
            for key in WORDS]
    assert problems(planned(*keys, 'tasks.define.mood.format="conll"')) == []
    Path("words.txt").write_text("Ada B-PER\nwrote\n")
    found = problems(planned(*keys, 'tasks.define.mood.format="conll"'))
    assert len(found) == 2 and all(text.startswith("words.txt:2: has 1 of 2 columns") for text in found)


def test_broken_lines_up_to_the_number_that_may_be_left_out():
    Path("test.tsv").write_text("text\tlabel\na\nfine\t1\n")
    assert "test.tsv:2: has 1 values" in only(problems(planned()))
    assert problems(planned("tasks.define.mood.broken_lines=1")) == []


def test_packed_texts():
    Path("texts/b.txt.xz").write_bytes(lzma.compress(b"More text.\n"))
    assert problems(planned()) == []
    Path("texts/b.txt.xz").write_bytes(lzma.compress(b"More text.\n")[:-8])
    assert only(problems(planned())).startswith("texts/b.txt.xz: is damaged: ")


def test_missing_files_are_warnings_in_a_dry_run():
    shutil.rmtree("texts")
    Path("train.jsonl").unlink()
    Path("test.tsv").write_text("sentence\tlabel\na\t1\n")
    found = preflight.warnings(planned())
    assert len(found) == 3
    assert all(word in text for word, text in zip(("texts", "train.jsonl", '"sentence"'), found, strict=True))


def test_tokenizer_folder():
    made = planned('tokenizer.source="path:tokens"')
    assert f"tokenizer.source: there is no folder {Path.cwd()}/tokens" in only(problems(made))
    Path("tokens").mkdir()
    assert "holds no tokenizer\n    expected one of tokenizer.json" in only(problems(made))
    Path("tokens/vocab.txt").touch()
    assert problems(made) == []


def model_folder(path: str) -> None:
    Path(path).mkdir(parents=True)
    (Path(path) / "config.json").write_text('{"model_type": "bert"}')
    (Path(path) / "model.safetensors").touch()


def test_start_from_a_folder():
    made = planned('stages.pretrain.from="path:old"')
    assert f"--set: stages.pretrain.from: there is no folder {Path.cwd()}/old" in only(problems(made))
    model_folder("old")
    assert problems(made) == []
    Path("old/model.safetensors").rename("old/pytorch_model.bin")
    assert problems(made) == []
    Path("old/pytorch_model.bin").unlink()
    assert f"{Path.cwd()}/old has no weights (model.safetensors or pytorch_model.bin)" in only(problems(made))
    for broken in ("", "[]"):
        Path("old/config.json").write_text(broken)
        assert f"{Path.cwd()}/old/config.json cannot be read" in only(problems(made))
    Path("old/config.json").unlink()
    assert f"{Path.cwd()}/old has no config.json and no weights" in only(problems(made))


def test_mux_models_and_runs_are_read_from_safetensors_alone():
    made = planned('stages.pretrain.from="path:old"', 'stages.finetune.from="run:runs/old"')
    model_folder("old")
    model_folder("runs/old/pretrain/model")
    stages = [{"kind": "pretrain", "status": "done", "model": "pretrain/model"}]
    Path("runs/old/results.json").write_text(json.dumps({"stages": stages}))
    for folder in ("old", "runs/old/pretrain/model"):
        Path(folder, "model.safetensors").rename(Path(folder, "pytorch_model.bin"))
    assert "runs/old/pretrain/model has no weights (model.safetensors)" in only(problems(made))
    Path("old/config.json").write_text('{"model_type": "mux"}')
    assert f"stages.pretrain.from: {Path.cwd()}/old has no weights (model.safetensors)" in problems(made)[0]


def test_an_encoder_in_a_folder():
    text = FINETUNING_ONLY.replace('size = "TINY"\nN = 2', 'family = "hub"\nsource = "path:encoder"')
    Path("case.toml").write_text(text)
    made = plan.make(load(Path("case.toml")), hostfile.this_host(1), Path("runs/case"))
    assert only(problems(made)) == f"case.toml:5: model.source: there is no folder {Path.cwd()}/encoder"
    model_folder("encoder")
    assert problems(made) == [] and preflight.warnings(made) == []


def test_start_from_a_run():
    made = planned('stages.finetune.from="run:runs/old"')
    assert f"stages.finetune.from: there is no run directory {Path.cwd()}/runs/old" in only(problems(made))
    Path("runs/old").mkdir(parents=True)
    assert "has no results.json: no stage of that run has finished" in only(problems(made))
    results = Path("runs/old/results.json")
    for broken in ("{", "[]", '{"stages": [1]}', "\udcff".encode("utf-8", "surrogateescape")):
        results.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
        assert "results.json cannot be read" in only(problems(made))
    stages = [{"kind": "retrieval", "status": "done", "model": "retrieval/model"},
              {"kind": "pretrain", "status": "pending", "model": "pretrain/model"},
              {"kind": "finetune", "status": "done", "model": "finetune/model"}]
    results.write_text(json.dumps({"stages": stages[1:]}))
    assert "no finished stage of the run in" in only(problems(made))
    results.write_text(json.dumps({"stages": stages}))
    assert f"there is no folder {Path.cwd()}/runs/old/retrieval/model" in only(problems(made))
    model_folder("runs/old/retrieval/model")
    assert problems(made) == []
    stages[1]["status"] = "done"
    results.write_text(json.dumps({"stages": stages}))
    assert f"there is no folder {Path.cwd()}/runs/old/pretrain/model" in only(problems(made))  # the newest


# --- the place of the run -------------------------------------------------------------------------
def test_a_teacher_is_a_run_with_a_model_of_each_task():
    made = planned('stages.finetune.teacher="run:runs/old"')
    folder = Path("runs/old").absolute()
    assert problems(made) == [f"--set: stages.finetune.teacher: there is no run directory {folder}"]
    folder.mkdir(parents=True)
    stage = {"id": "finetune", "kind": "finetune", "status": "done", "tasks": {"sst2": {"model": "finetune/model"}}}
    (folder / "results.json").write_text(json.dumps({"stages": [stage]}))
    assert f"no finished stage of the run in {folder} has fine-tuned a model of mood" in only(problems(made))
    stage["tasks"]["mood"] = stage["tasks"].pop("sst2")
    (folder / "results.json").write_text(json.dumps({"stages": [stage]}))
    assert f"there is no folder {folder}/finetune/model" in only(problems(made))
    model_folder("runs/old/finetune/model")
    assert problems(made) == []


def test_disk_that_is_too_small(monkeypatch):
    made = planned()
    free = made.disk_bytes - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    text = only(problems(made))
    assert f"may need {made.disk_bytes / 1e9:.2f} GB, and its disk has {free / 1e9:.2f} GB free" in text
    assert preflight.warnings(made) == []
    Path("runs/case/pretrain").mkdir(parents=True)
    Path("runs/case/pretrain/shard").write_bytes(b"x")  # what is written already needs no room
    assert problems(made) == []
    (anew,) = preflight.check(made, RunDirectory("runs/case"), begun=False)  # it is kept beside the new run
    assert text == str(anew)


def test_disk_is_that_of_the_nearest_parent(monkeypatch, tmp_path):
    asked = []
    plenty = SimpleNamespace(free=10**18)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or plenty)
    assert problems(planned(), "a/b/c") == []
    assert asked == [tmp_path]


def test_run_directory_in_the_way_of_a_file():
    Path("runs").write_text("")
    assert f"cannot be made: {Path.cwd()}/runs is not a directory" in only(problems(planned()))
    Path("taken").write_text("")
    assert f"{Path.cwd()}/taken: is not a directory" in only(problems(planned(), "taken"))
    assert "cannot be used: File name too long" in only(problems(planned(), "x" * 300))


def test_run_directory_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert f"cannot be written: {tmp_path} is not writable" in only(problems(planned()))
    Path("runs/case").mkdir(parents=True)
    assert problems(planned()) == []


def test_run_directory_of_another_user(monkeypatch):
    Path("runs/case").mkdir(parents=True)
    assert problems(planned()) == []
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    assert "belongs to another user" in only(problems(planned()))


def test_everything_at_once(monkeypatch):
    shutil.rmtree("texts")
    Path("train.jsonl").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    found = problems(planned('engine.precision="fp16"', 'tokenizer.source="path:none"',
                             'stages.pretrain.from="run:none"'))
    words = ("fp16", "texts", "train.jsonl", "tokenizer.source", "stages.pretrain.from", "GB free")
    assert all(word in text for word, text in zip(words, found, strict=True))
