"""Imported checkpoints: every key accounted for, nothing run, nothing half-written, and models that go on learning."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    ElectraConfig,
    ElectraForPreTraining,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    PreTrainedTokenizerFast,
)

from mux.hub.princeton import ImportReport, import_folder
from mux.model import MuxForPreTraining, MuxForSequenceClassification
from tests.mux.model.published_cases import CASES, ELECTRA_SEQ, MLM, PREFIX, RTD, SEQ, TOK, Case

HUB_STYLE = Path(__file__).parents[3].parent / "shared" / "goldens" / "hub_style_muxbert_mlm_n2"
ONE_OF_A_KIND = list({
    (case.kind, *(case.config.get(name) for name in ("muxing_variant", "demuxing_variant", "num_hidden_demux_layers"))):
    name for name, case in CASES.items()}.values())
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A masked language model as the hub has it: config.json and pytorch_model.bin of transformers 4.4.2."""
    place = tmp_path / "published"
    place.mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        shutil.copy(HUB_STYLE / name, place)
    return place


def weights_of(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


def change_weights(folder: Path, change: Change) -> None:
    weights = weights_of(folder)
    change(weights)
    torch.save(weights, folder / "pytorch_model.bin")


def change_config(folder: Path, change: Change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def refusal(source: Path, **options: Any) -> str:
    """What import says; it must leave nothing behind."""
    destination = source.parent / "imported"
    before = sorted(source.parent.iterdir())
    with pytest.raises(ValueError) as caught:
        import_folder(source, destination, **options)
    assert sorted(source.parent.iterdir()) == before
    return str(caught.value)


def same(one: Path, other: Path) -> bool:
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


# --- what an import does ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_every_key_is_accounted_for_once(name: str, tmp_path: Path):
    report = import_folder(CASES[name].write(tmp_path / "published", binary=True), tmp_path / "imported")
    known = [*report.used, *report.copies, *report.unused]
    assert sorted(known) == sorted(CASES[name].state())
    assert set(report.unused) <= {f"{family}.embeddings.position_ids" for family in ("bert", "electra")} | {
        f"demux_module.{part}_{layer}.{kind}" for part in ("dense", "layer_norm") for layer in (3, 4)
        for kind in ("weight", "bias")}


def test_the_folder(published: Path, tmp_path: Path):
    report = import_folder(published, tmp_path / "imported")
    assert sorted(path.name for path in (tmp_path / "imported").iterdir()) == [
        "README.md", "config.json", "model.safetensors"]
    stored = load_file(tmp_path / "imported" / "model.safetensors")
    assert "head.decoder.weight" not in stored  # it is the word embeddings
    assert len(stored) == len(report.used) + 1  # demux_module.dense_1.weight in two halves
    model, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "imported", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert model.head.decoder.weight is model.get_input_embeddings().weight
    assert (model.config.compat, model.config.num_instances, model.config.demultiplexer_layers) == ("princeton", 2, 3)
    assert model.config.deterministic_fillers
    assert not model.config.output_hidden_states
    assert "N = 2" in (tmp_path / "imported" / "README.md").read_text()


def test_the_report(published: Path, tmp_path: Path):
    report = import_folder(published, tmp_path / "imported")
    text = str(report)
    for words in ("MuxForPreTraining", "N = 2, gaussian multiplexer, rsa demultiplexer", "compat = princeton",
                  "56 weights, 27 copies of them, 5 that nothing reads", "bert.embeddings.position_ids", "--tokenizer"):
        assert words in text
    assert isinstance(report, ImportReport) and len(text.splitlines()) == 4


def test_labels_are_kept(tmp_path: Path):
    source = Case(SEQ).write(tmp_path / "published")
    change_config(source, lambda config: config.update(
        id2label={"0": "no", "1": "perhaps", "2": "yes"}, label2id={"no": 0, "perhaps": 1, "yes": 2},
        problem_type="single_label_classification"))
    import_folder(source, tmp_path / "imported")
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "imported").config
    assert config.id2label == {0: "no", 1: "perhaps", 2: "yes"} and config.num_labels == 3
    assert config.problem_type == "single_label_classification"


def test_old_configs_mean_two_demultiplexer_layers(tmp_path: Path):
    source = Case(MLM, {"num_hidden_demux_layers": 2}).write(tmp_path / "published")
    change_config(source, lambda config: config.pop("num_hidden_demux_layers"))
    assert import_folder(source, tmp_path / "imported").config.demultiplexer_layers == 2


@pytest.mark.parametrize("keep", ["demux_module.", "demultiplexer.demux_module.", "retrieval_head.demux_module."])
def test_a_file_without_copies(keep: str, published: Path, tmp_path: Path):
    """safetensors keep one of the names of a tensor, whichever."""
    import_folder(published, tmp_path / "whole")
    weights = {name: tensor.clone() for name, tensor in weights_of(published).items()
               if ("demux_module." not in name or name.startswith(keep)) and name != "retrieval_head.decoder.weight"}
    (published / "pytorch_model.bin").unlink()
    save_file(weights, published / "model.safetensors")
    report = import_folder(published, tmp_path / "imported")
    assert same(tmp_path / "whole", tmp_path / "imported")
    assert len(report.used) == 56 and not report.copies


@pytest.mark.parametrize("inside", [True, False])
def test_what_the_electra_trainer_saves(inside: bool, tmp_path: Path):
    """A wrapper with the model in it, and the model itself in the folder discriminator/."""
    case = Case(RTD)
    import_folder(case.write(tmp_path / "plain", binary=True), tmp_path / "whole")
    source = tmp_path / "published"
    if inside:
        report = import_folder(case.write(source / "discriminator", binary=True).parent, tmp_path / "imported")
        assert report.folder == source / "discriminator"
    else:
        case.write(source, binary=True)
        torch.save({f"discriminator.{name}": tensor for name, tensor in case.state().items()},
                   source / "pytorch_model.bin")
        import_folder(source, tmp_path / "imported")
    assert same(tmp_path / "whole", tmp_path / "imported")


@pytest.mark.parametrize("name", [name for name in ONE_OF_A_KIND if CASES[name].kind not in (SEQ, TOK)])
def test_the_class_is_told_from_the_keys(name: str, tmp_path: Path):
    source = CASES[name].write(tmp_path / "published")
    named = import_folder(source, tmp_path / "named").head
    change_config(source, lambda config: config.update(architectures=None))
    assert import_folder(source, tmp_path / "imported").head == named


# --- baselines ----------------------------------------------------------------------------------------------------
SHAPE = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64, "max_position_embeddings": 40}


