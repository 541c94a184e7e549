"""Model folders by name: on this disk, on the Hugging Face hub, or published by the paper's authors.

    path:DIR             a folder
    hub:ID[@REVISION]    a model of the hub, through the hub's cache (HF_HOME); copied once per commit where a cache is
                         given, which other hosts may see
    princeton:NAME       princeton-nlp/NAME of the hub, imported once per commit
"""

from __future__ import annotations

import shutil
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import filter_repo_objects

from mux.data.cache import built_once
from mux.hub.princeton import import_folder
from mux.recipe import Refusal, files, grammar
from mux.recipe.wording import reason

AUTHORS = "princeton-nlp"
VERSION = 1  # of the importer; another number is another folder in the cache
SMALL = ["*.json", "*.txt", "*.model"]  # configurations and vocabularies
SAFE, PICKLED = "*model*.safetensors", "*pytorch_model*.bin"
OTHER_FORMATS = ["onnx/*", "openvino/*", "coreml/*"]


def local_folder(source: str, cache: Path | None = None) -> Path:
    """The folder that a source names, fetched if need be.

    `cache`: where models of the hub are copied to and imported ones kept; by default the former stay in the hub's own
    and the latter are beside it. Raises ValueError: misspelt, not there, not to be had without a network, or not what
    can be imported.
    """
    try:
        grammar.start(source)
    except Refusal as refusal:
        raise ValueError(str(refusal)) from None
    scheme, _, rest = source.partition(":")
    if scheme == "path":
        if not Path(rest).is_dir():
            raise ValueError(f"{source}: no such folder: {Path(rest).absolute()}")
        return Path(rest)
    if scheme == "hub":
        name, _, revision, _ = files.split_hub(source)
        folder = fetched(name, revision, "name a folder with the model, path:DIR, or fill the hub's cache (HF_HOME) "
                                         "where there is a network")
        return folder if cache is None else copied(folder, name, cache)
    if scheme == "princeton":
        return imported(fetched(f"{AUTHORS}/{rest}", None, f"download {AUTHORS}/{rest} where there is a network, run "
                                                           "`mux import princeton FOLDER DST` and write path:DST"),
                        rest, cache or Path(constants.HF_HOME) / "mux")
    raise ValueError(f"{source} is none of path:DIR, hub:ID[@REVISION] and princeton:NAME")


def fetched(name: str, revision: str | None, way_out: str) -> Path:
    """The folder of a model of the hub in the hub's cache. Its name is the commit's hash.

    Weights come as safetensors where there are some, else pickled.
    """
    try:
        for weights in (SAFE, PICKLED):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*SMALL, weights],
                                            ignore_patterns=OTHER_FORMATS))
            if next(folder.rglob(weights), None):
                return folder
    except RepositoryNotFoundError:
        raise ValueError(f"the hub has no model {name} that can be read without a login") from None
    except RevisionNotFoundError:
        raise ValueError(f"the hub has no revision {revision} of {name}") from None
    except Exception as error:  # of whichever http library the hub's client happens to use
        raise ValueError(f"{name} cannot be fetched from the hub: {reason(error)}\n    {way_out}") from None
    raise ValueError(f"{name} of the hub has no weights that can be read: neither {SAFE} nor {PICKLED}")


def copied(folder: Path, name: str, cache: Path) -> Path:
    """The model in a `folder` of the hub's cache, whose name is its commit, as plain files in `cache`."""
    def make(part: Path) -> None:
        there = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
        weights = SAFE if next(folder.rglob(SAFE), None) else PICKLED
        for file in filter_repo_objects(there, allow_patterns=[*SMALL, weights], ignore_patterns=OTHER_FORMATS):
            (part / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, part / file)

    return built_once(cache / "hub" / name / folder.name, make, build=True, progress=lambda *_: None, what=name)


def imported(folder: Path, name: str, cache: Path) -> Path:
    """The published checkpoint in `folder`, whose name is its commit, as a model folder in `cache`."""
    def make(part: Path) -> None:
        import_folder(folder, part)

    return built_once(cache / "princeton" / name / f"{folder.name}.{VERSION}", make, build=True,
                      progress=lambda *_: None, what=name)
