"""Parameters against hand computation, published counts and the real models; bytes by hand."""

import pytest

from launcher import memory
from launcher.memory import Parameters
from mux.recipe.schema import EngineSection, ModelSection

TINY_SHAPE = {"layers": 1, "hidden": 4, "heads": 2, "intermediate": 8}


def model(**changes) -> ModelSection:
    small = {"size": TINY_SHAPE, "N": 2, "max_positions": 8, "demultiplexer_layers": 2}
    return ModelSection.model_validate(small | changes)


def engine(**changes) -> EngineSection:
    return EngineSection.model_validate(changes)


def test_parameters_by_hand():
    embeddings = 100 * 4 + 8 * 4 + 2 * 4 + 8  # words, positions, segments, layer norm
    layer = 4 * 20 + 8 + (32 + 8) + (32 + 4) + 8  # q k v o, layer norm, in, out, layer norm
    demultiplexer = 2 * 4 + (16 + 4) + 16 + 8 + (16 + 4 + 8)  # keys, on state, on key, norm, second layer
    assert (embeddings, layer, demultiplexer) == (448, 172, 80)
    assert memory.pretraining(model(), 100) == Parameters(448 + 172 + 80 + 100, frozen=8)
    assert memory.pretraining(model(), 100).total == 808
    assert memory.classifier(model(), 100, labels=3) == Parameters(448 + 172 + 80 + 15, frozen=8)
    assert memory.pretraining(model(N=1), 100) == Parameters(448 + 172 + (20 + 8) + 100)
    assert memory.classifier(model(N=1), 100, labels=3) == Parameters(448 + 172 + 20 + 15)


def test_parameters_of_bert_base_as_published():
    assert memory.pretraining(ModelSection(size="BASE"), 30_522).total == 109_514_298
    assert memory.classifier(ModelSection(size="BASE"), 30_522, labels=2).total == 109_483_778


@pytest.mark.parametrize(("N", "layers"), [(1, 3), (2, 1), (5, 3)])
def test_parameters_of_the_real_models(N, layers):
    import torch

    from mux.model import MuxConfig, MuxForPreTraining, MuxForSequenceClassification

    section = model(size="TINY", N=N, max_positions=64, demultiplexer_layers=layers)
    config = MuxConfig.from_size("TINY", num_instances=N, vocab_size=300, max_position_embeddings=64,
                                 demultiplexer_layers=layers, num_labels=7)

    def count(module: torch.nn.Module) -> Parameters:
        keys = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        trained = sum(row.numel() for row in module.parameters() if row.requires_grad)  # a tied weight once
        return Parameters(trained, sum(buffer.numel() for buffer in keys))

    assert memory.pretraining(section, 300) == count(MuxForPreTraining(config))
    assert memory.classifier(section, 300, labels=7) == count(MuxForSequenceClassification(config))


def test_bytes_per_device_as_zero_divides_them():
    """Rajbhandari et al. 2020, figure 1: 2 + 2 + 12 bytes a parameter. Frozen keys are on every device."""
    table = memory.rows(Parameters(1000, frozen=10), engine(precision="bf16", zero_stage=2), 10, 5)
    assert [(row["weights"], row["gradients"], row["optimizer"], row["activations"]) for row in table] == [
        (2020, 2000, 12000, 5), (2020, 2000, 1200, 5), (2020, 200, 1200, 5), (220, 200, 1200, 5)]
    assert [row["total"] for row in table] == [16025, 5225, 3425, 1625]
    assert [row["zero_stage"] for row in table if row["recipe"]] == [2]


def test_fp32_bytes():
    """Plain fp32 has no master copy; DeepSpeed's ZeRO 1 to 3 make one all the same."""
    table = memory.rows(Parameters(1000), engine(precision="fp32"), 1, 0)
    assert [(row["weights"], row["gradients"], row["optimizer"]) for row in table] == [
        (4000, 4000, 8000), (4000, 4000, 12000), (4000, 4000, 12000), (4000, 4000, 12000)]


def test_a_share_is_rounded_up():
    table = memory.rows(Parameters(1000), engine(precision="fp16"), 64, 0)
    assert table[1]["optimizer"] == 188  # 12,000 / 64 = 187.5


def test_checkpoint_bytes():
    size = Parameters(1000, frozen=10)
    assert memory.checkpoint(size, engine(precision="fp16")) == 2020 + 12000
    assert memory.checkpoint(size, engine(precision="fp32", zero_stage=0)) == 4040 + 8000
    assert memory.checkpoint(size, engine(precision="fp32", zero_stage=1)) == 4040 + 12000
    assert memory.model_folder(size) == 4040


def test_activations_by_hand():
    kept = memory.activations(model(), engine(precision="fp16"), 100,
                              micro_batch=3, sequence_length=5, decoded_rows=2)
    layer = 2 * (8 * 4 + 2 * 8) + 2 * 4
    embeddings = 3 * 4 * (2 + 1)  # two instances and their mux
    head = 2 * (3 * 2 * 4) + 12 * 100
    assert (layer, embeddings, head) == (104, 36, 1248)
    assert kept == 3 * (5 * (104 + 36) + 2 * 1248)


@pytest.mark.parametrize("N", [1, 3])
def test_activations_of_the_real_model(N):
    """What autograd really keeps, without dropout (whose masks have another type on a CPU)."""
    import torch

    from mux.model import MuxConfig, MuxForPreTraining

    D, L, V, micro_batch, labelled = 64, 32, 200, 2, 10
    section = model(size={"layers": 3, "hidden": D, "heads": 2, "intermediate": 256}, N=N, max_positions=L)
    net = MuxForPreTraining(MuxConfig(
        num_instances=N, vocab_size=V, hidden_size=D, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=256, max_position_embeddings=L, demultiplexer_layers=2, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0)).train()
    weights = {row.untyped_storage().data_ptr() for row in net.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(5, V, (micro_batch * N, L))
    labels = torch.where(torch.arange(L) < labelled, ids, -100)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(ids, labels=labels)
    real = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())

    decoded = labelled * N
    kept = memory.activations(section, engine(precision="fp32"), V,
                              micro_batch=micro_batch, sequence_length=L, decoded_rows=decoded)
    masks = micro_batch * L * D * (3 * 2 + (1 if N == 1 else N + 1))
    gradients = micro_batch * decoded * 8 * V  # made on the way back
    assert kept - masks - gradients == pytest.approx(real, rel=0.05)


def test_activations_with_checkpointing_keep_one_layer_whole():
    deep = model(size=TINY_SHAPE | {"layers": 10})
    kept = [memory.activations(deep, engine(precision="fp16", activation_checkpointing=saving), 0,
                               micro_batch=1, sequence_length=1, decoded_rows=0) for saving in (False, True)]
    assert kept == [10 * 104 + 36, 10 * 2 * 4 + 104 + 36]


def test_token_store_is_16_bit_where_the_vocabulary_allows():
    assert memory.token_store(1000, 65_536) == 1000
    assert memory.token_store(1000, 65_537) == 2000