@pytest.mark.parametrize("kind, config, auto", [
    (BertForMaskedLM, BertConfig(**SHAPE), AutoModelForMaskedLM),
    (BertForSequenceClassification, BertConfig(**SHAPE, num_labels=3), AutoModelForSequenceClassification),
    (BertForTokenClassification, BertConfig(**SHAPE, num_labels=5), AutoModelForTokenClassification),
    (ElectraForPreTraining, ElectraConfig(**SHAPE, embedding_size=16), AutoModelForPreTraining),
    (ElectraForSequenceClassification, ElectraConfig(**SHAPE, embedding_size=32, num_labels=3),
     AutoModelForSequenceClassification),
    (ElectraForTokenClassification, ElectraConfig(**SHAPE, embedding_size=16, num_labels=5),
     AutoModelForTokenClassification),
])
def test_baselines_are_transformers_own(kind: Any, config: Any, auto: Any, tmp_path: Path):
    torch.manual_seed(0)
    theirs = kind(config).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path / "published")
    report = import_folder(tmp_path / "published", tmp_path / "imported")
    assert not report.config.multiplexed and report.config.compat is None
    ours = auto.from_pretrained(tmp_path / "imported").eval()
    ids = torch.randint(5, 120, (3, 12))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    fed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": (torch.arange(12) > 5).long().expand(3, 12)}
    with torch.no_grad():
        torch.testing.assert_close(ours(**fed).logits, theirs(**fed).logits, atol=1e-6, rtol=0)


# --- what is refused ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", [Case(SEQ), Case(RTD), Case(TOK, PREFIX), Case("BertForMaskedLM")],
                         ids=lambda case: case.kind)
def test_a_missing_key(case: Case, tmp_path: Path):
    """Each one, under each of its names."""
    source = case.write(tmp_path / "published", binary=True)
    whole, report = weights_of(source), import_folder(source, tmp_path / "first")
    biases = {f"{head}.{name}" for head in ("retrieval_head", "cls.predictions") for name in ("bias", "decoder.bias")}
    twice = biases & whole.keys() if len(biases & whole.keys()) == 2 else set()  # only some versions write both
    tried = [name for name in [*report.used, *report.copies] if name not in twice]
    assert len(tried) > 40
    for name in tried:
        torch.save({other: tensor for other, tensor in whole.items() if other != name}, source / "pytorch_model.bin")
        assert f"{source / 'pytorch_model.bin'}: {name} is missing" == refusal(source)


def test_an_unknown_key(published: Path):
    for name in ("bert.encoder.layer.2.output.dense.bias", "demux_module.dense_4.weight", "extra", "classifier.bias"):
        change_weights(published, lambda weights, name=name: weights.update({name: torch.zeros(3)}))
        assert name in refusal(published)
        change_weights(published, lambda weights, name=name: weights.pop(name))


