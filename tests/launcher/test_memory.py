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


def test_parameters_by_hand_of_the_other_families():
    """ELECTRA that embeds 2 wide and encodes 4 wide; the published prefix demultiplexer; contextual layers."""
    electra = model(family="electra", embedding=2, multiplexer="orthogonal")
    embeddings = 100 * 2 + 8 * 2 + 2 * 2 + 4 + (2 * 4 + 4)  # ..., layer norm, from 2 to 4
    decoder, discriminator = 4 * 100 + 100, 20 + 5
    assert memory.pretraining(electra, 100) == Parameters(
        embeddings + 172 + 80 + decoder + discriminator, frozen=2 * 2 * 2)
    assert memory.classifier(electra, 100, labels=3).trained == embeddings + 172 + 80 + 20 + 15
    assert memory.token_classifier(electra, 100, labels=3).trained == embeddings + 172 + 80 + 15

    prefix = model(demultiplexer="prefix", multiplexer="contextual", learn_keys=True)
    markers, trunk = 3 * 4, 16 + 20 + 8 + (20 + 8)  # no keys of its own
    assert memory.pretraining(prefix, 100) == Parameters(448 + markers + 172 + 8 + 2 * 172 + trunk + 100 + 3)
    published = model(demultiplexer="prefix", compat="princeton")
    assert memory.pretraining(published, 700).trained == 448 + 4 * 600 + 172 + 2 * (16 + 20 + 8) + 700


FAMILIES = [{"family": "bert"}, {"family": "electra"}, {"family": "electra", "embedding": 16}]
MULTIPLEXERS = ["gaussian", "contextual", "contextual_v1", "orthogonal", "orthogonal_low_rank", "binary"]
VARIANTS = [
    family | {"multiplexer": multiplexer, "demultiplexer": demultiplexer, "compat": compat}
    for family in FAMILIES for multiplexer in MULTIPLEXERS for demultiplexer in ("rsa", "prefix")
    for compat in (None, "princeton")
]


@pytest.mark.parametrize("N", [1, 2, 5])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
def test_parameters_of_the_real_models(variant, N):
    """Of every kind of model and head; the number of layers of the demultiplexer varies with N."""
    import torch

    from mux.model import MuxForPreTraining, MuxForSequenceClassification, MuxForTokenClassification

    layers = {1: 4, 2: 3, 5: 2}[N]
    shape = {"layers": 1, "hidden": 24, "heads": 4, "intermediate": 40}
    section = model(size=shape, N=N, max_positions=32, demultiplexer_layers=layers, learn_keys=N == 5, **variant)

    def count(kind: type, **fields: float) -> Parameters:
        with torch.device("meta"):
            made = kind(config_of(section, 700, **fields))
        keys = [buffer for name, buffer in made.named_buffers() if name.endswith("multiplexer.keys")]
        trained = sum(row.numel() for row in made.parameters() if row.requires_grad)  # a tied weight once
        return Parameters(trained, sum(buffer.numel() for buffer in keys))

    assert memory.pretraining(section, 700) == count(MuxForPreTraining)
    for kind, formula in ((MuxForSequenceClassification, memory.classifier),
                          (MuxForTokenClassification, memory.token_classifier)):
        assert formula(section, 700, labels=7) == count(kind, num_labels=7)
        assert formula(section, 700, labels=7, retrieval=True) == count(kind, num_labels=7, retrieval_weight=0.1)


def config_of(section: ModelSection, vocabulary: int, **fields: float):
    from mux.model import MuxConfig

    return MuxConfig(
        family=section.family, num_instances=section.N, multiplexer=section.multiplexer,
        demultiplexer=section.demultiplexer, demultiplexer_layers=section.demultiplexer_layers,
        learn_keys=section.learn_keys, compat=section.compat, vocab_size=vocabulary,
        embedding_size=section.embedding, hidden_size=section.shape.hidden,
        num_hidden_layers=section.shape.layers, num_attention_heads=section.shape.heads,
        intermediate_size=section.shape.intermediate, max_position_embeddings=section.max_positions, **fields)


def test_parameters_of_a_folder(tmp_path):
    assert memory.of_folder(tmp_path) is None
    (tmp_path / "model.safetensors").write_bytes(bytes(403))
    assert memory.of_folder(tmp_path) == Parameters(100)


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
                              micro_batch=3, positions=5, demultiplexed=4, decoded=2)
    layer = 2 * (8 * 4 + 2 * 8) + 2 * 4
    embeddings = 3 * 4 * (2 + 1)  # two instances and their mux
    demultiplexer, logits = 2 * (3 * 2 * 4), 12 * 100
    assert (layer, embeddings) == (104, 36)
    assert kept == 3 * (5 * (104 + 36) + 4 * demultiplexer + 2 * logits)


@pytest.mark.parametrize(("multiplexer", "layers"), [("contextual", 2), ("contextual_v1", 1)])
def test_activations_of_layers_in_the_multiplexer(multiplexer, layers):
    """They read both instances, at the width of the embeddings."""
    def kept(saving: bool) -> int:
        narrow = model(family="electra", embedding=2, multiplexer=multiplexer)
        return memory.activations(narrow, engine(precision="fp16", activation_checkpointing=saving), 0,
                                  micro_batch=1, positions=1, demultiplexed=0, decoded=0)

    one = 2 * (2 * (8 * 2 + 2 * 8) + 2 * 2)
    assert kept(saving=False) == 104 + layers * one + 3 * 2 * 3
    assert kept(saving=True) == 2 * 4 + layers * 2 * 2 * 2 + max(104, one) + 3 * 2 * 3


@pytest.mark.parametrize(("N", "variant"), [
    (1, {}), (3, {}), (3, {"multiplexer": "contextual"}), (3, {"demultiplexer": "prefix"}),
], ids=str)
def test_activations_of_the_real_model(N, variant):
    """What autograd really keeps, without dropout (whose masks have another type on a CPU)."""
    import torch

    from mux.model import MuxForPreTraining

    D, L, V, micro_batch, labelled = 64, 32, 200, 2, 10
    section = model(size={"layers": 3, "hidden": D, "heads": 2, "intermediate": 256}, N=N, max_positions=2 * L,
                    **variant)
    net = MuxForPreTraining(config_of(section, V, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).train()
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

    decoded, positions = labelled * N, section.positions(L, pretraining=True)
    kept = memory.activations(section, engine(precision="fp32"), V, micro_batch=micro_batch, positions=positions,
                              demultiplexed=decoded, decoded=decoded)
    layers = 3 + 2 * N * (section.multiplexer == "contextual")
    masks = micro_batch * positions * D * (layers * 2 + (1 if N == 1 else N + 1))
    gradients = micro_batch * decoded * 8 * V  # made on the way back
    assert kept - masks - gradients == pytest.approx(real, rel=0.1 if variant else 0.05)


def test_activations_with_checkpointing_keep_one_layer_whole():
    deep = model(size=TINY_SHAPE | {"layers": 10})
    kept = [memory.activations(deep, engine(precision="fp16", activation_checkpointing=saving), 0,
                               micro_batch=1, positions=1, demultiplexed=0, decoded=0) for saving in (False, True)]
    assert kept == [10 * 104 + 36, 10 * 2 * 4 + 104 + 36]


def test_token_store_is_16_bit_where_the_vocabulary_allows():
    assert memory.token_store(1000, 65_536) == 1000
    assert memory.token_store(1000, 65_537) == 2000
