"""The published models once more: plain loops, from the specification sheet alone (numerics sections 1 and 2).

Nothing here imports the package, so that the two can disagree. A model is a state dict with the official key names, the
official config fields and the official class name; `Published(...)(...)` is its forward in eval mode and returns what
the reference tensors (goldens) record, under their names. Section numbers are those of the sheet.

B groups, N instances of a group, R = B * N rows, L positions (a prefix included), D width, E embedding width,
V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    embedding,
    gelu,
    layer_norm,
    linear,
    mse_loss,
)

CLS, MARKER, FIRST_PREFIX = 101, 680, 678  # hard-coded ids of bert-base-uncased
IGNORED = -100
MASKED = -10_000.0  # what transformers 4.4.2 adds to the score of a padded key
CROSS_EPS = 1e-5  # of cross_instances_layernorm


class Published:
    """One published model: `state` and `config` as its files have them, `kind` the official class name."""

    def __init__(self, state: dict[str, Tensor], config: dict[str, Any], kind: str) -> None:
        self.state, self.config, self.kind = state, config, kind
        self.electra = "Electra" in kind
        self.encoder = "electra" if self.electra else "bert"
        self.plain = not kind.startswith("Muxed")
        self.prefix = config.get("demuxing_variant") == "index"
        self.N = 1 if self.plain else config["num_instances"]
        self.demux_layers = config.get("num_hidden_demux_layers", 2)
        self.task = next(task for task in ("MaskedLM", "PreTraining", "SequenceClassification", "TokenClassification")
                         if kind.endswith(task))
        self.pretraining = self.task in ("MaskedLM", "PreTraining")

    # -- the forward, section 1.1 --

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None,
                 labels: Tensor | None = None, retrieval_slots: Tensor | None = None,
                 retrieval_labels: Tensor | None = None, rows: int | None = None) -> dict[str, Any]:
        """`input_ids` [R, L] with the fillers of leftover slots in their places, `rows`: how many are no fillers.

        `retrieval_slots` [B, L] is the recorded draw of instances, `retrieval_labels` [B, L] the recorded targets.
        """
        if self.plain:
            return self.plain_forward(input_ids, attention_mask, token_type_ids, labels)
        rows, given = len(input_ids) if rows is None else rows, input_ids.shape[1]
        ids = self.prepared(input_ids)
        segments = token_type_ids if self.pretraining else None
        out: dict[str, Any] = {"embedded_input_ids": ids}
        out["mux_output"] = self.multiplex(self.embed(self.word(ids), segments), attention_mask)
        out |= self.encode(self.embed(out["mux_output"]))
        h = out["backbone_output"]
        if self.task != "MaskedLM":
            out["demux_output"] = self.demultiplex(h)
            out |= self.task_outputs(out["demux_output"], rows, given, attention_mask, labels)
        else:
            out |= self.masked_lm(h, labels)
        if retrieval_slots is not None:
            targets = self.retrieval_targets(ids, retrieval_slots) if retrieval_labels is None else retrieval_labels
            out |= self.retrieval(h, retrieval_slots, targets)
        if "task_loss" in out:
            out["loss"] = self.config["task_loss_coeff"] * out["task_loss"]
            if self.config["retrieval_loss_coeff"]:
                out["loss"] = out["loss"] + self.config["retrieval_loss_coeff"] * out["retrieval_loss"]
            if self.task == "PreTraining":
                out["loss"] = self.config.get("disc_loss_weight", 50.0) * out["loss"]
        return out

    def prepared(self, ids: Tensor) -> Tensor:
        """The ids really embedded: [CLS] forced into position 0 (RSA), or a prefix in front (sections 1.1, 1.4)."""
        if not self.prefix:
            ids = ids.clone()
            if not self.electra or self.pretraining:
                ids[:, 0] = CLS
            return ids
        fronts = []
        for row in range(len(ids)):
            front = [MARKER] * self.N + [CLS]
            front[row % self.N] = FIRST_PREFIX - row % self.N
            fronts.append(front)
        prefixed = torch.cat([torch.tensor(fronts), ids], dim=1)
        return prefixed[:, :ids.shape[1]] if self.pretraining else prefixed

    def word(self, ids: Tensor) -> Tensor:
        """Word embeddings; the pad row gets no gradient from here."""
        return embedding(ids, self.state[f"{self.encoder}.embeddings.word_embeddings.weight"], padding_idx=0)

    def embed(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        """Both embedding passes, [.., L, E]: add segment and position embeddings, normalise."""
        name = f"{self.encoder}.embeddings"
        types = self.state[f"{name}.token_type_embeddings.weight"]
        x = x + (types[0] if segments is None else types[segments])
        return self.norm(x + self.state[f"{name}.position_embeddings.weight"][:x.shape[1]], f"{name}.LayerNorm")

    def encode(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
        """The backbone on [B, L, E]: no mask in a multiplexed model, so padding is attended."""
        out: dict[str, Any] = {"encoder_input": x}
        if f"{self.encoder}.embeddings_project.weight" in self.state:
            x = self.dense(x, f"{self.encoder}.embeddings_project")
        hidden, attentions = [x], []
        for layer in range(self.config["num_hidden_layers"]):
            x, attention = self.layer(x, f"{self.encoder}.encoder.layer.{layer}", mask)
            hidden.append(x)
            attentions.append(attention)
        return out | {"backbone_output": x, "hidden_states": hidden, "attentions": attentions}

    # -- parts --

    def dense(self, x: Tensor, name: str) -> Tensor:
        return linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, x: Tensor, name: str, eps: float | None = None) -> Tensor:
        eps = self.config["layer_norm_eps"] if eps is None else eps
        return layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps)

    def layer(self, x: Tensor, name: str, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A post-LN BERT layer on [.., L, D]; mask [.., L], 0 where a key is padded. Returns the attention, too."""
        heads = self.config["num_attention_heads"]

        def split(part: str) -> Tensor:
            y = self.dense(x, f"{name}.attention.self.{part}")
            return y.unflatten(-1, (heads, -1)).transpose(-2, -3)

        query, key, value = map(split, ("query", "key", "value"))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if mask is not None:
            scores = scores + ((1.0 - mask.to(scores.dtype)) * MASKED)[..., None, None, :]
        attention = scores.softmax(-1)
        context = (attention @ value).transpose(-2, -3).flatten(-2)
        x = self.norm(self.dense(context, f"{name}.attention.output.dense") + x, f"{name}.attention.output.LayerNorm")
        y = self.dense(gelu(self.dense(x, f"{name}.intermediate.dense")), f"{name}.output.dense")
        return self.norm(y + x, f"{name}.output.LayerNorm"), attention

    def groups(self, x: Tensor) -> Tensor:
        """[R, ..] -> [B, N, ..]: groups are consecutive rows."""
        return x.unflatten(0, (-1, self.N))

    # -- multiplexers, section 1.2: e [R, L, E] -> [B, L, E] --

    def multiplex(self, e: Tensor, mask: Tensor | None) -> Tensor:
        v = self.state["instance_embedding"]
        variant = self.config["muxing_variant"]
        if variant in ("random_ortho", "random_ortho_low_rank"):
            turned = torch.stack([self.groups(e)[:, i] @ v[i].T for i in range(self.N)])
            return turned.sum(0) / math.sqrt(self.N)
        if variant == "gaussian_attention_v2":
            return self.contextual(e, mask, v)
        keyed = torch.stack([self.groups(e)[:, i] * v[i] for i in range(self.N)])  # [N, B, L, E]
        if variant == "gaussian_attention":
            attended = torch.stack([self.layer(g, "muxing_attention")[0] for g in keyed]).mean(0)
            crossed = gelu(self.dense(keyed.mean(0), "cross_instances_linear"))
            return attended + self.norm(crossed, "cross_instances_layernorm", CROSS_EPS)
        assert variant in ("gaussian_hadamard", "binary_hadamard"), variant
        return keyed.mean(0)

    def contextual(self, e: Tensor, mask: Tensor | None, v: Tensor) -> Tensor:
        """T1 within each instance, T2 across the instances of each position, with their extra outer residuals."""
        a = self.groups(self.layer(e, "muxing_attention", mask)[0] + e)  # [B, N, L, E]
        g = (a * v[:, None, :]).transpose(1, 2)  # [B, L, N, E]
        across = None
        if self.task == "SequenceClassification" and mask is not None:
            across = self.groups(mask).transpose(1, 2)  # [B, L, N]
        return (self.layer(g, "muxing_attention_2", across)[0] + g).mean(2)

    # -- demultiplexers: h [B, L, D] -> [R, L, D], sections 1.3 and 1.4 --

    def with_keys(self, h: Tensor) -> Tensor:
        """[k_i ; h] of every instance, [R, L, 2D]; with prefixes k_i is the backbone's output at position i."""
        pairs = []
        for group in h:
            for i in range(self.N):
                key = group[i] if self.prefix else self.state["demux_module.demux_instance_embedding"][i]
                pairs.append(torch.cat([key.expand_as(group), group], dim=-1))
        return torch.stack(pairs)

    def demultiplex(self, h: Tensor) -> Tensor:
        """Of the classification heads and replaced-token detection."""
        if self.prefix:
            return self.norm(gelu(self.dense(self.with_keys(h), "demultiplexer.dense")), "demultiplexer.layer_norm")
        x = self.with_keys(h[:, :1] if self.task == "SequenceClassification" else h)
        x = gelu(self.dense(x, "demux_module.dense_1"))
        for n in range(2, self.demux_layers):
            x = gelu(self.dense(x, f"demux_module.dense_{n}")) + x
        decoded = gelu(self.dense(x, "demultiplexer.pre_decoder"))
        return self.norm(decoded, "demultiplexer.pre_decoder_layer_norm") + x

    def vocabulary(self, h: Tensor) -> Tensor:
        """Logits [R, L, V] of the masked LM and retrieval head, which demultiplexes by rules of its own."""
        x = self.with_keys(h)
        head = "retrieval_head"
        if self.prefix:
            x = self.norm(gelu(self.dense(x, f"{head}.dense")), f"{head}.layer_norm")
            return self.dense(x, f"{head}.decoder")
        for n in range(1, self.demux_layers + 1) if self.electra else (1, 2):
            y = self.norm(gelu(self.dense(x, f"demux_module.dense_{n}")), f"demux_module.layer_norm_{n}")
            x = y + x if self.electra and n > 1 else y
        y = self.norm(gelu(self.dense(x, f"{head}.pre_decoder")), f"{head}.pre_decoder_layer_norm")
        return self.dense(y + x if self.electra else y, f"{head}.decoder")

    # -- heads and losses, sections 1.5 to 1.7 --

    def task_outputs(self, x: Tensor, rows: int, given: int, mask: Tensor | None, labels: Tensor | None) -> dict:
        """Logits of a classification or detection head, without the fillers' rows, and its loss."""
        front = self.N + 1 if self.prefix else 0
        if self.task == "PreTraining":
            y = gelu(self.dense(x, "discriminator_predictions.dense"))
            return self.detection(self.dense(y, "discriminator_predictions.dense_prediction")[..., 0],
                                  given - front, mask, labels)
        if self.task == "SequenceClassification":
            x = x[:, self.N if self.prefix else 0]
            if self.electra:
                x = gelu(self.dense(x, "classifier.dense"))
            logits = self.dense(x, "classifier.out_proj" if self.electra else "classifier")[:rows]
        else:
            logits = self.dense(x, "classifier")[:rows]
            if labels is not None:
                logits = logits[:, front:]
        out = {"logits": logits}
        if labels is not None:
            out["task_loss"] = classification_loss(logits, labels)
        return out

    def detection(self, logits: Tensor, kept: int, mask: Tensor | None, labels: Tensor | None) -> dict[str, Tensor]:
        """Replaced-token detection. With prefixes the last N + 1 tokens are cut; the rest stands at the row's end."""
        out = {"disc_logits": logits}
        if labels is not None:
            logits, labels = logits[:, -kept:], labels[:, :kept]
            asked = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask[:, :kept] == 1
            out["task_loss"] = binary_cross_entropy_with_logits(logits[asked], labels[asked].to(logits.dtype))
        return out

    def masked_lm(self, h: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """Logits [R, L, V] without labels, those of the labelled tokens [M, V] with."""
        logits = self.vocabulary(h)
        if labels is None:
            return {"logits": logits}
        if self.prefix:
            front = torch.full((len(labels), self.N + 1), IGNORED)
            labels = torch.cat([front, labels], dim=1)[:, :labels.shape[1]]
        asked = labels != IGNORED
        return {"mlm_effective_labels": labels, "mlm_logits_masked_rows": logits[asked],
                "task_loss": cross_entropy(logits[asked], labels[asked])}

    def retrieval_targets(self, ids: Tensor, slots: Tensor) -> Tensor:
        """The ids fed at the drawn instances (-1: none). Fine-tuning leaves out pads and ELECTRA's position 0."""
        targets = torch.stack([ids[b * self.N + slots[b], torch.arange(ids.shape[1])] for b in range(len(slots))])
        targets[slots < 0] = IGNORED
        if not self.pretraining:
            targets[targets == 0] = IGNORED
            if self.electra and self.task == "SequenceClassification":
                targets[:, 0] = IGNORED
        if self.prefix:
            targets[:, :self.N + 1] = IGNORED
        return targets

    def retrieval(self, h: Tensor, slots: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """One instance's token is decoded at each position of each group."""
        logits = self.groups(self.vocabulary(h))  # [B, N, L, V]
        positions = torch.arange(h.shape[1])
        drawn = torch.stack([logits[b, slots[b], positions] for b in range(len(logits))])
        return {"retrieval_labels": targets, "retrieval_logits": drawn,
                "retrieval_loss": cross_entropy(drawn.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)}

    # -- the baselines: transformers' own classes, with mask, segments and pooler --

    def plain_forward(self, ids: Tensor, mask: Tensor | None, segments: Tensor | None, labels: Tensor | None) -> dict:
        out = {"embedded_input_ids": ids} | self.encode(self.embed(self.word(ids), segments), mask)
        x = out["backbone_output"]
        if self.task == "MaskedLM":
            head = "cls.predictions"
            x = self.norm(gelu(self.dense(x, f"{head}.transform.dense")), f"{head}.transform.LayerNorm")
            out["logits"] = linear(x, self.state[f"{head}.decoder.weight"], self.state[f"{head}.bias"])
        else:
            if self.task == "SequenceClassification":
                x = torch.tanh(self.dense(x[:, 0], "bert.pooler.dense"))
            out["logits"] = self.dense(x, "classifier")
        if labels is not None:
            out["loss"] = classification_loss(out["logits"], labels)
        return out


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the labels that count, or the squared error of a regression."""
    if logits.shape[-1] == 1:
        return mse_loss(logits.flatten(), labels.flatten().to(logits.dtype))
    return cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)
