"""Small model folders with a real tokenizer, for the tests of pipelines, predict and export."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mux.model import MuxConfig

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*SPECIAL, *(f"w{i}" for i in range(40)), "##a", "##b", "##c", *".,'"]


def tokenizer() -> PreTrainedTokenizerFast:
    """Word pieces: "w1", "w1a" = w1 ##a, "w1ab" = w1 ##a ##b, ..."""
    raw = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **names,
                                   model_input_names=["input_ids", "token_type_ids", "attention_mask"])


def model(kind: type[PreTrainedModel], **fields) -> PreTrainedModel:
    """A tiny model whose every weight is off its initial value, so that groups, biases and norms matter."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
             "vocab_size": len(PIECES), "max_position_embeddings": 64}
    made = kind(MuxConfig(**sizes | fields)).eval()
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


@pytest.fixture
def model_folder(tmp_path) -> Callable[..., Path]:
    """`model_folder(kind, **fields of MuxConfig)`: a folder with that model and the tokenizer."""
    def make(kind: type[PreTrainedModel], **fields) -> Path:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        model(kind, **fields).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        return folder
    return make


@pytest.fixture
def texts() -> list[str]:
    """Eleven texts of different lengths."""
    return [" ".join(f"w{(7 * i + 3 * j) % 40}{'abc'[: j % 3]}" for j in range(1 + (5 * i) % 9)) for i in range(11)]
