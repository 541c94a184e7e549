"""Published checkpoints of the kinds without a golden: imported, loaded by the Auto classes, against the reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from mux.hub.princeton import import_folder
from tests.mux.model.published import Published
from tests.mux.model.published_cases import CASES, CONTEXTUAL, MLM, N3, N5, PREFIX, RTD, SEQ, TOK, TWO, Case
from tests.mux.model.test_published import golden

TOLERANCE: dict[str, Any] = {"atol": 2e-5, "rtol": 0.0}
LOSS: dict[str, Any] = {"atol": 2e-5, "rtol": 1e-6}  # the ELECTRA loss is 50 times its parts
AUTO_CLASSES = {
    "MaskedLM": AutoModelForMaskedLM, "PreTraining": AutoModelForPreTraining,
    "SequenceClassification": AutoModelForSequenceClassification,
    "TokenClassification": AutoModelForTokenClassification,
}
GRADIENTS = {  # official name: ours
    "{}.embeddings.word_embeddings.weight": "mux.backbone.embeddings.word_embeddings.weight",
    "{}.embeddings.position_embeddings.weight": "mux.backbone.embeddings.position_embeddings.weight",
    "{}.encoder.layer.1.attention.self.query.weight": "mux.backbone.encoder.layer.1.attention.self.query.weight",
    "instance_embedding": "mux.multiplexer.keys", "demux_module.demux_instance_embedding": "mux.demultiplexer.keys",
    "muxing_attention.output.dense.weight": "mux.multiplexer.instance_layer.output.dense.weight",
    "muxing_attention_2.output.dense.weight": "mux.multiplexer.slot_layer.output.dense.weight",
    "retrieval_head.decoder.bias": "head.decoder.bias",
    "discriminator_predictions.dense_prediction.weight": "discriminator.dense_prediction.weight",
    "classifier.weight": "classifier.weight", "classifier.out_proj.weight": "classifier.out_proj.weight",
}
FED = ("input_ids", "attention_mask", "token_type_ids")
SHARED = {  # the golden of the same kind
    "bert_mlm_gh_rsa_n2_stage2": Case(MLM, TWO), "bert_seqcls_gh_rsa_n2": Case(SEQ), "bert_tokcls_gh_rsa_n2": Case(TOK),
    "bert_seqcls_ctx_rsa_n2": Case(SEQ, CONTEXTUAL), "bert_seqcls_gh_prefix_n2": Case(SEQ, PREFIX),
    "bert_seqcls_gh_rsa_n5_leftover": Case(SEQ, N5), "electra_rtd_gh_rsa_n2": Case(RTD, TWO),
    "electra_seqcls_gh_rsa_n2": Case("MuxedElectraForSequenceClassification"),
    "baseline_bert_seqcls": Case("BertForSequenceClassification"),
}


@dataclass
class Pair:
    """The reference and the imported model of a case, with its inputs."""

    case: Case
    reference: Published
    leaves: dict[str, Tensor]  # the reference's tensors; names of one shared tensor have one leaf
    model: Any

    @property
    def front(self) -> int:
        return self.reference.N + 1 if self.reference.prefix else 0

    def expected(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """The reference has no filling: its caller does it."""
        inputs = dict(inputs)
        fillers, rows = inputs.pop("filler_rows", None), len(inputs["input_ids"])
        if fillers is not None:
            inputs |= {name: torch.cat([inputs[name], inputs[name][fillers]]) for name in FED if name in inputs}
        return self.reference(**inputs, rows=rows)


def pair(case: Case, folder: Path, binary: bool = False) -> Pair:
    import_folder(case.write(folder / "published", binary), folder / "imported")
    task = next(task for task in AUTO_CLASSES if case.kind.endswith(task))
    model = AUTO_CLASSES[task].from_pretrained(folder / "imported").eval()
    one: dict[int, Tensor] = {}
    leaves = {name: one.setdefault(tensor.data_ptr(), tensor.clone()) for name, tensor in case.state().items()}
    for name, leaf in leaves.items():
        frozen = name == "instance_embedding" and not case.config["learn_muxing"]
        leaf.requires_grad_(leaf.is_floating_point() and not frozen)
    return Pair(case, Published(leaves, case.config, case.kind), leaves, model)


def logits(outputs: dict[str, Any]) -> Tensor:
    return next(outputs[name] for name in ("logits", "mlm_logits_masked_rows", "disc_logits") if name in outputs)


def norm(tensors: Any) -> float:
    return sum(tensor.grad.double().square().sum().item() for tensor in tensors if tensor.grad is not None) ** 0.5


def compare(found: Any, expected: dict[str, Any], both: Pair) -> None:
    """Everything the two have in common."""
    theirs, ours = logits(expected), found.logits
    if both.case.kind == "BertForMaskedLM":  # ours: labelled rows only
        theirs = theirs[both.case.inputs()["labels"] != -100]
    if "disc_logits" in expected and both.front:  # ours stand at the tokens' own places; the cut ones mean nothing
        theirs, ours = theirs[:, both.front:], ours[:, :-both.front]
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    for name in ("loss", "task_loss", "retrieval_loss"):
        if name in expected:
            torch.testing.assert_close(found[name], expected[name], **LOSS)
    if "retrieval_logits" in expected:
        asked = expected["retrieval_labels"] != -100
        torch.testing.assert_close(found.retrieval_targets, expected["retrieval_labels"][asked])
        torch.testing.assert_close(found.retrieval_logits, expected["retrieval_logits"][asked], **TOLERANCE)
    for mine, other in zip(found.hidden_states, expected["hidden_states"], strict=True):
        torch.testing.assert_close(mine, other, **TOLERANCE)
    if "demux_output" in expected and both.case.kind.endswith("Classification"):
        states = expected["demux_output"][: len(found.logits)]
        first = both.case.kind.endswith("SequenceClassification")
        states = states[:, max(both.front - 1, 0)] if first else states[:, both.front:]
        torch.testing.assert_close(found.demultiplexed, states, **TOLERANCE)


@pytest.mark.parametrize("name", SHARED)
def test_cases_have_the_goldens_tensors(name: str) -> None:
    """All official names and shapes, so that an importer is tried on what it will meet."""
    state = golden(name)[1]
    made = SHARED[name].state()
    assert {key: tensor.shape for key, tensor in made.items()} == {key: tensor.shape for key, tensor in state.items()}


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients(name: str, tmp_path: Path) -> None:
    both = pair(CASES[name], tmp_path)
    inputs = both.case.inputs()
    fed = inputs["input_ids"].clone()
    expected, found = both.expected(inputs), both.model(**inputs, output_hidden_states=True)
    assert torch.equal(inputs["input_ids"], fed)  # the published code writes into the caller's tensor
    with torch.no_grad():
        compare(found, expected, both)
    expected["loss"].backward()
    found.loss.backward()
    parameters = dict(both.model.named_parameters())
    unique = {id(leaf): leaf for leaf in both.leaves.values()}.values()
    assert norm(parameters.values()) == pytest.approx(norm(unique), rel=1e-5)
    compared = 0
    for official, own in GRADIENTS.items():
        official = official.format(both.reference.encoder)
        if official in both.leaves and own in parameters:
            assert norm([parameters[own]]) == pytest.approx(norm([both.leaves[official]]), rel=2e-5, abs=2e-5), official
            compared += 1
    assert compared >= 3


def defined_without_labels(case: Case) -> bool:
    """The published pre-training code with prefixes crashes there, or returns logits of cut rows."""
    return not (case.config.get("demuxing_variant") == "index" and case.kind in (MLM, RTD))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if defined_without_labels(case)])
@torch.no_grad()
def test_without_labels(name: str, tmp_path: Path) -> None:
    both = pair(CASES[name], tmp_path)
    inputs = both.case.inputs()
    inputs = {key: inputs[key] for key in (*FED, "filler_rows") if key in inputs}
    expected = logits(both.expected(inputs))
    if both.case.kind.endswith("TokenClassification"):
        expected = expected[:, both.front:]  # published logits keep the prefix if there are no labels
    torch.testing.assert_close(both.model(**inputs).logits, expected, **TOLERANCE)


@pytest.mark.parametrize("name", ["seq_retrieval", "mlm_retrieval", "electra_seq_retrieval", "rtd_four_retrieval"])
@torch.no_grad()
def test_pytorch_model_bin(name: str, tmp_path: Path) -> None:
    """With the shared storages that transformers 4.4.2 writes."""
    both = pair(CASES[name], tmp_path, binary=True)
    inputs = both.case.inputs()
    compare(both.model(**inputs, output_hidden_states=True), both.expected(inputs), both)


@pytest.mark.parametrize("name", ["seq_retrieval", "tok_retrieval", "prefix_tok_n5", "electra_seq_retrieval"])
@torch.no_grad()
def test_dropped_retrieval_targets(name: str, tmp_path: Path) -> None:
    """A retrieval_percentage below 1 leaves targets out at random: the recorded ones are fed as slots of -1."""
    both = pair(CASES[name], tmp_path)
    inputs = both.case.inputs()
    drawn = torch.rand(inputs["retrieval_slots"].shape, generator=torch.Generator().manual_seed(5)) < 0.5
    every = both.expected(inputs)["retrieval_labels"]
    inputs["retrieval_slots"] = inputs["retrieval_slots"].masked_fill(drawn, -1)
    expected = both.expected(inputs)
    assert 0 < (expected["retrieval_labels"] != -100).sum() < (every != -100).sum()
    compare(both.model(**inputs, output_hidden_states=True), expected, both)


@torch.no_grad()
def test_fillers_with_masks_of_other_rows(tmp_path: Path) -> None:
    """The published code draws ids and masks of fillers apart (numerics 1.8): feed such a draw as rows of the batch."""
    both = pair(Case(SEQ, N3 | CONTEXTUAL), tmp_path)
    inputs = both.case.inputs()
    ids_from, masks_from = [*range(5), 1], [*range(5), 4]
    fed = {"input_ids": inputs["input_ids"][ids_from], "attention_mask": inputs["attention_mask"][masks_from]}
    assert not torch.equal(fed["attention_mask"], inputs["attention_mask"][ids_from])
    expected = both.reference(**fed, labels=inputs["labels"][:5], rows=5)
    labels = torch.cat([inputs["labels"][:5], torch.tensor([-100])])
    found = both.model(**fed, labels=labels)
    torch.testing.assert_close(found.logits[:5], expected["logits"], **TOLERANCE)
    torch.testing.assert_close(found.loss, expected["loss"], **LOSS)


@pytest.mark.parametrize("fields", [N3, N3 | PREFIX, N3 | CONTEXTUAL], ids=["gaussian", "prefix", "contextual"])
@torch.no_grad()
def test_ensemble(fields: dict, tmp_path: Path) -> None:
    """Copies repeated, permuted, forwarded, put back and averaged (numerics section 4)."""
    both = pair(Case(SEQ, fields), tmp_path)
    fed = {name: both.case.inputs()[name].repeat_interleave(3, dim=0) for name in ("input_ids", "attention_mask")}
    permutation = torch.randperm(18, generator=torch.Generator().manual_seed(6))
    means = []
    for forward in (lambda **rows: both.model(**rows).logits, lambda **rows: both.reference(**rows)["logits"]):
        permuted = forward(**{name: tensor[permutation] for name, tensor in fed.items()})
        means.append(permuted[permutation.argsort()].unflatten(0, (6, 3)).mean(1))
    torch.testing.assert_close(*means, **TOLERANCE)


@torch.no_grad()
def test_a_position_padded_in_every_instance(tmp_path: Path) -> None:
    """Where the contextual multiplexer's scores are all shifted by -10000, fp32 keeps three digits (numerics 7)."""
    both = pair(Case(SEQ, N3 | CONTEXTUAL, full_first=False), tmp_path)
    inputs = {name: both.case.inputs()[name] for name in ("input_ids", "attention_mask")}
    assert not inputs["attention_mask"].unflatten(0, (-1, 3)).any(1).all()
    expected = both.expected(inputs)["logits"]
    torch.testing.assert_close(both.model(**inputs).logits, expected, atol=2e-3, rtol=0)
