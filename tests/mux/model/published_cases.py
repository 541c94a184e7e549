"""Random published checkpoints and inputs of the kinds that the shared goldens leave out.

A case is made as the goldens were (numerics section 7): width 32, 2 layers, official initialisation plus noise on
everything, rows with [CLS], [SEP] and padding. Its folder is what the hub would hold.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

D, LAYERS, FFN, POSITIONS, L = 32, 2, 64, 64, 16
SPECIAL = 104  # the first id that is an ordinary token here
LABELS = {"SequenceClassification": 3, "TokenClassification": 5}


@dataclass(frozen=True)
class Case:
    """One checkpoint and batch: the class, what differs from N = 2 gaussian RSA with 3 layers, and the rows."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)  # official config fields
    groups: int = 2
    missing: int = 0  # rows of the last group that are not there
    labels: int | None = None
    full_first: bool = True  # the first row of each group has no padding
    seed: int = 1234

    @property
    def config(self) -> dict[str, Any]:
        task = next((task for task in LABELS if self.kind.endswith(task)), None)
        count = self.labels or LABELS.get(task or "", 2)
        electra = "Electra" in self.kind
        config = {
            "architectures": [self.kind], "model_type": "electra" if electra else "bert",
            "vocab_size": 690 if self.fields.get("demuxing_variant") == "index" else 200, "hidden_size": D,
            "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": FFN, "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "max_position_embeddings": POSITIONS,
            "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0,
            "position_embedding_type": "absolute", "transformers_version": "4.4.2",
            "id2label": {str(label): f"LABEL_{label}" for label in range(count)},
            "label2id": {f"LABEL_{label}": label for label in range(count)},
        }
        if electra:
            config["embedding_size"] = D
        if self.kind.startswith("Muxed"):
            config |= {
                "num_instances": 2, "muxing_variant": "gaussian_hadamard", "demuxing_variant": "index_pos",
                "retrieval_percentage": 1.0, "gaussian_hadamard_norm": 1.0, "binary_hadamard_epsilon": 0.0,
                "retrieval_loss_coeff": 0.0, "task_loss_coeff": 1.0, "learn_muxing": 0, "num_hidden_demux_layers": 3,
            }
        return config | self.fields

    def state(self) -> dict[str, Tensor]:
        return State(self).tensors

    def write(self, folder: Path, binary: bool = False) -> Path:
        """As published: config.json beside pytorch_model.bin, or beside safetensors with copies of shared tensors."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        if binary:
            torch.save(self.state(), folder / "pytorch_model.bin")
        else:
            copies = {name: tensor.clone().contiguous() for name, tensor in self.state().items()}
            save_file(copies, folder / "model.safetensors", {"format": "pt"})
        return folder

    def inputs(self) -> dict[str, Tensor]:
        """input_ids, attention_mask, token_type_ids, labels, retrieval_slots; filler_rows for a group not full."""
        config, generator = self.config, torch.Generator().manual_seed(self.seed + 1)
        N = config.get("num_instances", 1)
        rows = self.groups * N - self.missing

        def draw(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, shape, generator=generator)

        lengths = draw(5, L + 1, rows)
        if self.full_first:
            lengths[::N] = L
        places = torch.arange(L)
        mask = (places < lengths[:, None]).long()
        ids = draw(SPECIAL, config["vocab_size"], rows, L)
        ids[::2, 0] = 101  # the rest is [CLS] only where the published class makes it so
        ids[places == lengths[:, None] - 1] = 102
        ids = ids * mask
        out = {"input_ids": ids, "attention_mask": mask, "labels": self.label(ids, mask, draw)}
        pretraining = self.kind.endswith(("MaskedLM", "PreTraining"))
        front = N + 1 if config.get("demuxing_variant") == "index" else 0
        if not (pretraining and front):  # published pre-training data has one segment
            out["token_type_ids"] = (places >= lengths[:, None] // 2).long() * mask
        if "num_instances" in config:
            out["retrieval_slots"] = draw(0, N, self.groups, L if pretraining else front + L)
            out["retrieval_slots"][:, :front] = -1  # prefixes are no tokens to retrieve
        if self.missing:
            out["filler_rows"] = draw(0, rows, self.missing)
        return out

    def label(self, ids: Tensor, mask: Tensor, draw: Any) -> Tensor:
        """-100 or a token (masked LM) or a class (token head), a class or a score (sequence head), 0 or 1 (RTD)."""
        count = len(self.config["id2label"])
        asked = (draw(0, 100, *ids.shape) < 40) & (mask == 1)
        if self.kind.endswith("MaskedLM"):
            asked[:, 1] = True
            return torch.where(asked, draw(SPECIAL, 200, *ids.shape), -100)
        if self.kind.endswith("PreTraining"):
            return asked.long()
        if self.kind.endswith("TokenClassification"):
            asked[:, 1] = True
            return torch.where(asked, draw(0, count, *ids.shape), -100)
        return draw(0, 500, len(ids)) / 100 if count == 1 else draw(0, count, len(ids))


class State:
    """The tensors of a case under all their official names (numerics section 2)."""

    def __init__(self, case: Case) -> None:
        self.config, self.kind = case.config, case.kind
        self.generator = torch.Generator().manual_seed(case.seed)
        self.tensors: dict[str, Tensor] = {}
        self.electra = "Electra" in self.kind
        self.width = self.config.get("embedding_size", D)
        self.backbone("electra" if self.electra else "bert")
        if self.kind.startswith("Muxed"):
            self.multiplexer()
            self.demultiplexer()
        elif self.kind.endswith("MaskedLM"):
            self.plain_vocabulary()
        elif self.kind.endswith("SequenceClassification"):
            self.dense("bert.pooler.dense", D, D)
        self.head()

    def noise(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=self.generator) * scale

    def dense(self, name: str, out: int, into: int) -> None:
        self.tensors[f"{name}.weight"] = self.noise(out, into, scale=math.hypot(0.02, 0.15))
        self.tensors[f"{name}.bias"] = self.noise(out, scale=0.1)

    def norm(self, name: str, width: int) -> None:
        self.tensors[f"{name}.weight"] = 1 + self.noise(width, scale=0.1)
        self.tensors[f"{name}.bias"] = self.noise(width, scale=0.1)

    def layer(self, name: str) -> None:
        for part in ("query", "key", "value"):
            self.dense(f"{name}.attention.self.{part}", D, D)
        self.dense(f"{name}.attention.output.dense", D, D)
        self.norm(f"{name}.attention.output.LayerNorm", D)
        self.dense(f"{name}.intermediate.dense", FFN, D)
        self.dense(f"{name}.output.dense", D, FFN)
        self.norm(f"{name}.output.LayerNorm", D)

    def backbone(self, name: str) -> None:
        rows = {"word": self.config["vocab_size"], "position": POSITIONS, "token_type": 2}
        for part, count in rows.items():
            weight = self.noise(count, self.width, scale=math.hypot(0.02, 0.4))
            self.tensors[f"{name}.embeddings.{part}_embeddings.weight"] = weight
        self.tensors[f"{name}.embeddings.position_ids"] = torch.arange(POSITIONS)[None]
        self.norm(f"{name}.embeddings.LayerNorm", self.width)
        if self.width != D:
            self.dense(f"{name}.embeddings_project", D, self.width)
        for index in range(self.config["num_hidden_layers"]):
            self.layer(f"{name}.encoder.layer.{index}")

    def multiplexer(self) -> None:
        variant, N = self.config["muxing_variant"], self.config["num_instances"]
        keys = self.noise(N, self.width)
        keys = keys / keys.norm(dim=1, keepdim=True) * self.config["gaussian_hadamard_norm"]
        block = D // N
        if variant == "binary_hadamard":
            keys = torch.stack([(torch.arange(D) // block == i).float() for i in range(N)])
        elif variant == "random_ortho":
            keys = torch.linalg.qr(self.noise(N, D, D))[0]
        elif variant == "random_ortho_low_rank":
            U, H = torch.linalg.qr(self.noise(2, D, D))[0]
            keys = torch.stack([U @ (H * (torch.arange(D) // block == i)).T for i in range(N)])
        self.tensors["instance_embedding"] = keys
        if variant.startswith("gaussian_attention"):
            self.layer("muxing_attention")
        if variant == "gaussian_attention_v2":
            self.layer("muxing_attention_2")
        elif variant == "gaussian_attention":
            self.dense("cross_instances_linear", D, D)
            self.norm("cross_instances_layernorm", D)

    def demultiplexer(self) -> None:
        """Both users of the shared module, each with its own last layer, and the vocabulary's decoder."""
        prefix = self.config["demuxing_variant"] == "index"
        if not prefix:
            self.tensors["demux_module.demux_instance_embedding"] = self.noise(self.config["num_instances"], D)
            for n in range(1, self.config["num_hidden_demux_layers"] + 1):
                self.dense(f"demux_module.dense_{n}", D, 2 * D if n == 1 else D)
                self.norm(f"demux_module.layer_norm_{n}", D)
        shared = {name: tensor for name, tensor in self.tensors.items() if name.startswith("demux_module.")}
        for user in ("demultiplexer", "retrieval_head"):
            self.tensors |= {f"{user}.{name}": tensor for name, tensor in shared.items()}
            self.dense(f"{user}.dense" if prefix else f"{user}.pre_decoder", D, 2 * D if prefix else D)
            self.norm(f"{user}.layer_norm" if prefix else f"{user}.pre_decoder_layer_norm", D)
        self.dense("retrieval_head.decoder", self.config["vocab_size"], D)
        if not self.electra:
            words = self.tensors["bert.embeddings.word_embeddings.weight"]
            self.tensors["retrieval_head.decoder.weight"] = words
        if self.electra or prefix:
            self.tensors["retrieval_head.bias"] = self.tensors["retrieval_head.decoder.bias"]

    def plain_vocabulary(self) -> None:
        self.dense("cls.predictions.transform.dense", D, D)
        self.norm("cls.predictions.transform.LayerNorm", D)
        self.dense("cls.predictions.decoder", self.config["vocab_size"], D)
        self.tensors["cls.predictions.decoder.weight"] = self.tensors["bert.embeddings.word_embeddings.weight"]
        self.tensors["cls.predictions.bias"] = self.tensors["cls.predictions.decoder.bias"]

    def head(self) -> None:
        count = len(self.config["id2label"])
        if self.kind.endswith("PreTraining"):
            self.dense("discriminator_predictions.dense", D, D)
            self.dense("discriminator_predictions.dense_prediction", 1, D)
        elif self.electra and self.kind.endswith("SequenceClassification"):
            self.dense("classifier.dense", D, D)
            self.dense("classifier.out_proj", count, D)
        elif self.kind.endswith("Classification"):
            self.dense("classifier", count, D)


