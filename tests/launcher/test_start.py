"""From what was typed to a checked plan: what is refused before anything is written."""

import json
import shutil
from pathlib import Path

import pytest

from launcher import start, supervisor
from mux.event import CheckpointSaved
from mux.journal import EventWriter
from mux.recipe import Refusal
from mux.run import write_json
from tests.launcher.test_resizing import saved

TINY = Path(__file__).parent.parent / "recipes" / "tiny.toml"


def request(run_dir, *overrides, stages=None, resume="auto", fresh=False):
    return start.Request(TINY, None, overrides, run_dir, stages, resume, fresh)


def refusal(asked):
    with pytest.raises(Refusal) as caught:
        start.checked(asked)
    return str(caught.value)


def test_a_run_directory_that_cannot_be_one(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    assert f"{file}: cannot be used: Not a directory" in refusal(request(file))
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    assert f"{link}: cannot be used: No such file" in refusal(request(link))
    assert "cannot be used: File name too long" in refusal(request(tmp_path / ("n" * 300)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    assert "this folder holds files, but no run" in refusal(request(tmp_path / "full"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "link"]


def test_stages_that_cannot_start(tmp_path):
    assert "there is no stage 'pretran'" in refusal(request(tmp_path / "r", stages="pretran"))
    assert "pretrain starts from retrieval, which is not done" in refusal(request(tmp_path / "r", stages="pretrain"))


def test_words_of_resume(tmp_path):
    assert "there is no run to go on with" in refusal(request(tmp_path / "r", resume="required"))
    with pytest.raises(Refusal, match="auto, required, never"):
        start.resume_word("perhaps")


def test_other_hosts_go_on_with_the_stages_that_are_left(tmp_path):
    """What is done stays done on any number of devices; what checkpoints can go on on is in test_resizing.py."""
    _, made, run = start.planned(request(tmp_path / "r"))
    run.create()
    run.write_plan(made)
    write_json(run.stage_result("retrieval"), {"seconds": 1.0})
    _, again, _, state = start.checked(request(run.path, "cluster.processes=4"))
    assert state == "unfinished" and again.stage("pretrain").devices == 4


@pytest.mark.parametrize(
    ("train", "test", "told"),
    [
        ([("a", "x"), ("b", "y")], [("c", "z")], 'has the label "z"\n    it has "x" and "y"'),
        ([("a", "x"), ("b", "x")], [("c", "x")], 'all rows have the label "x"'),
        ([("a", "x"), ("", "y")], [("c", "x")], 'row 2 of train.jsonl has no text in column "text"'),
        ([("a", "x"), (3, "y")], [("c", "x")], 'row 2 of train.jsonl has no text in column "text"'),
        ([("a", "x"), ("b", None)], [("c", "x")], "row 2 of train.jsonl has no label"),
    ],
)
def test_task_files_are_read_before_hours_of_pretraining(tmp_path, monkeypatch, train, test, told):
    monkeypatch.chdir(tmp_path)
    for name, rows in (("train", train), ("test", test)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps({"text": t, "label": lab}) + "\n" for t, lab in rows))
    definition = '{train = "path:train.jsonl", test = "path:test.jsonl", steps = 4}'
    assert told in refusal(request(Path("r"), f"tasks.define.mood={definition}", 'stages.finetune.tasks=["mood"]'))
    assert not Path("r").exists()


@pytest.mark.parametrize("damage", ["result", "manifests", "checkpoints"])
def test_what_was_lost_is_not_done_again_in_silence(tmp_path, damage):
    """A result that is none, checkpoints without manifests or gone: starting over must be asked for."""
    asked = start.Request(TINY.with_name("pretrain_alone.toml"), None, (), tmp_path / "run", None, "auto", False)
    _, made, run = start.planned(asked)
    run.create()
    run.write_plan(made)
    checkpoint = run.checkpoints("pretrain") / "step_00000005"
    checkpoint.mkdir(parents=True)
    manifest = checkpoint / "manifest.json"
    manifest.write_text("{}")
    EventWriter(run.events).write(CheckpointSaved(stage="pretrain", step=5, path=str(checkpoint), bytes=1, seconds=1))
    if damage == "result":
        write_json(run.stage_result("pretrain"), {"a": 1})
    elif damage == "manifests":
        manifest.unlink()
    else:
        shutil.rmtree(checkpoint.parent)
    with pytest.raises(Refusal, match="is not what the stage has written" if damage == "result" else
                       "tell of checkpoints, and none is left"):
        start.checked(asked)


def test_fresh_asks_nothing_of_old_checkpoints(tmp_path, capsys):
    """A host is out of reach, and what ZeRO 1 has saved cannot become ZeRO 3's: it is to be moved aside."""
    recipe = TINY.with_name("pretrain_alone.toml")
    _, made, run = start.planned(start.Request(recipe, None, (), tmp_path / "run", None, "auto", False))
    run.create()
    run.write_plan(made)
    saved(run.checkpoints("pretrain"), made, "pretrain")
    hostfile = tmp_path / "hosts.txt"
    hostfile.write_text("localhost slots=1\nno-such-host.invalid slots=1\n")
    changes = ("engine.zero_stage=3", "cluster.min_hosts=1")
    asked = start.Request(recipe, hostfile, changes, run.path, None, "auto", fresh=True)
    _, made, _, state = start.checked(asked)
    assert state == "new" and [host.name for host in made.cluster.hosts] == ["localhost"], capsys.readouterr().out


def test_a_fresh_run_that_loses_hosts_keeps_its_own_micro_batch(tmp_path, monkeypatch):
    """Once it has begun, checkpoints are its own."""
    made_for = {}

    class Recorder:
        def __init__(self, run, plan, display, resumed, replan):
            made_for["one"], made_for["replan"] = plan, replan
            saved(run.checkpoints("pretrain"), plan, "pretrain")

        def execute(self):
            return 1

    monkeypatch.setattr(supervisor, "Supervisor", Recorder)
    batch = ("stages.pretrain.batch=8", "engine.micro_batch=8", "cluster.processes=4")
    asked = start.Request(TINY.with_name("pretrain_alone.toml"), None, batch, tmp_path / "run", None, "auto", True)
    assert start.launch(asked, plain=True) == 1
    one = made_for["one"]
    host = one.cluster.hosts[0].model_copy(update={"slots": 1})
    fewer = made_for["replan"](one.cluster.model_copy(update={"hosts": (host,)}))
    assert one.stage("pretrain").micro_batch == fewer.stage("pretrain").micro_batch == 2
    assert fewer.stage("pretrain").devices == 1
