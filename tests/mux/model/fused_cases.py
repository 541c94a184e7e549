"""What a multiplexer answers to the cases below: here by the plain path, or by the kernel in Triton's interpreter.

    TRITON_INTERPRET=1 python -m tests.mux.model.fused_cases OUT

writes the latter. Triton decides when it is imported, so that a process has one of the two.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from mux.model import MuxConfig, MuxForSequenceClassification
from mux.model.multiplexer import Padding, fused

SIZE = {"hidden_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
        "vocab_size": 120, "max_position_embeddings": 16, "num_labels": 3, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0}
GROUPS, LENGTH = 3, 7  # 21 positions: more than a program of the backward pass has
CASES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "two slots": (torch.float64, {}),
    "five slots of BASE's width": (torch.float64, {"num_instances": 5, "hidden_size": 768}),
    "more slots": (torch.float64, {"num_instances": 16}),
    "one slot": (torch.float64, {"num_instances": 1, "compat": "princeton"}),
    "learned keys": (torch.float64, {"learn_keys": True}),
    "binary": (torch.float64, {"multiplexer": "binary", "num_instances": 3}),
    "narrow ELECTRA": (torch.float64, {"family": "electra", "embedding_size": 40}),
    "as published": (torch.float64, {"compat": "princeton"}),
    "no segments": (torch.float64, {"segment_ids": False, "num_instances": 5}),
    "fp32": (torch.float32, {"num_instances": 5, "hidden_size": 768, "learn_keys": True}),
    "bf16": (torch.bfloat16, {"num_instances": 5, "hidden_size": 768, "learn_keys": True}),
    "fp16": (torch.float16, {"num_instances": 5, "hidden_size": 768, "learn_keys": True}),
}


def model(dtype: torch.dtype = torch.float64, **fields: Any) -> MuxForSequenceClassification:
    """With fp64 weights that `dtype` can hold."""
    torch.manual_seed(0)
    made = MuxForSequenceClassification(MuxConfig(**SIZE | {"num_instances": 2} | fields))
    for tensor in made.parameters():
        tensor.data += 0.1 * torch.randn_like(tensor)
    return made.to(dtype).double()


def rows(number: int, length: int = LENGTH) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 49, (number, length), generator=generator)
    for row in range(number):
        ids[row, 3 + row % length:] = 0
    return {"input_ids": ids, "attention_mask": ids.ne(0).long(),
            "token_type_ids": torch.arange(length).gt(2).long().expand(number, -1)}


def mixed(dtype: torch.dtype, fields: dict[str, Any]) -> dict[str, Tensor]:
    """What the backbone is fed, in evaluation and in training, and the gradients of some function of it.

    In `dtype` where the kernel computes; the plain path is the reference, in fp64.
    """
    made = model(dtype, **fields)
    if fused(made.mux.backbone.embeddings, torch.zeros(1)):
        made = made.to(dtype)
    embeddings, multiplexer = made.mux.backbone.embeddings, made.mux.multiplexer
    batch = made.mux.prepare(**rows(GROUPS * made.config.num_instances))
    whole = [None if one is None else one.unflatten(0, (GROUPS, -1)) for one in (batch.input_ids, batch.token_type_ids)]
    padding = made.mux.prepare.padding(batch)
    assert (padding.counted_BNL is None) == ("compat" in fields)
    assert (whole[1] is None) == ("compat" in fields or "segment_ids" in fields)
    with torch.no_grad():
        evaluated = multiplexer.eval()(embeddings.eval(), *whole, padding)
    muxed = multiplexer.train()(embeddings.train(), *whole, padding)
    asked = torch.randn(muxed.shape, generator=torch.Generator().manual_seed(2))
    muxed.backward(asked.to(muxed.dtype))
    gradients = {name: parameter.grad for part in (embeddings, multiplexer)
                 for name, parameter in part.named_parameters() if parameter.grad is not None}
    return {"evaluated": evaluated, "trained": muxed.detach()} | gradients


def answers() -> dict[str, dict[str, Tensor]]:
    return {name: mixed(*case) for name, case in CASES.items()} | {"a model": of_a_model()}


def of_a_model() -> dict[str, Tensor]:
    """Logits, loss and all gradients of a classifier, a group's tail filled."""
    made, inputs = model(), rows(5)
    loss = made.train()(**inputs, labels=torch.tensor([0, 1, 2, 1, 0])).loss
    loss.backward()
    return {"logits": made.eval()(**inputs).logits.detach(), "loss": loss.detach().double()} | {
        name: parameter.grad for name, parameter in made.named_parameters() if parameter.grad is not None}


