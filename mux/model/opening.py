"""Model folders from anywhere: their configuration and weights, or one sentence about what is wrong with them.

Code that comes with a model is not run unless the caller says so, and no folder is believed in how large its model is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

# What Python goes through one by one before any tensor is made: how the names of such fields end -> how many are real.
MOST = {"layers": 1000, "num_labels": 100_000, "num_instances": 10_000}
# Weights that a file may lack, beyond what its bytes can hold: a head, embeddings of positions.
SPARE = 10**8
FEWEST_BITS = 4  # of a weight in a file


def open_config(path: str | Path, trust_remote_code: bool | None = False) -> PreTrainedConfig:
    """The folder's configuration. ValueError if there is none, or only one that takes running code of the folder."""
    try:  # unless it is told, transformers asks on stdin whether to run the code
        check_sizes(PreTrainedConfig.get_config_dict(path)[0])
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # a value that makes no sense shows in whichever way a configuration meets it
        raise ValueError(f"{path}: transformers makes no configuration of it: {_reason(error)}") from error


def check_sizes(config: Mapping[str, Any]) -> None:
    """Refuse the content of a config.json, with ValueError, of which a model could not be made in sensible time."""
    for name, value in config.items():
        most = next((most for ending, most in MOST.items() if name.endswith(ending)), None)
        if most is not None and isinstance(value, int) and value > most:
            raise ValueError(f"{name} = {value:,} is more than {most:,}")


def open_model(auto_class: Any, path: Path, **options: Any) -> PreTrainedModel:
    """The folder's model in evaluation mode. ValueError if it is not there whole, each weight in its shape.

    `options` go to `from_pretrained`.
    """
    try:
        _check_bytes(auto_class, path)
        with _without_warnings():  # what does not fit is said below
            model, info = auto_class.from_pretrained(path, trust_remote_code=False, output_loading_info=True,
                                                     ignore_mismatched_sizes=True, **options)
    except UnpicklingError as error:
        raise ValueError(f"{path}: the weights are refused: their pickle holds more than tensors, which could run code "
                         "here. Ask for them as model.safetensors") from error
    except Exception as error:  # damaged or hostile bytes fail in whichever way they lead the reader
        raise ValueError(f"{path}: the weights cannot be loaded: {_reason(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{path} lacks {len(missing)} weights of its model, {missing[0]} among them")
    if other := sorted(name for name, *_ in info["mismatched_keys"]):
        raise ValueError(f"{path} has {len(other)} weights in another shape than config.json says, "
                         f"{other[0]} among them")
    return model.eval()


def _check_bytes(auto_class: Any, path: Path) -> None:
    """Refuse a configuration of far more weights than there are, before memory is taken for them."""
    with torch.device("meta"):
        outline = auto_class.from_config(open_config(path), trust_remote_code=False)
    wanted = sum(parameter.numel() for parameter in outline.parameters())
    there = sum(file.stat().st_size for file in path.iterdir() if file.suffix in (".safetensors", ".bin"))
    if wanted > SPARE + 8 * there // FEWEST_BITS:
        raise ValueError(f"config.json describes {wanted:,} weights, and there are {there:,} bytes of them")


@contextmanager
def _without_warnings() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