MLM, RTD = "MuxedBertForMaskedLM", "MuxedElectraForPreTraining"
SEQ, TOK = "MuxedBertForSequenceClassification", "MuxedBertForTokenClassification"
ELECTRA_SEQ, ELECTRA_TOK = "MuxedElectraForSequenceClassification", "MuxedElectraForTokenClassification"
N1, N3, N5 = ({"num_instances": N} for N in (1, 3, 5))
PREFIX, CONTEXTUAL = {"demuxing_variant": "index"}, {"muxing_variant": "gaussian_attention_v2"}
V1, ORTHO = {"muxing_variant": "gaussian_attention"}, {"muxing_variant": "random_ortho"}
LOW_RANK = {"muxing_variant": "random_ortho_low_rank"}
BINARY = {"muxing_variant": "binary_hadamard"}
NARROW, BOTH = {"embedding_size": 16}, {"task_loss_coeff": 0.5, "retrieval_loss_coeff": 1.0}
STAGE1 = {"task_loss_coeff": 0.0, "retrieval_loss_coeff": 1.0}
TWO, FOUR = {"num_hidden_demux_layers": 2}, {"num_hidden_demux_layers": 4}

CASES = {
    "seq_n1": Case(SEQ, N1, groups=4), "seq_n5": Case(SEQ, N5), "seq_retrieval": Case(SEQ, N3 | BOTH),
    "seq_half": Case(SEQ, {"task_loss_coeff": 0.5}), "seq_deep": Case(SEQ, {"num_hidden_layers": 4}),
    "seq_two": Case(SEQ, TWO), "seq_four": Case(SEQ, FOUR),
    "seq_regression": Case(SEQ, labels=1), "seq_leftover": Case(SEQ, N5, missing=3),
    "seq_leftover_retrieval": Case(SEQ, N5 | BOTH, missing=3), "seq_norm": Case(SEQ, {"gaussian_hadamard_norm": 3.0}),
    "seq_learned": Case(SEQ, {"learn_muxing": 1}),
    "tok_n1": Case(TOK, N1, groups=4), "tok_n5": Case(TOK, N5), "tok_two": Case(TOK, TWO),
    "tok_retrieval": Case(TOK, N5 | BOTH), "tok_leftover": Case(TOK, N5, missing=2),
    "mlm_n1": Case(MLM, N1, groups=4), "mlm_n5": Case(MLM, N5), "mlm_two": Case(MLM, TWO), "mlm_four": Case(MLM, FOUR),
    "mlm_retrieval": Case(MLM, N5 | BOTH), "mlm_stage1": Case(MLM, N5 | STAGE1),
    "ctx_seq_n3": Case(SEQ, N3 | CONTEXTUAL), "ctx_seq_n5": Case(SEQ, N5 | CONTEXTUAL),
    "ctx_seq_n1": Case(SEQ, N1 | CONTEXTUAL), "ctx_seq_leftover": Case(SEQ, N3 | CONTEXTUAL, missing=1),
    "ctx_tok_n3": Case(TOK, N3 | CONTEXTUAL), "ctx_tok_n5": Case(TOK, N5 | CONTEXTUAL, full_first=False),
    "ctx_mlm_n3": Case(MLM, N3 | CONTEXTUAL), "ctx_mlm_n5": Case(MLM, N5 | CONTEXTUAL | BOTH, full_first=False),
    "prefix_mlm": Case(MLM, PREFIX), "prefix_mlm_retrieval": Case(MLM, PREFIX | N5 | BOTH),
    "prefix_seq_n5": Case(SEQ, PREFIX | N5), "prefix_seq_n1": Case(SEQ, PREFIX | N1),
    "prefix_seq_retrieval": Case(SEQ, PREFIX | N3 | BOTH), "prefix_seq_leftover": Case(SEQ, PREFIX | N5, missing=2),
    "prefix_tok": Case(TOK, PREFIX), "prefix_tok_n5": Case(TOK, PREFIX | N5 | BOTH),
    "electra_seq_n5": Case(ELECTRA_SEQ, N5), "electra_seq_retrieval": Case(ELECTRA_SEQ, N3 | BOTH),
    "electra_tok": Case(ELECTRA_TOK), "electra_tok_retrieval": Case(ELECTRA_TOK, N3 | BOTH),
    "electra_prefix_seq": Case(ELECTRA_SEQ, PREFIX), "electra_prefix_tok": Case(ELECTRA_TOK, PREFIX | N3),
    "electra_regression": Case(ELECTRA_SEQ, labels=1), "electra_prefix_rtd": Case(RTD, PREFIX | BOTH),
    "narrow_seq": Case(ELECTRA_SEQ, NARROW), "narrow_tok": Case(ELECTRA_TOK, NARROW | N3),
    "narrow_rtd": Case(RTD, NARROW | BOTH | TWO), "narrow_prefix_seq": Case(ELECTRA_SEQ, NARROW | PREFIX),
    "rtd_n1": Case(RTD, N1), "rtd_n5": Case(RTD, N5 | TWO), "rtd_retrieval": Case(RTD, BOTH | TWO),
    "rtd_stage1": Case(RTD, STAGE1), "rtd_four_retrieval": Case(RTD, BOTH | FOUR),
    "rtd_v1": Case(RTD, V1), "rtd_v1_n5": Case(RTD, V1 | N5 | BOTH),
    "ortho_seq": Case(SEQ, ORTHO | N3), "ortho_mlm": Case(MLM, ORTHO), "low_rank_seq": Case(SEQ, LOW_RANK | N3),
    "low_rank_tok": Case(TOK, LOW_RANK), "binary_seq": Case(SEQ, BINARY | N3), "binary_rtd": Case(RTD, BINARY),
    "plain_seq": Case("BertForSequenceClassification", groups=4), "plain_mlm": Case("BertForMaskedLM", groups=4),
    "plain_tok": Case("BertForTokenClassification", groups=4),
}
