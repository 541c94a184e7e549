"""A model folder of transformers as it lies on disk: config.json beside model.safetensors or pytorch_model.bin.

Nothing in it is run: weights come from safetensors or through torch's restricted unpickler (`weights_only`).
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, ElectraConfig

from mux.model.config import BACKBONE_FIELDS, FAMILIES
from mux.model.opening import check_sizes
from mux.recipe.wording import listed, reason, shown

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there is read


def read_config(folder: Path) -> dict[str, Any]:
    """The object in config.json. Raises ValueError: not there, no JSON object, of a model larger than any."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a model folder: it has no config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a JSON object")
    try:
        check_sizes(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def encoder_of(published: dict[str, Any]) -> BertConfig | ElectraConfig:
    """transformers' own configuration of a BERT or ELECTRA; its defaults hold where config.json says nothing.

    Raises ValueError: another model, or a value of the wrong type.
    """
    family = published.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"model_type is {shown(family)}; it must be {listed(FAMILIES, 'or')}")
    try:
        return FAMILIES[family](**{name: published[name] for name in BACKBONE_FIELDS if name in published})
    except StrictDataclassError as error:
        raise ValueError(" ".join(str(error).split())) from None


def read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file that holds the weights, and its tensors by name.

    Raises ValueError: none is there, damaged, or a pickle with more in it than tensors.
    """
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"{folder} has no weights: {' or '.join(WEIGHTS)} is needed, in one piece")
    weights = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(weights, dict) or not all(isinstance(name, str) and isinstance(tensor, Tensor)
                                                for name, tensor in weights.items()):
        raise ValueError(f"{path} is not a state dict: tensors by name are needed")
    for name, tensor in weights.items():
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_complex():
            raise ValueError(f"{path}: {name} is no plain tensor of numbers")
    return path, weights


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged: {reason(error)}") from None


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{path} is refused: it is not a plain pickle of tensors, and what else is in it could run "
                         "code here. Ask for the weights as model.safetensors") from None
    except Exception as error:  # on damaged bytes the unpickler fails in whichever way they lead it
        raise ValueError(f"{path} is damaged: {reason(error)}") from None


@contextmanager
def written_whole(destination: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `destination` if nothing is raised, and else leaves nothing behind.

    Raises ValueError if there is something at `destination` already, or no folder can be there.
    """
    if destination.is_symlink() or any(parent.exists() and not parent.is_dir() for parent in destination.parents):
        raise ValueError(f"{destination} cannot be made: it is a link, or a file is where a folder should be")
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise ValueError(f"{destination} exists already; name another folder, or remove it")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(suffix=".part", prefix=f".{destination.name}.", dir=destination.parent) as beside:
        part = Path(beside) / destination.name
        part.mkdir()
        yield part
        for path in part.iterdir():  # safetensors writes files that only their owner may read
            path.chmod(part.stat().st_mode & 0o666)
        os.rename(part, destination)
