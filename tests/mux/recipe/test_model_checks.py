"""Models that cannot be, and, to the letter, what the user is told."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        # names
        ('multiplexer = "contextal"', "x.toml:6: model.multiplexer: must be 'gaussian', 'contextual', 'contextual_v1', "
         "'orthogonal', 'orthogonal_low_rank' or 'binary', is \"contextal\"\n    did you mean \"contextual\"?"),
        ('family = "electro"', "x.toml:6: model.family: must be 'bert', 'electra' or 'hub', is \"electro\"\n"
         '    did you mean "electra"?'),
        ('compat = "stanford"', "x.toml:6: model.compat: must be 'princeton', is \"stanford\""),
        ("mask_padding = false", "x.toml:6: model.mask_padding: is not a key\n"
         "    mask_padding is a key of [model.departures]"),
        ("departures.mask_pading = false", "x.toml:6: model.departures.mask_pading: is not a key\n"
         "    did you mean model.departures.mask_padding?"),
        ("departures.discriminator_weight = 0",
         "x.toml:6: model.departures.discriminator_weight: must be more than 0, is 0"),
        # shapes
        ("embedding = 64", "x.toml:6: model.embedding: is for ELECTRA: BERT embeds as wide as it encodes\n"
         "    leave it out"),
        ('source = "hub:a/b"', 'x.toml:6: model.source: speaks of family = "hub" only\n'
         "    stages name the model that they start from as their `from`"),
        ('family = "electra"\nembedding = 63\nmultiplexer = "contextual_v1"', "x.toml:7: model.embedding: 63 is not a "
         "multiple of 2, the heads of the layers in the contextual_v1 multiplexer\n    62 would be"),
        ('family = "electra"\nembedding = 1\nmultiplexer = "binary"', "x.toml:8: model.multiplexer: binary gives each "
         "text a block of the embedding's width 1: there is none for all of N = 2\n"
         "    N = 1 at most, or another multiplexer"),
        ('family = "electra"\nembedding = 1\nmultiplexer = "orthogonal_low_rank"', "x.toml:8: model.multiplexer: "
         "orthogonal_low_rank gives each text a block of the embedding's width 1: there is none for all of N = 2\n"
         "    N = 1 at most, or another multiplexer"),
        # lengths
        ('demultiplexer = "prefix"\nmax_positions = 129', "x.toml:7: stages.finetune.sequence_length: 128 and a prefix "
         "of 2 are more than model.max_positions = 129\n    127 would fit"),
        ('demultiplexer = "prefix"\ncompat = "princeton"\nmax_positions = 130', "x.toml:8: stages.finetune.sequence_"
         "length: 128 and a prefix of 3 are more than model.max_positions = 130\n    127 would fit"),
        ('demultiplexer = "prefix"\nmax_positions = 9', "x.toml:7: stages.finetune.sequence_length: 128 and a prefix "
         "of 2 are more than model.max_positions = 9\nx.toml:15: corpus.sequence_length: 64 and a prefix of 2 are more "
         "than model.max_positions = 9"),
        # the published numerics
        ('multiplexer = "contextual"\ndemultiplexer = "prefix"\ncompat = "princeton"', "x.toml:7: model.demultiplexer: "
         "the published code fails with contextual and prefix together: its attention mask lacks the prefix\n"
         '    leave out compat = "princeton", or take one of the two'),
        ('demultiplexer_layers = 1\ncompat = "princeton"', "x.toml:6: model.demultiplexer_layers: 1 is too few: the "
         "published demultiplexer has 2 or more"),
        ("demultiplexer_layers = 1\ndepartures.shared_demultiplexer = false", "x.toml:6: model.demultiplexer_layers: 1 "
         "is too few: the published demultiplexer has 2 or more"),
    ],
)
def test_models_that_cannot_be(folder: Any, keys: str, told: str) -> None:
    assert folder.refusal(folder.changed(("N = 2", f"N = 2\n{keys}"))) == told


@pytest.mark.parametrize(
    "keys",
    [
        'multiplexer = "contextual"\ndemultiplexer = "prefix"',
        'multiplexer = "contextual"\ncompat = "princeton"',
        'demultiplexer = "prefix"\nmax_positions = 130',
        'demultiplexer = "prefix"\ncompat = "princeton"\nmax_positions = 131',
        'demultiplexer_layers = 1\ncompat = "princeton"\ndepartures.shared_demultiplexer = true',
        'family = "electra"\nembedding = 62\nmultiplexer = "contextual"\nlearn_keys = true',
        'family = "electra"\nembedding = 2\nmultiplexer = "binary"',
    ],
)
def test_models_that_can_be(folder: Any, keys: str) -> None:
    assert folder.load(folder.changed(("N = 2", f"N = 2\n{keys}"))).recipe.model.N == 2


def test_published_ids_need_the_published_vocabulary(folder: Any) -> None:
    prefix = 'N = 2\ndemultiplexer = "prefix"\ncompat = "princeton"'
    for vocabulary, model, highest in ((680, prefix, 680), (101, 'N = 2\ncompat = "princeton"', 101)):
        text = folder.changed(("vocabulary = 4_096", f"vocabulary = {vocabulary}"), ("N = 2", model))
        assert folder.refusal(text).endswith(
            f"tokenizer.vocabulary: {vocabulary} is too small for the published ids, which go up to {highest}\n"
            "    [model.departures] own_special_ids = true takes the tokenizer's")
        own = f"{model}\ndepartures.own_special_ids = true"
        assert folder.load(folder.changed(("vocabulary = 4_096", f"vocabulary = {vocabulary}"), ("N = 2", own)))
    many = prefix.replace("N = 2", "N = 679\nmax_positions = 1_000")
    assert folder.refusal(folder.changed(("N = 2", many), ("sequence_length = 64", "sequence_length = 900"))) == (
        "x.toml:5: model.N: 679 texts are too many for the published ids: there are 678 markers\n"
        "    [model.departures] own_special_ids = true has one for each text")


def test_published_pretraining_keeps_some_of_each_row(folder: Any) -> None:
    model = 'N = 63\ndemultiplexer = "prefix"\ncompat = "princeton"'
    assert folder.refusal(folder.changed(("N = 2", model))) == (
        "x.toml:15: corpus.sequence_length: 64 leaves no token of a row: published pre-training cuts off as many as "
        "the prefix has, 64")


def test_the_length_of_a_corpus_that_no_stage_reads_is_free(folder: Any) -> None:
    changes = (("N = 2", "N = 2\nmax_positions = 128"), ("sequence_length = 64", "sequence_length = 512"))
    assert "corpus.sequence_length: 512 is more than model.max_positions = 128" in folder.refusal(
        folder.changed(*changes))
    alone = ('[[stages]]\nkind = "pretrain"\nsteps = 100\nwarmup_steps = 10\n', "")
    assert folder.load(folder.changed(*changes, alone)).recipe.corpus.sequence_length == 512


def test_published_models_are_started_from(folder: Any) -> None:
    text = folder.changed(("N = 2", 'N = 2\ncompat = "princeton"'),
                          ('tasks = ["topic"]', 'tasks = ["topic"]\nfrom = "princeton:muxbert_base"'))
    assert folder.load(text).recipe.stages[1].from_ == "princeton:muxbert_base"
    baseline = folder.changed(("N = 2", "N = 1"), ("copies = [1, 2]", "copies = [1]"),
                              ('tasks = ["topic"]', 'tasks = ["topic"]\nfrom = "princeton:bert_small_1"'))
    assert folder.load(baseline).recipe.model.compat is None


HUB = 'family = "hub"\nsource = "hub:distilbert/distilbert-base-uncased"'
PLAIN = ('size = "TINY"\nN = 2', HUB), ("copies = [1, 2]", "copies = [1]")


def test_an_encoder_of_the_hub(folder: Any) -> None:
    """Everything that it cannot have is told at once."""
    text = folder.changed(
        ('size = "TINY"\nN = 2', f'{HUB}\nsize = "TINY"\nN = 2\nmultiplexer = "binary"\ndropout = 0.0\n'
         'compat = "princeton"\ndepartures.mask_padding = true'),
        ('tasks = ["topic"]', 'tasks = ["topic"]\nfrom = "hub:a/b"\nretrieval_rate = 0.1'))
    with_hub = 'with family = "hub"'
    none = f"has no meaning {with_hub}: the encoder brings its own\n    leave it out"
    assert folder.refusal(text) == f"""\
