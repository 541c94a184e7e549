"""What the published code does differently from head to head: values, read only where a departure is switched off.

Facts of numerics sections 1.1, 1.2, 1.4 and 1.6. The ids are those of bert-base-uncased, fixed in the published code.
"""

from __future__ import annotations

from dataclasses import dataclass

CLS_ID = 101  # put at position 0 of every row
PREFIX_PAD_ID = 680  # in a prefix where no marker is
FIRST_MARKER_ID = 678  # slot i is marked by FIRST_MARKER_ID - i


@dataclass(frozen=True)
class Reading:
    """How a head's class treats its rows under the published numerics."""

    overwrites_first: bool = False  # puts CLS_ID at position 0 (RSA only)
    hides_across: bool = False  # hides padding where instances attend to each other
    embeds_segments: bool = False
    cuts_rows: bool = False  # a prefix pushes the row's last tokens out, where there are labels
    retrieves_everything: bool = False  # padding and prefixes are among the retrieved too
    retrieves_first: bool = True  # position 0 is among the retrieved


READINGS = {
    ("bert", "pretraining"): Reading(
        overwrites_first=True, embeds_segments=True, cuts_rows=True, retrieves_everything=True),
    ("bert", "sequence"): Reading(overwrites_first=True, hides_across=True),
    ("bert", "tokens"): Reading(overwrites_first=True),
    ("electra", "pretraining"): Reading(
        overwrites_first=True, embeds_segments=True, cuts_rows=True, retrieves_everything=True),
    ("electra", "sequence"): Reading(hides_across=True, retrieves_first=False),
    ("electra", "tokens"): Reading(),
}
