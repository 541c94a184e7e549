"""The published models, imported and loaded by the Auto classes, reproduce every recorded tensor and gradient."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from mux.hub.princeton import import_folder
from mux.hub.published_keys import PublishedKeys
from mux.model import MuxForSequenceClassification

ROOT = Path(__file__).parents[3]
GOLDENS = ROOT.parent / "shared" / "goldens"
ENSEMBLE = "ensemble_bert_seqcls_n2"
HUB_STYLE = "hub_style_muxbert_mlm_n2"
CASES = sorted(path.name for path in GOLDENS.iterdir() if path.name != ENSEMBLE)
RETRIEVING = [name for name in CASES if "out.retrieval_labels" in load_file(GOLDENS / name / "io.safetensors")]
EXACT = {"atol": 2e-5, "rtol": 0.0}

AUTO_CLASSES: dict[str, Any] = {
    "MaskedLM": AutoModelForMaskedLM,
    "PreTraining": AutoModelForPreTraining,
    "SequenceClassification": AutoModelForSequenceClassification,
    "TokenClassification": AutoModelForTokenClassification,
}
OURS = {  # recorded: ours, where the names differ
    "mlm_logits_masked_rows": "logits",
    "disc_logits": "logits",
    "disc_loss": "task_loss",
    "demux_output": "demultiplexed",
}
DRAWS = {"retrieval_instance_labels", "sampled_input_ids", "corruption_applied"}  # fed, not compared
OTHERWISE = {  # compared by another of our outputs, or not computed here
    "retrieval_labels",  # retrieval_targets are the ones that are asked for
    "retrieval_logits_first4pos",
    "mlm_effective_labels",  # mlm_logits_masked_rows are in their order
}


def test_all_of_them_are_here():
    assert len(CASES) + GOLDENS.joinpath(ENSEMBLE).is_dir() >= 12
    assert len(RETRIEVING) >= 7


class Golden:
    """A recorded case: the published folder, its model here, what was fed and what came out."""

    def __init__(self, name: str, place: Path) -> None:
        folder = GOLDENS / name
        source = published_folder(name, place / "published")
        self.config = json.loads((source / "config.json").read_text())
        self.case = json.loads((folder / "case.json").read_text()) if (folder / "case.json").exists() else {}
        import_folder(source, place / "imported")
        head = self.config["architectures"][0].split("For")[1]
        # The default attention does not return its weights, which some cases record.
        attention = {"attn_implementation": "eager"} if self.config["output_attentions"] else {}
        self.model = AUTO_CLASSES[head].from_pretrained(place / "imported", **attention).eval()
        tensors = load_file(folder / "io.safetensors")
        self.fed = {name.removeprefix("in."): tensor for name, tensor in tensors.items() if name.startswith("in.")}
        self.out = {name.removeprefix("out."): tensor for name, tensor in tensors.items() if name.startswith("out.")}

    @property
    def inputs(self) -> dict[str, Any]:
        """What was fed, with the random draws that were recorded."""
        inputs: dict[str, Any] = dict(self.fed)
        if "sampled_input_ids" in self.out:
            inputs |= {"input_ids": self.out["sampled_input_ids"], "labels": self.out["corruption_applied"].long()}
        if "retrieval_instance_labels" in self.out:
            inputs["retrieval_slots"] = self.slots
        rows, prefix = len(inputs["input_ids"]), self.model.config.prefix_length
        if len(self.out.get("embedded_input_ids", ())) > rows:
            inputs["filler_rows"] = self.out["embedded_input_ids"][rows:, prefix:]
        if self.config["output_attentions"]:  # the published masked language models return them
            inputs |= {"output_hidden_states": True, "output_attentions": True}
        return inputs

    @property
    def slots(self) -> Tensor:
        """[B, L] whose token was retrieved where; -1 where the published code asks for none."""
        return self.out["retrieval_instance_labels"].masked_fill(self.out["retrieval_labels"] == -100, -1)


def published_folder(name: str, place: Path) -> Path:
    """A folder as the hub has it: config.json that names the class, and weights."""
    place.mkdir(parents=True)
    if name == HUB_STYLE:
        for file in ("config.json", "pytorch_model.bin"):
            shutil.copy(GOLDENS / name / file, place)
        return place
    case = json.loads((GOLDENS / name / "case.json").read_text())
    weights = GOLDENS / name / "model.safetensors"
    if "state_from" in case:
        weights = GOLDENS / case["state_from"]
        case = json.loads((weights.parent / "case.json").read_text()) | {"config": case["config"]}
    architecture = case["model_class"].split()[0]
    (place / "config.json").write_text(json.dumps(case["config"] | {"architectures": [architecture]}))
    shutil.copy(weights, place)
    return place


@pytest.fixture(params=CASES)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    return Golden(request.param, tmp_path)


def seen_inside(model: nn.Module) -> dict[str, Tensor]:
    """What the parts of the model will see in the next forward, by the names under which it is recorded."""
    seen: dict[str, Tensor] = {}

    def embeddings(module: nn.Module, arguments: tuple, named: dict[str, Any], output: Tensor) -> None:
        if named.get("input_ids") is not None:
            seen["embedded_input_ids"] = named["input_ids"]
        seen["encoder_input"] = output  # of the last call, which embeds the mux

    def multiplexer(module: nn.Module, arguments: tuple, output: Tensor) -> None:
        seen["embedded_input_ids"] = arguments[1].flatten(0, 1)
        seen["mux_output"] = output

    def backbone(module: nn.Module, arguments: tuple, output: Any) -> None:
        seen["backbone_output"] = output.last_hidden_state

    def discriminator(module: nn.Module, arguments: tuple[Tensor]) -> None:
        seen["demux_output"] = arguments[0]  # classifiers hand it out themselves

    model.mux.backbone.embeddings.register_forward_hook(embeddings, with_kwargs=True)
    model.mux.backbone.register_forward_hook(backbone)
    if model.config.multiplexed:
        model.mux.multiplexer.register_forward_hook(multiplexer)
    if hasattr(model, "discriminator"):
        model.discriminator.register_forward_pre_hook(discriminator)
    return seen


def as_handed_out(recorded: Tensor, shape: torch.Size, prefix: int) -> Tensor:
    """Demultiplexed states, recorded of fillers and prefixes too: of a token classifier without them, of a sequence
    classifier at the one position that it reads, behind the markers (numerics section 1.4)."""
    return recorded[: shape[0], prefix:] if len(shape) == 3 else recorded[: shape[0], max(prefix - 1, 0)]


@pytest.mark.parametrize("asked", [{}, {"output_hidden_states": True}], ids=["answers", "states"])
def test_every_recorded_tensor(golden: Golden, asked: dict[str, bool]):
    """Whether a sequence classifier computes its last layer for the one position it reads, or states are asked for."""
    seen = seen_inside(golden.model)
    with torch.no_grad():
        out = golden.model(**golden.inputs | asked)
    compared, absent = 0, set() if "backbone_output" in seen else {"backbone_output"}
    assert not absent or (not asked and isinstance(golden.model, MuxForSequenceClassification))
    for name in golden.out.keys() - DRAWS - OTHERWISE - absent:
        part, _, index = name.partition(".")
        ours = seen[part] if part in seen else out[OURS.get(part, part)]
        ours, recorded = ours[int(index)] if index else ours, golden.out[name]
        if part == "demux_output":
            recorded = as_handed_out(recorded, ours.shape, golden.model.config.prefix_length)
        torch.testing.assert_close(ours, recorded, **EXACT, msg=lambda text, name=name: f"{name}: {text}")
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("golden", RETRIEVING, indirect=True)
def test_retrieval(golden: Golden):
    with torch.no_grad():
        out = golden.model(**golden.inputs)
    asked = golden.out["retrieval_labels"] != -100
    assert out.retrieval_targets.tolist() == golden.out["retrieval_labels"][asked].tolist()
    early = asked.clone()
    early[:, 4:] = False
    torch.testing.assert_close(out.retrieval_logits[early[asked]],
                               golden.out["retrieval_logits_first4pos"][asked[:, :4]], **EXACT)


def gradients_as_published(model: Any) -> dict[str, Tensor | None]:
    """Of every parameter, by its published name; the halves of a published matrix put together again."""
    keys = PublishedKeys(model.config, plain=not model.config.multiplexed)
    parts: dict[str, dict[int | None, Tensor | None]] = defaultdict(dict)
    for name, parameter in model.named_parameters():
        published, half = keys.published(name)
        parts[published][half] = parameter.grad
    return {name: None if None in found.values() else torch.cat([found[half] for half in sorted(found)], dim=-1)
            if len(found) > 1 else next(iter(found.values())) for name, found in parts.items()}


@pytest.mark.parametrize("golden", [name for name in CASES if name != HUB_STYLE], indirect=True)
def test_every_gradient(golden: Golden):
    golden.model(**golden.inputs).loss.backward()
    ours = gradients_as_published(golden.model)
    keys = PublishedKeys(golden.model.config, plain=not golden.model.config.multiplexed)
    compared = 0
    for name, recorded in golden.case["grad_norm_and_sum"].items():
        gradient = ours.get(keys.original(name))
        if recorded is None:
            assert gradient is None, name
            continue
        # The published code runs its retrieval head at weight 0 too: zeros there, nothing here.
        norm, total = (0.0, 0.0) if gradient is None else (gradient.norm().item(), gradient.sum().item())
        assert norm == pytest.approx(recorded[0], rel=2e-5, abs=2e-5), name
        # A sum of numbers that cancel is as exact as the numbers are.
        assert total == pytest.approx(recorded[1], rel=2e-5, abs=2e-5 * max(1.0, recorded[0])), name
        compared += recorded[0] > 0
    assert compared >= 40


def test_ensemble(tmp_path: Path):
    """Copies of each row, permuted together, put back and averaged (numerics section 4)."""
    golden = Golden(ENSEMBLE, tmp_path)
    N, out = golden.model.config.num_instances, golden.out

    @torch.no_grad()
    def logits(order: Tensor) -> Tensor:
        return golden.model(**{name: rows[order] for name, rows in golden.fed.items()}).logits

    each = torch.arange(len(out["logits_plain"]))
    copies = each.repeat_interleave(N)
    torch.testing.assert_close(logits(each), out["logits_plain"], **EXACT)
    torch.testing.assert_close(logits(copies).unflatten(0, (-1, N)).mean(1),
                               out["logits_same_instance_no_permutation"], **EXACT)
    permuted = logits(copies[out["permutation"]])
    torch.testing.assert_close(permuted, out["logits_permuted"], **EXACT)
    restored = torch.empty_like(permuted)
    restored[out["permutation"]] = permuted
    torch.testing.assert_close(restored.unflatten(0, (-1, N)).mean(1), out["logits_ensembled"], **EXACT)
