"""[model] says of a model what `mux.model.MuxConfig` says, which the launcher may not import."""

from __future__ import annotations

from typing import Any

import pytest

from mux.model.config import DEPARTURES, FAMILIES, MuxConfig
from mux.model.demultiplexer import PUBLISHED, SHARED
from mux.model.multiplexer import MULTIPLEXERS
from mux.model.published import CLS_ID, FIRST_MARKER_ID, PREFIX_PAD_ID
from mux.recipe import Departures, ModelSection, model_checks


def options(key: str) -> tuple[str, ...]:
    """What a key of [model] may be."""
    return ModelSection.model_fields[key].annotation.__args__  # type: ignore[union-attr]


def test_the_same_names() -> None:
    assert tuple(Departures.model_fields) == (*DEPARTURES, "discriminator_weight")
    assert options("multiplexer") == tuple(MULTIPLEXERS)
    assert options("demultiplexer") == tuple(SHARED) == tuple(PUBLISHED)
    assert options("family") == (*FAMILIES, "hub")


def test_the_same_published_ids() -> None:
    assert (model_checks.PUBLISHED_CLS, model_checks.PUBLISHED_MARKERS, model_checks.PUBLISHED_FILLER) == (
        CLS_ID, FIRST_MARKER_ID, PREFIX_PAD_ID)


@pytest.mark.parametrize("compat", [None, "princeton"])
@pytest.mark.parametrize("departures", [
    {}, *({name: value} for name in DEPARTURES for value in (True, False)),
], ids=str)
@pytest.mark.parametrize("N", [1, 2, 5])
def test_the_same_meaning(N: int, departures: dict[str, Any], compat: str | None) -> None:
    section = ModelSection.model_validate(
        {"N": N, "compat": compat, "demultiplexer": "prefix", "departures": departures})
    config = MuxConfig(num_instances=N, compat=compat, demultiplexer="prefix", **departures)
    for name in DEPARTURES:
        assert section.departs(name) == getattr(config, name)
    for name in ("multiplexed", "prefix_length", "marker_ids"):
        assert getattr(section, name) == getattr(config, name), name


@pytest.mark.parametrize(("compat", "pretraining", "positions"), [
    (None, True, 66), (None, False, 66), ("princeton", True, 64), ("princeton", False, 67),
])
def test_positions_that_the_real_model_reads(compat: str | None, pretraining: bool, positions: int) -> None:
    import torch

    from mux.model import MuxForPreTraining, MuxForSequenceClassification

    section = ModelSection.model_validate({"N": 2, "compat": compat, "demultiplexer": "prefix"})
    assert section.positions(64, pretraining=pretraining) == positions
    config = MuxConfig.from_size("TINY", num_instances=2, compat=compat, demultiplexer="prefix", vocab_size=700)
    kind: Any = MuxForPreTraining if pretraining else MuxForSequenceClassification
    ids = torch.randint(5, 600, (2, 64))
    labels = ids if pretraining else torch.zeros(2, dtype=torch.long)
    states = kind(config)(ids, torch.ones_like(ids), labels=labels, output_hidden_states=True).hidden_states
    assert states[-1].shape[1] == positions
