"""Muxology: the published numbers, means that are correct under masking, and any model through the same stage."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, BertConfig, DistilBertConfig, ElectraConfig, RobertaConfig

from mux.data.corpus import open_corpus
from mux.data.grouping import compose
from mux.hub.princeton import import_folder
from mux.model import MuxConfig, MuxForPreTraining, MuxForSequenceClassification
from mux.recipe import MuxologyStage
from mux.stages.muxology import LayerMeans, look_into, reader_of, size_of

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared"
RECORDED = ("bert_mlm_gh_rsa_n2_stage1", "bert_mlm_gh_rsa_n2_stage2")
SHAPE = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 64, "max_position_embeddings": 40}
PLAIN = {
    "bert": BertConfig(**SHAPE), "electra": ElectraConfig(embedding_size=16, **SHAPE), "roberta": RobertaConfig(
        **SHAPE | {"max_position_embeddings": 42, "pad_token_id": 0}),
    "distilbert": DistilBertConfig(vocab_size=300, dim=32, hidden_dim=64, n_layers=3, n_heads=4,
                                   max_position_embeddings=40),
}


@pytest.mark.parametrize("name", RECORDED)
def test_the_published_numbers(name, tmp_path):
    """Of the authors' code: every position counts, and padding is attended."""
    case = json.loads((SHARED / "goldens" / name / "case.json").read_text())
    published = tmp_path / "published"
    published.mkdir()
    (published / "config.json").write_text(json.dumps(case["config"] | {"architectures": ["MuxedBertForMaskedLM"]}))
    (published / "model.safetensors").symlink_to(SHARED / "goldens" / name / "model.safetensors")
    import_folder(published, tmp_path / "imported")
    reader = reader_of(tmp_path / "imported", name)
    reader.model.eval()
    means = LayerMeans()
    with torch.inference_mode():
        means.add(reader.read(load_file(SHARED / "goldens" / name / "io.safetensors")["in.input_ids"], pad_id=0))
    layers = means.layers()
    assert [layer["layer"] for layer in layers] == [1, 2]
    assert [layer["mean_abs"] for layer in layers] == pytest.approx(case["muxology_mean_abs_hidden"], abs=1e-5)
    assert [layer["attention_entropy"] for layer in layers] == pytest.approx(
        case["muxology_attention_entropy"], abs=1e-5)


# --- one position at a time ---------------------------------------------------------------------------------
@pytest.fixture
def mux_folder(tmp_path, small_tokenizer):
    """mux_folder(**fields of MuxConfig): a folder with such a model, every weight off its initial value."""
    def mux_folder(kind=MuxForPreTraining, tokenizer=True, **fields) -> Path:
        torch.manual_seed(0)
        model = kind(MuxConfig(**SHAPE | {"num_instances": 2} | fields))
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        folder = tmp_path / "-".join(map(str, ["mux", *fields.values()]))
        model.save_pretrained(folder)
        if tokenizer:
            small_tokenizer.save_pretrained(folder)
        return folder
    return mux_folder


def ragged(rows: int, length: int) -> torch.Tensor:
    """Rows of all lengths from 3 on; [PAD] is 0."""
    torch.manual_seed(1)
    ids = torch.randint(5, 300, (rows, length))
    for row in range(rows):
        ids[row, 3 + 5 * row % (length - 3):] = 0
    return ids