def test_other_shapes(published: Path):
    whole = (published / "config.json").read_text()
    for field, value, key in (("vocab_size", 201, "bert.embeddings.word_embeddings.weight is [200, 32]; "
                                                  "by config.json it must be [201, 32]"),
                              ("num_instances", 5, "is [2, 32]; by config.json it must be [5, 32]"),
                              ("num_hidden_layers", 3, "bert.encoder.layer.2"),
                              ("num_hidden_layers", 1, "bert.encoder.layer.1"),
                              ("intermediate_size", 128, "bert.encoder.layer.0.intermediate.dense.weight is [64, 32]"),
                              ("num_hidden_demux_layers", 5, "demux_module.dense_4.weight is missing"),
                              ("num_hidden_demux_layers", 2, "demux_module.dense_3")):
        change_config(published, lambda config, field=field, value=value: config.update({field: value}))
        text = refusal(published)
        assert key in text and str(published / "pytorch_model.bin") in text
        (published / "config.json").write_text(whole)


def test_a_copy_that_differs(published: Path):
    name = "demultiplexer.demux_module.dense_2.bias"
    change_weights(published, lambda weights: weights.update({name: weights[name] + 1}))
    text = refusal(published)
    assert name in text and "copy" in text


class Payload:
    """Unpickled without care, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_payload(zipped: bool, published: Path, tmp_path: Path):
    trace = published / "trace"
    path = published / "pytorch_model.bin"
    weights = weights_of(published) | {"payload": Payload(trace)}
    if zipped:
        torch.save(weights, path)
    else:
        path.write_bytes(pickle.dumps({"payload": Payload(trace)}, protocol=2))
    assert f"{path} is refused" in refusal(published)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"not a checkpoint at all"])
def test_damaged_weights(content: bytes, published: Path):
    (published / "pytorch_model.bin").write_bytes(content)
    assert str(published / "pytorch_model.bin") in refusal(published)
    (published / "model.safetensors").write_bytes(content)
    assert f"{published / 'model.safetensors'} is damaged" in refusal(published)


def test_no_state_dict(published: Path):
    torch.save([torch.zeros(2)], published / "pytorch_model.bin")
    assert "is not a state dict" in refusal(published)
    torch.save({"step": 3}, published / "pytorch_model.bin")
    assert "is not a state dict" in refusal(published)


def test_missing_files(published: Path, tmp_path: Path):
    (published / "pytorch_model.bin").unlink()
    assert "model.safetensors or pytorch_model.bin" in refusal(published)
    (published / "config.json").unlink()
    assert "it has no config.json" in refusal(published)
    assert "no such folder" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("change, words", [
    ({"model_type": "roberta"}, 'model_type is "roberta"; it must be bert or electra'),
    ({"muxing_variant": "fourier"}, 'muxing_variant is "fourier"; there are gaussian_hadamard'),
    ({"demuxing_variant": "mlp"}, 'demuxing_variant is "mlp"'),
    ({"num_instances": None}, "num_instances is missing"),
    ({"num_instances": "two"}, "config.json"),
    ({"hidden_size": "wide"}, "hidden_size"),
    ({"hidden_size": 33}, "33"),
    ({"num_hidden_demux_layers": 1}, "demultiplexer_layers = 1"),
    ({"hidden_act": "banana"}, "banana"),
    ({"id2label": ["a", "b"]}, "config.json"),
    ({"muxing_variant": ["gaussian_hadamard"]}, "config.json"),
])
def test_other_configs(change: dict, words: str, published: Path):
    change_config(published, lambda config: config.update(change))
    text = refusal(published)
    assert words in text and str(published / "config.json") in text


def test_a_config_without_instances(published: Path):
    change_config(published, lambda config: config.pop("num_instances"))
    assert "num_instances is missing" in refusal(published)
    (published / "config.json").write_text("[1")
    assert "is not JSON" in refusal(published)


@pytest.mark.parametrize("kind", [SEQ, TOK])
def test_a_class_that_the_keys_do_not_tell(kind: str, tmp_path: Path):
    """Sequences or tokens: both Auto classes load what is written, every weight of it."""
    source = Case(kind).write(tmp_path / "published")
    import_folder(source, tmp_path / "named")
    change_config(source, lambda config: config.pop("architectures"))
    import_folder(source, tmp_path / "imported")
    auto = AutoModelForSequenceClassification if kind == SEQ else AutoModelForTokenClassification
    loaded = [auto.from_pretrained(tmp_path / name, output_loading_info=True) for name in ("named", "imported")]
    assert not any(info["missing_keys"] or info["unexpected_keys"] for _, info in loaded)
    ids = torch.arange(5, 17).reshape(2, 6)
    torch.testing.assert_close(*(model.eval()(ids).logits for model, _ in loaded), atol=0, rtol=0)
    change_config(source, lambda config: config.update(architectures=f"Muxed{kind.removeprefix('Muxed')}"))
    assert import_folder(source, tmp_path / "text").head == auto.__name__.replace("AutoModel", "Mux")


def test_a_destination_that_is_there(published: Path, tmp_path: Path):
    (tmp_path / "imported").mkdir()
    (tmp_path / "imported" / "kept").touch()
    assert "exists already" in refusal(published)
    (tmp_path / "imported" / "kept").unlink()
    import_folder(published, tmp_path / "imported")  # an empty folder is no obstacle


# --- tokenizers ---------------------------------------------------------------------------------------------------
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"w{number}" for number in range(185))]


@pytest.mark.parametrize("beside", [True, False])
def test_a_tokenizer(beside: bool, published: Path, tmp_path: Path):
    place = published if beside else tmp_path / "words"
    place.mkdir(exist_ok=True)
    (place / "vocab.txt").write_text("\n".join(WORDS))
    report = import_folder(published, tmp_path / "imported", tokenizer=None if beside else place)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "imported")
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert tokenizer("a j").input_ids == [2, 5, 14, 3]
    assert "--tokenizer" not in str(report)


def test_tokenizers_that_do_not_fit(published: Path, tmp_path: Path):
    (tmp_path / "words").mkdir()
    assert "has no tokenizer" in refusal(published, tokenizer=tmp_path / "words")
    for words in ([*WORDS, "more"], WORDS[:7]):
        (tmp_path / "words" / "vocab.txt").write_text("\n".join(words))
        told = refusal(published, tokenizer=tmp_path / "words")
        assert f"the tokenizer has {len(words)} tokens, the model 200" in told


@pytest.mark.parametrize("change", [
    lambda tensor: tensor.to_sparse(), lambda tensor: tensor.to(torch.complex64), lambda tensor: tensor.to("meta"),
    lambda tensor: tensor.int()], ids=["sparse", "complex", "meta", "whole numbers"])
def test_tensors_that_are_no_weights(change: Any, published: Path):
    state = torch.load(published / "pytorch_model.bin", weights_only=True)
    state["bert.encoder.layer.0.output.dense.weight"] = change(state["bert.encoder.layer.0.output.dense.weight"])
    torch.save(state, published / "pytorch_model.bin")
    assert "bert.encoder.layer.0.output.dense.weight" in refusal(published)


def test_a_destination_that_can_be_no_folder(published: Path, tmp_path: Path):
    (tmp_path / "imported").symlink_to(tmp_path / "elsewhere")
    assert "it is a link" in refusal(published)


def test_what_is_written_may_be_read_by_whoever_may_read_the_folder(published: Path, tmp_path: Path):
    import_folder(published, tmp_path / "imported")
    assert len({path.stat().st_mode for path in (tmp_path / "imported").iterdir()}) == 1


# --- going on -----------------------------------------------------------------------------------------------------
def losses(model: Any, batch: dict[str, Any], steps: int = 20) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    found = []
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def test_an_imported_language_model_becomes_a_classifier(published: Path, tmp_path: Path):
    """Numerics section 2: everything but the task head is carried over."""
    import_folder(published, tmp_path / "imported")
    torch.manual_seed(0)
    model, info = MuxForSequenceClassification.from_pretrained(tmp_path / "imported", num_labels=3,
                                                               output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"} and not info["unexpected_keys"]
    keys = model.mux.multiplexer.keys.clone()
    found = losses(model.train(), Case(SEQ).inputs() | {"retrieval_slots": None})
    assert sum(found[-5:]) / 5 < 0.85 * found[0]
    assert torch.equal(model.mux.multiplexer.keys, keys)  # frozen, as published


@pytest.mark.parametrize("case", [Case(MLM), Case(RTD), Case(TOK), Case(ELECTRA_SEQ), Case(SEQ, PREFIX)],
                         ids=lambda case: case.kind)
def test_imported_models_learn(case: Case, tmp_path: Path):
    import_folder(case.write(tmp_path / "published"), tmp_path / "imported")
    auto = {"MaskedLM": MuxForPreTraining, "PreTraining": MuxForPreTraining,
            "SequenceClassification": AutoModelForSequenceClassification,
            "TokenClassification": AutoModelForTokenClassification}[case.kind.split("For")[1]]
    torch.manual_seed(0)
    found = losses(auto.from_pretrained(tmp_path / "imported").train(), case.inputs())
    assert sum(found[-5:]) / 5 < 0.85 * found[0]
