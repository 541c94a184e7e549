"""From which checkpoints a training can go on, when ranks or the ZeRO stage are not what they were."""

from __future__ import annotations

from mux.manifest import Identity, differing

# Optimizer states of these ZeRO stages become each other's, on any number of ranks. DeepSpeed knows no way between
# these families: stage 0 keeps whole states, 1 and 2 flatten groups of parameters, 3 cuts each parameter by itself.
FAMILIES = (frozenset({0}), frozenset({1, 2}), frozenset({3}))
MAY_DIFFER = {"world_size", "zero_stage"}


def obstacle(there: Identity, here: Identity) -> str | None:
    """Why a training cannot go on from a checkpoint, in words; None: it can."""
    differences = differing(there, here)
    for name, (was, is_now) in differences.items():
        if name not in MAY_DIFFER:
            return f"it was saved with {name} = {was!r}, this run has {is_now!r}"
    if differences and _family(there) != _family(here):
        return f"what ZeRO {there.zero_stage} has saved cannot become ZeRO {here.zero_stage}'s"
    return None


def must_be_converted(there: Identity, here: Identity) -> bool:
    """Whether the shards, which `here` can go on from, are cut for other ranks. Whole states fit as they are."""
    return bool(differing(there, here)) and there.zero_stage != 0


def in_words(there: Identity, here: Identity) -> str:
    """What changes: "resized from 4 to 2 ranks, ZeRO 1 to 2"."""
    changes = []
    if there.world_size != here.world_size:
        changes.append(f"{there.world_size} to {here.world_size} rank{'s' if here.world_size > 1 else ''}")
    if there.zero_stage != here.zero_stage:
        changes.append(f"ZeRO {there.zero_stage} to {here.zero_stage}")
    return f"resized from {', '.join(changes)}"


def _family(identity: Identity) -> frozenset[int]:
    return next(family for family in FAMILIES if identity.zero_stage in family)