def one_by_one(model, ids: torch.Tensor, N: int, prefix: int, everything: bool) -> list[tuple[float, float]]:
    """The same by plain loops over groups, positions, heads and keys."""
    sums, positions = [[0.0, 0.0] for _ in range(SHAPE["num_hidden_layers"])], 0
    for group in ids.split(N):
        out = model(input_ids=group, output_hidden_states=True, output_attentions=True)
        for position in range(out.attentions[0].shape[-1]):
            real = position < prefix or group[:, position - prefix].ne(0).any()
            if not (real or everything):
                continue
            positions += 1
            for layer, (hidden, attention) in enumerate(zip(out.hidden_states[1:], out.attentions, strict=True)):
                sums[layer][0] += sum(abs(value) for value in hidden[0, position].tolist()) / hidden.shape[-1]
                for head in range(attention.shape[1]):
                    shares = attention[0, head, position].tolist()
                    assert sum(shares) == pytest.approx(1, abs=1e-5)
                    keys = [key for key, share in enumerate(shares) if share > 0]
                    assert everything or all(
                        key < prefix or group[:, key - prefix].ne(0).any() for key in keys)  # none on padding
                    entropy = -sum(share * math.log(share) for share in shares if share > 0)
                    sums[layer][1] += entropy / attention.shape[1]
    return [(absolute / positions, entropy / positions) for absolute, entropy in sums]


@pytest.mark.parametrize(("fields", "prefix", "everything"), [
    ({}, 0, False), ({"num_instances": 1}, 0, False), ({"num_instances": 3, "multiplexer": "contextual"}, 0, False),
    ({"demultiplexer": "prefix"}, 2, False), ({"family": "electra", "embedding_size": 16}, 0, False),
    ({"mask_padding": False}, 0, True),
], ids=str)
@torch.inference_mode()
def test_positions_weigh_the_same_and_padding_nothing(mux_folder, fields, prefix, everything):
    reader = reader_of(mux_folder(**fields), "it")
    reader.model.eval()
    ids = ragged(12, 24)
    expected = one_by_one(reader.model, ids, reader.N, prefix, everything)
    for batches in ((12,), (6, 6)):  # of different shares of padding: a mean of their means would be another
        means = LayerMeans()
        for batch in ids.split(batches[0]):
            means.add(reader.read(batch, pad_id=0))
        found = [(layer["mean_abs"], layer["attention_entropy"]) for layer in means.layers()]
        assert torch.allclose(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=1e-6)
        assert means.positions == (12 // reader.N * 24 if everything else
                                   sum(int(group.ne(0).any(0).sum()) + prefix for group in ids.split(reader.N)))


@torch.inference_mode()
def test_longer_padding_changes_nothing(mux_folder):
    reader = reader_of(mux_folder(), "it")
    reader.model.eval()
    ids, found = ragged(4, 16), []
    for more in (0, 9):
        means = LayerMeans()
        means.add(reader.read(torch.nn.functional.pad(ids, (0, more)), pad_id=0))
        found.append([list(layer.values()) for layer in means.layers()])
    assert torch.allclose(*map(torch.tensor, found), atol=1e-5)


@torch.inference_mode()
def test_under_the_published_numerics_rows_are_read_as_in_pretraining(mux_folder):
    """There a published ELECTRA has [CLS] (101) at the head of each row, whatever it was; its task heads have not."""
    reader = reader_of(mux_folder(family="electra", embedding_size=16, compat="princeton"), "it")
    reader.model.eval()
    ids = ragged(4, 16)
    headed = ids.clone()
    headed[:, 0] = 101
    assert not ids[:, 0].eq(101).any()
    for one, other in zip(reader.read(ids, 0).hidden_states, reader.read(headed, 0).hidden_states, strict=True):
        assert torch.equal(one, other)


# --- the stage ----------------------------------------------------------------------------------------------
@pytest.fixture
def texts(tmp_path) -> Path:
    """Paragraphs of WikiText's validation split, as documents."""
    lines = (SHARED / "data/wikitext/wiki.valid.tokens").read_text().splitlines()
    path = tmp_path / "wikitext.txt"
    path.write_text("\n\n".join(line.strip() for line in lines[:150] if line.strip()))
    return path


