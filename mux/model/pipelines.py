"""transformers' pipelines over MUX models, with batches that fill their groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TokenClassificationPipeline,
)
from transformers import pipeline as transformers_pipeline
from transformers.pipelines import check_task

from mux.model.opening import open_config

ROWS_PER_SLOT = 32  # a batch is this many groups
PADDED_LENGTH = 128  # of models that attend to padding and do not say: of the published ones (numerics 1.1, 5)

# Task -> the heads that answer it.
HEADS = {
    "text-classification": ("MuxForSequenceClassification",),
    "token-classification": ("MuxForTokenClassification",),
    "fill-mask": ("MuxForPreTraining", "MuxForMaskedLM"),
}


def pipeline(task: str, path: str | Path, **kwargs: Any) -> Any:
    """`transformers.pipeline(task, model=path)` with `batch_size` = 32 N and rows cut to what the model can read.

    transformers' own default batch, 1, would send a single instance per group: as slow as N = 1 and further from what
    the model was trained on. Code that comes with a model is not run, and nobody is asked whether it may be. `kwargs`
    go to transformers and hold over what is set here. Raises ValueError for a folder without tokenizer and for a model
    whose head does not answer the task.
    """
    kwargs = {"trust_remote_code": False, **kwargs}
    config = open_config(path, kwargs["trust_remote_code"])
    task = check_task(task)[0]  # "ner" is "token-classification"
    if config.model_type == "mux":
        check_head(task, config, path)
        kwargs = {"batch_size": ROWS_PER_SLOT * config.num_instances, **_row_options(task, config), **kwargs}
    if "tokenizer" not in kwargs:
        kwargs["tokenizer"] = open_tokenizer(path, config, kwargs["trust_remote_code"])
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


def open_tokenizer(path: str | Path, config: PreTrainedConfig,
                   trust_remote_code: bool | None = False) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; its `model_max_length` is what the model can read. ValueError if there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # a missing or damaged file shows in many ways; tokenizers raises bare Exception
        raise ValueError(f"{path} has no tokenizer that can be loaded; save the one the model was trained with there: "
                         f'tokenizer.save_pretrained("{path}")') from error
    longest = padded_length(config) or longest_row(config) or tokenizer.model_max_length
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    return tokenizer


def longest_row(config: PreTrainedConfig) -> int | None:
    """Tokens of the longest row that the model can read; a prefix demultiplexer's markers take positions too."""
    positions = getattr(config, "max_position_embeddings", None)
    return positions and positions - getattr(config, "prefix_length", 0)


def token_positions(model: PreTrainedModel) -> int | None:
    """How many tokens have a position of their own; None: any number.

    RoBERTa and its kin count from behind the padding's position on.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    before = max((module.padding_idx + 1 for name, module in model.named_modules()
                  if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None),
                 default=0)
    return None if positions is None else positions - before


def padded_length(config: PreTrainedConfig) -> int | None:
    """The length to which every row has to be padded, for a model whose results depend on it; else None.

    Our stages record the length of their rows in config.json, as `padded_length`; published models have none there.
    """
    if not attends_padding(config):
        return None
    length: int = config.padded_length or PADDED_LENGTH
    return min(length, longest_row(config) or length)


def attends_padding(config: PreTrainedConfig) -> bool:
    return config.model_type == "mux" and config.multiplexed and not config.mask_padding


class PaddedTokenClassification(TokenClassificationPipeline):
    """transformers' own pads only inside a batch, and has no option for more."""

    def _sanitize_parameters(self, *args: Any, **kwargs: Any) -> Any:
        preprocess, forward, postprocess = super()._sanitize_parameters(*args, **kwargs)
        assert isinstance(self.model.config, PreTrainedConfig)
        padding = {"padding": "max_length", "max_length": padded_length(self.model.config)}
        tokenizer_params = preprocess.get("tokenizer_params", {}) | padding
        return preprocess | {"tokenizer_params": tokenizer_params}, forward, postprocess


def _row_options(task: str, config: PreTrainedConfig) -> dict[str, Any]:
    """How each task's pipeline is told to cut rows, and to pad them where padding is attended."""
    options: dict[str, Any] = {"truncation": True}
    tokens: dict[str, Any] = {}  # cuts rows by itself
    if length := padded_length(config):
        options |= {"padding": "max_length", "max_length": length}
        tokens = {"pipeline_class": PaddedTokenClassification}
    return {"text-classification": options,
            "fill-mask": {"tokenizer_kwargs": options},
            "token-classification": tokens}[task]
