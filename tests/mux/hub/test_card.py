"""Model cards say what a model is, how to use it and what was measured, and only what is true of it."""

import yaml
from transformers import DistilBertConfig

from mux.hub.card import model_card
from mux.model import MuxConfig

SCORES = {"metric": "accuracy", "mean": 0.75, "std": 0.0125, "max": 0.8, "min": 0.7, "tickets": [0.7, 0.8],
          "majority": 0.5, "others": {"f1": {"mean": 0.5, "std": 0.25, "max": 0.625, "min": 0.375}}}
RESULTS = {"schema": 1, "name": "trial", "status": "finished", "stages": [
    {"id": "pretrain", "kind": "pretrain", "status": "done", "steps": 900, "loss": 2.5, "accuracy": 0.4},
    {"id": "tune", "kind": "finetune", "status": "done", "tasks": {"topic": SCORES, "mood": SCORES}},
    {"id": "copies", "kind": "ensemble", "status": "done", "copies": {"2": {"tasks": {"topic": SCORES}}}},
    {"id": "speed", "kind": "throughput", "status": "done", "rows": [
        {"model": "bert TINY, N = 5", "N": 5, "instances_per_second": 12345.6, "ratio_to_n1": 4.5,
         "ratio_to_bert_base": 9.25}]},
    {"id": "later", "kind": "evaluate", "status": "pending"},
]}


def card(config, auto_class="AutoModelForSequenceClassification", **options):
    return model_card(config, name="trial", made_by="stage `tune` of the run `trial`", folder="runs/trial/tune/model",
                      auto_class=auto_class, **options)


def metadata(text):
    _, head, _ = text.split("---\n", 2)
    return yaml.safe_load(head)


def test_a_multiplexed_classifier():
    text = card(MuxConfig(num_instances=5, family="electra", multiplexer="contextual"))
    assert metadata(text) == {"library_name": "transformers", "pipeline_tag": "text-classification",
                              "tags": ["data-multiplexing", "mux-plm"]}
    assert "A multiplexed ELECTRA encoder (N = 5, contextual multiplexer, rsa demultiplexer)" in text
    assert "reads 5 texts in one forward pass" in text and "depends on the other texts of its group" in text
    assert "mux predict runs/trial/tune/model FILE --companions fixed" in text and "--copies K`, K = 1 .. 5" in text
    assert 'AutoModelForSequenceClassification.from_pretrained("runs/trial/tune/model")' in text
    assert 'mux.model.pipeline("text-classification", "runs/trial/tune/model")`, which sends 160 texts' in text
    assert "Results" not in text and "Training texts" not in text and "ONNX" not in text


def test_the_python_in_it_is_python():
    for config in (MuxConfig(num_instances=2), MuxConfig(num_instances=1), DistilBertConfig()):
        text = card(config)
        compile(text.split("```python\n")[1].split("```")[0], "card", "exec")


def test_one_text_a_pass_has_no_companions():
    for config in (MuxConfig(num_instances=1), DistilBertConfig()):
        text = card(config)
        assert "companions" not in text and "What N means" not in text and "data-multiplexing" not in text
    assert "import mux.model" not in text  # of a DistilBERT
    assert "A distilbert encoder, 6 layers of width 768." in text


def test_pretrained_models_predict_nothing():
    text = card(MuxConfig(num_instances=2, family="electra"), "AutoModelForPreTraining")
    assert "mux predict" not in text and "pipeline" not in text and "What N means" in text
    assert metadata(card(MuxConfig(num_instances=2), "AutoModelForMaskedLM"))["pipeline_tag"] == "fill-mask"


def test_results_become_tables():
    lines = card(MuxConfig(num_instances=5), results=RESULTS, task="topic").splitlines()
    assert "| pretrain | 900 | 2.5000 | 0.4000 |  |" in lines
    assert "| tune | topic | 1 | accuracy | 0.7500 | 0.0125 | 0.8000 | 0.7000 | 2 | 0.5000 |" in lines
    assert "| tune | topic | 1 | f1 | 0.5000 | 0.2500 | 0.6250 | 0.3750 |  |  |" in lines
    assert "| copies | topic | 2 | accuracy | 0.7500 | 0.0125 | 0.8000 | 0.7000 | 2 | 0.5000 |" in lines
    assert "| bert TINY, N = 5 | 5 | 12,346 | 4.5000 | 9.2500 |" in lines
    assert not any("mood" in line for line in lines)
    assert any("mood" in line for line in card(MuxConfig(), results=RESULTS).splitlines())


def test_sources_and_their_licences():
    text = card(MuxConfig(), sources=("hub:wikimedia/wikipedia/20231101.en", "builtin:wiki_leads", "path:a.txt"))
    assert metadata(text)["datasets"] == ["wikimedia/wikipedia"]
    assert "- `path:a.txt`" in text and "CC BY-SA 4.0" in text
    assert "CC BY-SA" not in card(MuxConfig(), sources=("path:a.txt",))


def test_a_folder_without_a_tokenizer_says_whose_it_needs():
    card = model_card(MuxConfig(num_instances=2), name="m", made_by="hand", folder="there",
                      auto_class="AutoModelForSequenceClassification", tokenizer=False)
    assert 'AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")' in card
    assert "has no tokenizer" in card and "mux.model.pipeline(" not in card
