"""transformers' pipelines over MUX models, with batches that fill their groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers import pipeline as transformers_pipeline
from transformers.pipelines import check_task

ROWS_PER_SLOT = 32  # a batch is this many groups
PADDED_LENGTH = 128  # of models that attend to padding: what the published ones were trained on (numerics 1.1, 5)

# Task -> the heads that answer it.
HEADS = {
    "text-classification": ("MuxForSequenceClassification",),
    "token-classification": ("MuxForTokenClassification",),
    "fill-mask": ("MuxForPreTraining", "MuxForMaskedLM"),
}


def pipeline(task: str, path: str | Path, **kwargs: Any) -> Any:
    """`transformers.pipeline(task, model=path)` with `batch_size` = 32 N and rows cut to what the model can read.

    transformers' own default batch, 1, would send a single instance per group: as slow as N = 1 and further from what
    the model was trained on. `kwargs` go to transformers and hold over what is set here. Raises ValueError for a
    folder without tokenizer and for a model whose head does not answer the task.
    """
    config = AutoConfig.from_pretrained(path)
    task = check_task(task)[0]  # "ner" is "token-classification"
    if config.model_type == "mux":
        check_head(task, config, path)
        kwargs = {"batch_size": ROWS_PER_SLOT * config.num_instances, **_row_options(task, config), **kwargs}
    if "tokenizer" not in kwargs:
        kwargs["tokenizer"] = open_tokenizer(path, config)
    return transformers_pipeline(task, model=str(path), **kwargs)  # type: ignore[call-overload]


def check_head(task: str, config: PreTrainedConfig, path: str | Path) -> None:
    """Refuse a MUX model whose head does not answer the task: its answers would come from random weights."""
    heads = config.architectures or []
    if task not in HEADS:
        raise ValueError(f"{task}: MUX models have pipelines for {', '.join(HEADS)}")
    if task == "fill-mask" and config.family == "electra":
        raise ValueError(f"{path} is an ELECTRA: it tells replaced tokens from original ones and fills no masks")
    if not set(heads) & set(HEADS[task]):
        raise ValueError(f"{path} holds {' or '.join(heads) or 'no head'}; {task} needs {HEADS[task][0]}")


def open_tokenizer(path: str | Path, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; its `model_max_length` is what the model can read. ValueError if there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # a missing or damaged file shows in many ways; tokenizers raises bare Exception
        raise ValueError(f"{path} has no tokenizer that can be loaded; save the one the model was trained with there: "
                         f'tokenizer.save_pretrained("{path}")') from error
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest_row(config) or tokenizer.model_max_length)
    return tokenizer


def longest_row(config: PreTrainedConfig) -> int | None:
    """Tokens of the longest row that the model can read; a prefix demultiplexer's markers take positions too."""
    positions = getattr(config, "max_position_embeddings", None)
    return positions and positions - getattr(config, "prefix_length", 0)


def padded_length(config: PreTrainedConfig) -> int | None:
    """The length to which every row has to be padded, for a model whose results depend on it; else None."""
    attended = config.model_type == "mux" and config.multiplexed and not config.mask_padding
    return min(PADDED_LENGTH, longest_row(config) or PADDED_LENGTH) if attended else None


def _row_options(task: str, config: PreTrainedConfig) -> dict[str, Any]:
    """How each task's pipeline is told to cut rows, and to pad them where padding is attended."""
    options: dict[str, Any] = {"truncation": True}
    if length := padded_length(config):
        options |= {"padding": "max_length", "max_length": length}
    return {"text-classification": options,
            "fill-mask": {"tokenizer_kwargs": options},
            "token-classification": {}}[task]  # cuts rows by itself and pads only inside a batch
