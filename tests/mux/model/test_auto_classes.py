"""`import mux.model` makes the models at home in transformers: Auto classes, folders, pipelines."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

import mux.model
from mux.model import MuxConfig, MuxForPreTraining, MuxForSequenceClassification, MuxModel

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(40))]
SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
        "vocab_size": len(WORDS), "max_position_embeddings": 64}


@pytest.fixture
def folder(tmp_path):
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
                                        sep_token="[SEP]", mask_token="[MASK]")
    torch.manual_seed(0)
    model = MuxForSequenceClassification(MuxConfig(num_instances=2, num_labels=3, **SIZE))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_auto_class_finds_the_model(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    again = MuxForSequenceClassification.from_pretrained(folder).eval()
    ids = torch.randint(5, 40, (4, 7))
    assert type(model) is MuxForSequenceClassification
    torch.testing.assert_close(model(ids).logits, again(ids).logits, atol=0, rtol=0)


def test_pretraining_folder_without_duplicate_tensors(tmp_path):
    torch.manual_seed(0)
    model = MuxForPreTraining(MuxConfig(num_instances=2, **SIZE)).eval()
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert "head.decoder.weight" not in stored  # tied to the word embeddings
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path).eval()
    ids = torch.randint(5, 40, (4, 7))
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=1e-6, rtol=0)
    assert loaded.head.decoder.weight is loaded.mux.backbone.embeddings.word_embeddings.weight
    tuned = MuxForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
    torch.testing.assert_close(tuned.mux.multiplexer.keys, model.mux.multiplexer.keys, atol=0, rtol=0)
    torch.testing.assert_close(tuned.mux.demultiplexer.keys, model.mux.demultiplexer.keys, atol=0, rtol=0)
    assert type(AutoModel.from_pretrained(tmp_path)) is MuxModel


def test_pipeline_keeps_the_order(folder):
    texts = [f"w{i} w{(3 * i) % 40} w{(7 * i) % 40}" for i in range(7)]  # not a multiple of N
    classify = pipeline("text-classification", model=str(folder), batch_size=len(texts))
    scores = [answer["score"] for answer in classify(texts)]
    tokenizer, model = classify.tokenizer, classify.model
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits.softmax(-1).max(-1).values
    torch.testing.assert_close(torch.tensor(scores), expected, atol=1e-5, rtol=0)


def test_own_pipeline_fills_its_groups(folder):
    classify = mux.model.pipeline("text-classification", str(folder))
    assert classify._batch_size == 64  # 32 N
    assert len(classify([f"w{i}" for i in range(5)])) == 5


def test_sizes_are_table_7(tmp_path):
    config = MuxConfig.from_size("BASE", num_instances=5)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size,
            config.num_instances) == (768, 12, 12, 3072, 5)
    with pytest.raises(ValueError, match="TINY, SMALL, BASE, LARGE"):
        MuxConfig.from_size("HUGE")
    config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["model_type"] == "mux" and stored["num_instances"] == 5