@pytest.fixture
def looking(context, texts):
    """looking(source, **stage): the result's entry of a model."""
    def looking(source: str, **values) -> dict:
        made = context()
        made.ranks = SimpleNamespace(**vars(made.ranks) | {"device": torch.device("cpu")})
        made.progress = lambda what, done, total, unit="": None
        stage = {"kind": "muxology", "id": "muxology", "corpus": f"path:{texts}", "sequence_length": 32, "batch": 7}
        asked = MuxologyStage.model_validate(stage | values)
        return look_into(made, asked, asked.sequence_length, source)
    return looking


def test_every_row_of_the_corpus_is_read_in_random_groups(looking, mux_folder, texts, small_tokenizer, tmp_path):
    folder = mux_folder(num_instances=4)
    found = looking(f"path:{folder}")
    assert (found["source"], found["name"], found["N"], found["family"]) == (
        f"path:{folder}", "bert 3x32, N = 4", 4, "bert")
    corpus = open_corpus([f"path:{texts}"], 32, small_tokenizer, tmp_path / "cache", True, lambda *_: None)
    assert found["rows"] == corpus.rows > 100 and corpus.rows % 4
    assert found["tokens"] == int((corpus.tokens != 0).sum())
    reader = reader_of(folder, "it")
    reader.model.eval()
    means = LayerMeans()
    for group in compose(corpus.rows, 4, seed=0).groups:
        with torch.inference_mode():
            means.add(reader.read(torch.from_numpy(corpus.take(group)), 0))
    for one, other in zip(found["layers"], means.layers(), strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    few = looking(f"path:{folder}", groups=4)
    assert few["rows"] == 16 and few["layers"] != found["layers"]


@pytest.mark.parametrize("name", PLAIN)
def test_encoders_of_transformers(looking, tmp_path, small_tokenizer, name):
    AutoModelForMaskedLM.from_config(PLAIN[name]).save_pretrained(tmp_path / name)
    small_tokenizer.save_pretrained(tmp_path / name)
    found = looking(f"path:{tmp_path / name}")
    assert (found["name"], found["N"], len(found["layers"])) == (f"{name} 3x32, N = 1", 1, 3)
    assert all(0 < layer["attention_entropy"] < math.log(32) and layer["mean_abs"] > 0 for layer in found["layers"])


def test_a_plain_mux_model_is_the_encoder_inside(looking, mux_folder, tmp_path, small_tokenizer):
    folder = mux_folder(num_instances=1)
    reader = reader_of(folder, "it")
    plain = tmp_path / "plain"
    reader.model.backbone.save_pretrained(plain)
    small_tokenizer.save_pretrained(plain)
    assert looking(f"path:{folder}")["layers"] == looking(f"path:{plain}")["layers"]


def test_a_fine_tuned_model_and_one_without_a_tokenizer(looking, mux_folder):
    """Published checkpoints come without one: the recipe's is theirs."""
    assert looking(f"path:{mux_folder(MuxForSequenceClassification, tokenizer=False)}")["N"] == 2


@pytest.mark.parametrize(("fields", "stage", "message"), [
    ({"demultiplexer": "prefix"}, {"sequence_length": 40}, r"reads at most 38 tokens .* write sequence_length = 38"),
    ({"tokenizer": False, "vocab_size": 400}, {}, r"embeds 400 tokens, the recipe's tokenizer has 300"),
    ({"vocab_size": 200}, {}, r"embeds 200 tokens, its tokenizer has 300"),
])
def test_what_does_not_fit_is_refused(looking, mux_folder, fields, stage, message):
    with pytest.raises(ValueError, match=message):
        looking(f"path:{mux_folder(**fields)}", **stage)


def test_what_is_no_encoder_is_refused(looking, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text(json.dumps({"model_type": "bert"} | SHAPE))
    with pytest.raises(ValueError, match=r"broken: the encoder cannot be looked into: .*no file named"):
        looking(f"path:{tmp_path}/broken")


def test_sizes_are_called_as_in_table_7():
    assert [size_of(MuxConfig.from_size(size)) for size in ("TINY", "SMALL", "BASE", "LARGE")] == [
        "TINY", "SMALL", "BASE", "LARGE"]