x.toml:6: model.size: {none}
x.toml:7: model.N: 2 texts do not go through a plain encoder at once: N = 1 {with_hub}
x.toml:8: model.multiplexer: {none}
x.toml:9: model.dropout: {none}
x.toml:10: model.compat: {none}
x.toml:11: model.departures: {none}
x.toml:22: stages.pretrain.kind: there is no pretrain {with_hub}: its encoders are fine-tuned, evaluated and timed
    drop = ["pretrain"]
x.toml:29: stages.finetune.from: has no meaning {with_hub}: it starts from model.source
    leave it out
x.toml:30: stages.finetune.retrieval_rate: there is nothing to retrieve: a plain encoder reads one text
    leave it out, or take N = 2 and more"""


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("", 'model.source: is needed with family = "hub"\n    write hub:ID[@REVISION] or path:DIR'),
        ('source = "distilbert"', 'model.source: "distilbert" is none of hub:ID[@REVISION] and path:DIR'),
        ('source = "path:"', 'model.source: "path:" is none of hub:ID[@REVISION] and path:DIR'),
        ('source = "hub:a/b/c"', 'model.source: "hub:a/b/c": a model has no configuration or split, only '
         "hub:ID[@REVISION]"),
    ],
)
def test_where_an_encoder_comes_from(folder: Any, source: str, told: str) -> None:
    changes = (('size = "TINY"\nN = 2', f'family = "hub"\n{source}'), PLAIN[1],
               ('[[stages]]\nkind = "pretrain"\nsteps = 100\nwarmup_steps = 10\n', ""))
    assert folder.refusal(folder.changed(*changes)).partition(": ")[2] == told
    fine = folder.changed(('size = "TINY"\nN = 2', 'family = "hub"\nsource = "path:encoder"'), *changes[1:])
    assert folder.load(fine).recipe.model.source == "path:encoder"


@pytest.mark.parametrize(
    ("family", "old", "new", "told"),
    [
        ("bert", 'tasks = ["topic"]', 'tasks = ["topic"]\nretrieval_rate = 0.1', "stages.finetune.retrieval_rate: "
         "there is nothing to retrieve: a plain encoder reads one text\n    leave it out, or take N = 2 and more"),
        ("electra", "steps = 100", "steps = 100\nretrieval_rate = 0.1", "stages.pretrain.retrieval_rate: plain ELECTRA "
         "has no head that decodes tokens\n    leave it out"),
        ("electra", 'kind = "pretrain"', 'kind = "retrieval"', "stages.retrieval.kind: plain ELECTRA has no head that "
         'decodes tokens\n    drop = ["retrieval"]'),
    ],
)
def test_plain_models_that_retrieve(folder: Any, family: str, old: str, new: str, told: str) -> None:
    def text(model: str) -> str:
        return folder.changed(("N = 2", f'{model}\nfamily = "{family}"'), PLAIN[1], (old, new))

    assert folder.refusal(text("N = 1")).partition(": ")[2] == told
    assert folder.load(text("N = 2"))
    assert folder.load(text('N = 1\ncompat = "princeton"'))  # published N = 1 is multiplexed
