"""What the fast paths cost, in multiplications and in kernels: a slower path fails here, on any machine.

A layer of width D costs a position of a sequence of L tokens 12 D^2 + 2 L D multiplications: 4 D^2 for the projections
of the attention, 2 L D for its scores and sums, 8 D^2 for the feed-forward network. Of a last layer that is wanted at
one position only about 10 D^2 + 2 H L D remain, for the whole sequence. The demultiplexer of 3 layers costs a muxed
position D^2, and each instance there 2 D^2. SPEED_UPS are the ratios that follow (N instances through a plain BERT,
over one group of N), for sequences of 128; a prefix lengthens the sequence by N.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertForSequenceClassification, BertForTokenClassification

from mux.model import MuxConfig, MuxForPreTraining, MuxForSequenceClassification, MuxForTokenClassification

LENGTH, TOLERANCE = 128, 0.01
SPEED_UPS = {  # (head, path) -> size -> at N = 2, 5, 10
    ("sequence", "every position of the last layer"): {
        "SMALL": (2.00, 4.98, 9.94), "BASE": (2.00, 4.99, 9.98), "LARGE": (2.00, 5.00, 9.99)},
    ("sequence", "one position"): {
        "SMALL": (2.66, 6.63, 13.2), "BASE": (2.18, 5.45, 10.9), "LARGE": (2.09, 5.21, 10.4)},
    ("tokens", "every position"): {
        "SMALL": (1.82, 4.09, 7.03), "BASE": (1.93, 4.65, 8.75), "LARGE": (1.97, 4.82, 9.33)},
    ("sequence", "contextual"): {
        "SMALL": (1.15, 1.56, 1.77), "BASE": (1.60, 2.87, 3.90), "LARGE": (1.78, 3.65, 5.60)},
    ("sequence", "prefix"): {  # with the last layer at N + 1 positions
        "SMALL": (2.60, 6.27, 11.9), "BASE": (2.14, 5.21, 9.99), "LARGE": (2.05, 5.00, 9.61)},
}
PATHS = {"every position of the last layer": ({}, {"output_hidden_states": True}), "one position": ({}, {}),
         "every position": ({}, {}), "contextual": ({"multiplexer": "contextual"}, {}),
         "prefix": ({"demultiplexer": "prefix"}, {})}
HEADS = {"sequence": (MuxForSequenceClassification, BertForSequenceClassification),
         "tokens": (MuxForTokenClassification, BertForTokenClassification)}
# Per instance: a step of masked language modelling at N over one at N = 1; both decode only the masked tokens.
TRAINING = {"SMALL": (1.70, 3.04, 4.12), "BASE": (1.91, 4.27, 7.28)}


def multiplications(model, ids, **asked):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids, **asked)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("size", ["SMALL", "BASE", "LARGE"])
@pytest.mark.parametrize(("head", "path"), SPEED_UPS)
def test_classification(head, path, size):
    (ours, theirs), (fields, asked) = HEADS[head], PATHS[path]
    with torch.device("meta"):  # shapes without numbers
        row = torch.ones(1, LENGTH, dtype=torch.long)
        plain = multiplications(theirs(MuxConfig.from_size(size).backbone()).eval(), row)
        for N, expected in zip((2, 5, 10), SPEED_UPS[head, path][size], strict=True):
            model = ours(MuxConfig.from_size(size, num_instances=N, **fields)).eval()
            assert N * plain / multiplications(model, row.expand(N, -1), **asked) > expected * (1 - TOLERANCE)


@pytest.mark.parametrize("size", TRAINING)
def test_a_training_step(size):
    counts = []
    for N in (1, 2, 5, 10):
        model = MuxForPreTraining(MuxConfig.from_size(size, num_instances=N))
        ids = torch.randint(5, 30_000, (N, LENGTH))
        labels = ids.masked_fill(torch.arange(LENGTH) % 7 > 0, -100)  # 19 tokens, 15 %
        with FlopCounterMode(display=False) as counter:
            model(ids, labels=labels).loss.backward()
        counts.append(counter.get_total_flops() / N)
    for count, expected in zip(counts[1:], TRAINING[size], strict=True):
        assert counts[0] / count > expected * (1 - TOLERANCE)


class Kernels(TorchDispatchMode):
    """Counts the operations that compute something; a view does not."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        returned = function._schema.returns
        view = returned and all(value.alias_info is not None and not value.alias_info.is_write for value in returned)
        self.count += not view
        return function(*arguments, **named or {})


def kernels(kind, N, groups=3, padded=False, **fields):
    config = MuxConfig.from_size("TINY", num_instances=N, vocab_size=100, **fields)
    model, ids = kind(config).eval(), torch.full((N * groups, 16), 7)
    mask = torch.ones_like(ids)
    mask[0, -1] -= int(padded)
    with torch.no_grad(), Kernels() as counted:
        model(ids, attention_mask=mask)
    return counted.count


@pytest.mark.parametrize("fields", [{}, {"multiplexer": "contextual"}, {"demultiplexer": "prefix"}],
                         ids=["default", "contextual", "prefix"])
@pytest.mark.parametrize("kind", [MuxForSequenceClassification, MuxForTokenClassification])
def test_kernels_do_not_grow(kind, fields):
    """As many for many groups as for few; more slots add those of their embedding and nothing else."""
    few, a_slot = kernels(kind, 2, **fields), 0 if "multiplexer" in fields else 4  # words, places, layer norm, sum
    assert kernels(kind, 2, groups=9, **fields) == few
    assert kernels(kind, 7, **fields) == few + 5 * a_slot


def test_nothing_padded_costs_no_mask():
    for N, mask in ((1, 10), (2, 20)):
        spared = kernels(MuxForTokenClassification, N, padded=True) - kernels(MuxForTokenClassification, N)
        assert spared > mask, N


def test_a_multiplexed_model_starts_few_kernels_more_than_a_plain_one():
    for kind, most in ((MuxForSequenceClassification, 30), (MuxForTokenClassification, 30)):
        assert kernels(kind, 2) - kernels(kind, 1) <= most
