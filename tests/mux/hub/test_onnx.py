"""ONNX files compute what the models do, for any number of groups and any length, padding included."""

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, DistilBertConfig
from transformers import DistilBertForSequenceClassification as DistilBert

from mux.hub.export import export, find_model
from mux.hub.onnx import Logits, OnnxFailure, check, export_onnx
from mux.model import MuxForPreTraining, MuxForSequenceClassification, MuxForTokenClassification

TINY = DistilBertConfig(vocab_size=60, dim=32, n_layers=1, n_heads=2, hidden_dim=64, max_position_embeddings=64)
CASES = [
    (MuxForSequenceClassification, {"num_instances": 2, "num_labels": 3}),
    (MuxForSequenceClassification, {"num_instances": 1, "num_labels": 3}),
    (MuxForTokenClassification, {"num_instances": 2, "multiplexer": "contextual", "demultiplexer": "prefix"}),
    (MuxForPreTraining, {"num_instances": 3, "family": "electra", "embedding_size": 16}),
]


@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_the_file_takes_any_groups_and_lengths(model_folder, tmp_path, kind, fields):
    model = kind.from_pretrained(model_folder(kind, num_hidden_layers=1, **fields)).eval()
    path = tmp_path / "model.onnx"
    export_onnx(model, path)
    session, N = onnxruntime.InferenceSession(path), fields["num_instances"]
    for groups, length in ((1, 5), (4, 9), (7, 31), (2, 62)):
        ids = torch.randint(5, 40, (groups * N, length))
        mask = (torch.arange(length) < torch.randint(1, length + 1, (groups * N, 1))).long()
        batch = {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        with torch.no_grad():
            expected = model(**batch).logits.numpy()
        found = session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})[0]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_any_encoder_of_transformers(tmp_path):
    """DistilBERT takes no segment ids."""
    export_onnx(DistilBert(TINY).eval(), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask"]


def test_a_file_that_computes_something_else_is_refused(model_folder, tmp_path):
    folder = model_folder(MuxForSequenceClassification, num_instances=2, num_labels=3, num_hidden_layers=1)
    model = MuxForSequenceClassification.from_pretrained(folder).eval()
    path = tmp_path / "model.onnx"
    export_onnx(model, path)
    with torch.no_grad():
        model.classifier.bias += 1e-3
    with pytest.raises(OnnxFailure, match="does not compute what the model does"):
        check(Logits(model), path, 2)


def test_what_the_exporter_cannot_translate_leaves_no_file(model_folder, tmp_path):
    """A model whose result depends on the values of its input in Python."""
    class Counting(DistilBert):
        def forward(self, input_ids, attention_mask=None):
            return super().forward(input_ids[:, : int(attention_mask.sum(1).max())])

    with pytest.raises(OnnxFailure, match="cannot be exported to ONNX"):
        export_onnx(Counting(TINY), tmp_path / "model.onnx")
    assert not list(tmp_path.glob("*.onnx*"))


def test_export_writes_it_beside_the_weights(model_folder, tmp_path):
    folder = model_folder(MuxForTokenClassification, num_instances=2, num_hidden_layers=1)
    names = export(find_model(str(folder)), tmp_path / "out", onnx=True)
    assert "model.onnx" in names
    rows = ["w1 w2a", "w3"]
    batch = AutoTokenizer.from_pretrained(tmp_path / "out")(rows, padding=True, return_tensors="pt")
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out").eval()
    found = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx").run(
        ["logits"], {name: tensor.numpy() for name, tensor in batch.items()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, model(**batch).logits.numpy(), atol=1e-4)
    assert "## ONNX" in (tmp_path / "out" / "README.md").read_text()


def test_int8_is_a_second_file_of_about_the_same_logits(model_folder, tmp_path):
    folder = model_folder(MuxForSequenceClassification, num_instances=2, hidden_size=64, intermediate_size=512)
    with pytest.raises(ValueError, match="--onnx --precision int8"):
        export(find_model(str(folder)), tmp_path / "out", precision="int8")
    with pytest.raises(ValueError, match="not in bf16"):
        export(find_model(str(folder)), tmp_path / "out", onnx=True, precision="bf16")
    assert {"model.onnx", "model.int8.onnx"} <= set(
        export(find_model(str(folder)), tmp_path / "out", onnx=True, precision="int8"))
    whole, small = (tmp_path / "out" / name for name in ("model.onnx", "model.int8.onnx"))
    assert small.stat().st_size < 0.7 * whole.stat().st_size
    batch = AutoTokenizer.from_pretrained(tmp_path / "out")(["w1 w2a", "w3"], padding=True, return_tensors="np")
    exact, near = (onnxruntime.InferenceSession(path).run(["logits"], dict(batch))[0] for path in (whole, small))
    assert 0 < np.abs(exact - near).max() < 0.3 * exact.std()
