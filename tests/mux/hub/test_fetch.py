"""Sources of models. The hub is a folder here, laid out as its own client keeps it, and the client is the real one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, BertConfig, BertModel

from mux.hub.fetch import imported, local_folder
from mux.hub.princeton import import_folder

ROOT = Path(__file__).parents[3]
HUB_STYLE = ROOT.parent / "shared" / "goldens" / "hub_style_muxbert_mlm_n2"
COMMIT, BRANCH_COMMIT = "0123456789abcdef0123456789abcdef01234567", "fedcba9876543210fedcba9876543210fedcba98"
PUBLISHED = "muxbert_base_gaussian_hadamard_index_pos_2"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A Hugging Face home with two models in its cache, one of them at a branch too."""
    home = tmp_path / "home"
    model = BertModel(BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                                 intermediate_size=64))
    for owner_name, revision, commit in (("here/bert", "main", COMMIT), ("here/bert", "small", BRANCH_COMMIT)):
        model.save_pretrained(kept(home, owner_name, revision, commit))
    published = kept(home, f"princeton-nlp/{PUBLISHED}", "main", COMMIT)
    for name in ("config.json", "pytorch_model.bin"):
        shutil.copy(HUB_STYLE / name, published)
    return home


def kept(home: Path, name: str, revision: str, commit: str) -> Path:
    """Where the client keeps a commit."""
    place = home / "hub" / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / revision).write_text(commit)
    snapshot = place / "snapshots" / commit
    snapshot.mkdir(parents=True)
    return snapshot


def ask(home: Path, *sources: str, cache: Path | None = None) -> list[str]:
    """What `local_folder` answers in a process of its own: the client reads its settings once, at import."""
    code = ("import json, sys; from pathlib import Path; from mux.hub.fetch import local_folder\n"
            "def answer(source):\n"
            "    try: return str(local_folder(source, *map(Path, sys.argv[2:])))\n"
            "    except ValueError as error: return f'refused: {error}'\n"
            "print(json.dumps([answer(source) for source in json.loads(sys.argv[1])]))")
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_CACHE"}
    done = subprocess.run([sys.executable, "-c", code, json.dumps(sources), *([str(cache)] if cache else [])],
                          env=environment | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}, cwd=ROOT,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_hub(hub: Path, tmp_path: Path):
    cache = tmp_path / "cache" / "hub" / "here" / "bert"
    whole, branch, commit, nowhere, revision, published, unknown = ask(
        hub, "hub:here/bert", "hub:here/bert@small", f"hub:here/bert@{BRANCH_COMMIT}", "hub:here/none",
        "hub:here/bert@none", f"princeton:{PUBLISHED}", "princeton:muxbert_none", cache=tmp_path / "cache")
    assert whole == str(cache / COMMIT)
    assert branch == commit == str(cache / BRANCH_COMMIT)
    for answer in (nowhere, revision):
        assert answer.startswith("refused: here/") and "path:DIR" in answer and "HF_HOME" in answer
    assert unknown.startswith("refused: princeton-nlp/muxbert_none")
    assert "`mux import princeton FOLDER DST`" in unknown and "path:DST" in unknown

    assert Path(published).parent == tmp_path / "cache" / "princeton" / PUBLISHED
    assert Path(published).name.startswith(COMMIT)
    assert AutoModelForMaskedLM.from_pretrained(published).config.compat == "princeton"


def test_models_of_the_hub_are_copied_whole_to_where_other_hosts_see_them(hub: Path, tmp_path: Path):
    """Plain files, as the hub's cache has links; and nothing that is not read."""
    place = hub / "hub" / "models--here--bert"
    snapshot = place / "snapshots" / COMMIT
    assert ask(hub, "hub:here/bert") == [str(snapshot)]  # without a cache: where the client keeps it
    (place / "blobs").mkdir()
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).rename(place / "blobs" / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    for name in ("vocab.txt", "pytorch_model.bin", "flax_model.msgpack"):
        (snapshot / name).write_text(name)
    (snapshot / "onnx").mkdir()
    (snapshot / "onnx" / "config.json").write_text("{}")
    (copy,) = ask(hub, "hub:here/bert", cache=tmp_path / "cache")
    files = [path for path in Path(copy).rglob("*") if not path.is_dir()]
    assert sorted(path.name for path in files) == ["config.json", "model.safetensors", "vocab.txt"]
    assert not any(path.is_symlink() for path in files)
    assert load_file(f"{copy}/model.safetensors").keys() == load_file(snapshot / "model.safetensors").keys()
    (snapshot / "model.safetensors").write_bytes(b"")  # so that another copy would differ
    assert ask(hub, "hub:here/bert", cache=tmp_path / "cache") == [copy]
    assert load_file(f"{copy}/model.safetensors")


def test_published_models_are_imported_once(tmp_path: Path):
    folder = tmp_path / "commit"
    folder.mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        shutil.copy(HUB_STYLE / name, folder)
    first = imported(folder, PUBLISHED, tmp_path / "cache")
    import_folder(folder, tmp_path / "beside")
    kept, fresh = (load_file(place / "model.safetensors") for place in (first, tmp_path / "beside"))
    assert kept.keys() == fresh.keys() and all(torch.equal(kept[name], fresh[name]) for name in kept)
    (folder / "pytorch_model.bin").unlink()  # so that another import would fail
    assert imported(folder, PUBLISHED, tmp_path / "cache") == first


def test_a_failed_import_leaves_nothing(tmp_path: Path):
    folder = tmp_path / "commit"
    folder.mkdir()
    shutil.copy(HUB_STYLE / "config.json", folder)
    with pytest.raises(ValueError, match="has no weights"):
        imported(folder, PUBLISHED, tmp_path / "cache")
    assert not any((tmp_path / "cache" / "princeton" / PUBLISHED).iterdir())


def test_folders(tmp_path: Path):
    assert local_folder(f"path:{tmp_path}") == tmp_path
    with pytest.raises(ValueError, match="no such folder"):
        local_folder(f"path:{tmp_path / 'none'}")


@pytest.mark.parametrize("source, words", [
    ("hub:a/b/c", "only hub:ID"), ("hub:a/b:train", "only hub:ID"), ("hub:a b", "names no model of the hub"),
    ("princeton:a/b", "names no published model"), ("princeton:", "names no published model"),
    ("path:", "names no place"), ("run:x", "none of path:DIR"),
])
def test_misspelt_sources(source: str, words: str):
    with pytest.raises(ValueError, match=words):
        local_folder(source)