def path_taken() -> dict[str, bool]:
    """Whether the kernel is taken by what others did to the embeddings."""
    found = {}
    for name, change in CHANGES.items():
        made = model()
        change(made.mux.backbone.embeddings)
        result = made.mux.multiplexer(made.mux.backbone.embeddings, torch.ones(1, 2, 4, dtype=torch.long), None,
                                      Padding())
        found[name] = "EmbeddedAndMixed" in result.grad_fn.name()
    return found


class Adapted(nn.Embedding):
    pass


CHANGES: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda embeddings: None,
    "a hook": lambda embeddings: embeddings.LayerNorm.register_forward_hook(lambda module, given, result: None),
    "an adapter": lambda embeddings: setattr(embeddings, "word_embeddings", Adapted(120, 96)),
}


def compiled() -> bool:
    """Whether a compiled multiplexer, which takes the plain path in one graph, answers as the kernel does."""
    made = model().eval()
    given = made.mux.backbone.embeddings, torch.ones(1, 2, 4, dtype=torch.long), None, Padding()
    compiling = torch.compile(made.mux.multiplexer, backend="eager", fullgraph=True)
    with torch.no_grad():
        return torch.allclose(compiling(*given), made.mux.multiplexer(*given), rtol=1e-12, atol=1e-14)


def beyond_the_vocabulary() -> Tensor:
    """What comes out; its gradient is no number either, and is of rows that there are."""
    made = model().eval()
    embeddings = made.mux.backbone.embeddings
    ids = torch.tensor([[[5, 120, 6, 7], [5, 6, 7, -1]]])
    muxed = made.mux.multiplexer(embeddings, ids, None, Padding())
    muxed[0, 1].sum().backward()
    gradient = embeddings.word_embeddings.weight.grad
    assert gradient is not None and gradient.isnan().any()
    return muxed.detach()


def dropout_gradients() -> bool:
    """Whether the gradients are those of what the forward pass computed, dropped values included."""
    from mux.model.kernels import EmbeddedAndMixed, Tokens

    torch.manual_seed(0)
    shapes = {"words": (9, 6), "places": (3, 6), "types": (2, 6), "gains": (6,), "biases": (6,), "keys": (2, 6)}
    parameters = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes.values()]
    tokens = Tokens(torch.randint(1, 9, (6, 2, 3)), torch.randint(0, 2, (6, 2, 3)), torch.rand(6, 2, 3) > 0.3, 1e-5,
                    None, 0.4, seed=2**61 + 5)
    return torch.autograd.gradcheck(lambda *given: EmbeddedAndMixed.apply(tokens, *given), parameters, fast_mode=True,
                                    raise_exception=False)


def dropped() -> dict[str, Tensor]:
    """By seed, what is left of ones in the first slot and of tens in the second, over what is left on average."""
    made = model(hidden_dropout_prob=0.25).train()
    embeddings, multiplexer = made.mux.backbone.embeddings, made.mux.multiplexer
    with torch.no_grad():
        embeddings.LayerNorm.weight.zero_()
        embeddings.LayerNorm.bias.fill_(1.0)
        multiplexer.keys.copy_(torch.tensor([[2.0], [20.0]]).expand(2, 96))
    found = {}
    for name, seed in (("once", 7), ("again", 7), ("otherwise", 8)):
        torch.manual_seed(seed)
        found[name] = multiplexer(embeddings, torch.ones(4, 2, 8, dtype=torch.long), None, Padding()).detach()
    return found


def faults() -> dict[str, str | None]:
    """What is found wrong with the kernel: by type, and where it computes something else, or not at all."""
    from mux.model import kernels

    cpu, sound = torch.device("cpu"), kernels.embedded_and_mixed
    with patch("torch.cuda.manual_seed_all", side_effect=AssertionError("a training has seeded them already")):
        found = {str(dtype): kernels.fault(cpu, dtype) for dtype in kernels.NEAR}

    def broken(*given: Any) -> Tensor:
        raise RuntimeError("no such instruction\nand so on")

    for name, kernel in (("another", lambda *given: 1.2 * sound(*given)), ("none", broken)):
        kernels.fault.cache_clear()
        kernels.embedded_and_mixed = kernel
        found[name] = kernels.fault(cpu, torch.float64)
        found[f"{name} is taken"] = path_taken()["nothing"]
    return found


if __name__ == "__main__":
    torch.save({"answers": answers(), "path taken": path_taken(), "compiled": compiled(),
                "beyond the vocabulary": beyond_the_vocabulary(), "dropout gradients": dropout_gradients(),
                "dropped": dropped(), "faults": faults()}, sys.argv[1])
