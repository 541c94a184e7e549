"""The folders that stages leave behind."""

from types import SimpleNamespace

import pytest
from transformers import AutoConfig, AutoTokenizer

from mux.model import MuxForSequenceClassification
from mux.model.pipelines import padded_length
from mux.stages.loading import config_of
from mux.stages.model_folder import save_model


@pytest.mark.parametrize(("fields", "padded"), [
    ({}, None), ({"demultiplexer": "prefix"}, None), ({"compat": "princeton"}, 24),
    ({"compat": "princeton", "demultiplexer": "prefix"}, 24),
    ({"compat": "princeton", "departures": {"mask_padding": True}}, None),
])
def test_a_folder_says_how_long_rows_were(context, tmp_path, fields, padded):
    """The stage's sequence_length is 24, the model has 40 positions."""
    made = context(**fields)
    made.plan = SimpleNamespace(name="test")
    model = MuxForSequenceClassification(config_of(made.recipe.model, made.tokenizer))
    engine = SimpleNamespace(model=model, whole_weights=model.state_dict)
    made.ranks.barrier = lambda: None
    save_model(made, engine, tmp_path / "model", "finetune", tmp_path / "model", ())
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert padded_length(config) == padded and getattr(config, "padded_length", None) == padded
    assert AutoTokenizer.from_pretrained(tmp_path / "model").model_max_length == 24
