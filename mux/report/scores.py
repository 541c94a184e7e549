"""What evaluations and trainings say in results.json, as pydantic models, and the types of their untrusted values."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

# What XML, or UTF-8, cannot hold, and what changes the order of letters on a page.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def finite(value: Any) -> Any:
    """A number that is NaN or infinite was not measured."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def inert(text: str) -> str:
    """The text without what a terminal or a reader would be misled by, and what no file of the report can hold."""
    return CONTROL.sub("\ufffd", text)


String = Annotated[str, AfterValidator(inert)]
Number = Annotated[float | None, BeforeValidator(finite)]
Natural = Annotated[int | None, BeforeValidator(finite)]


class Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class Spread(Entry):
    """A measure over tickets: mean, standard deviation of the sample, extremes."""

    mean: Number = None
    std: Number = None
    max: Number = None
    min: Number = None


class Curve(Entry):
    step: list[int] = []
    loss: list[Number] = []
    accuracy: list[Number] = []


class Confusion(Entry):
    labels: list[String]
    counts: list[list[int]]  # rows: truth, columns: prediction


class Slot(Entry):
    slot: int
    score: Number
    count: int


class Companions(Entry):
    changed: Number = None
    same_slot: Number = None


class Bin(Entry):
    confidence: Number
    accuracy: Number
    count: int


class Calibration(Entry):
    error: Number = None
    bins: list[Bin] = []


class Diagnostics(Entry):
    confusion: Confusion | None = None
    slots: list[Slot] = []
    slot_p: Number = None
    companions: Companions | None = None
    calibration: Calibration | None = None


class Part(Spread):
    """Scores of one set of rows."""

    metric: String
    tickets: list[Number] = []
    majority: Number = None
    others: dict[String, Spread] = {}
    test_rows: Natural = None

    def measure(self, name: str) -> Spread | None:
        """The measure of this name; None if it was not taken."""
        return self if name == self.metric else self.others.get(name)


class Choice(Entry):
    """The point of a search grid that was kept, and the rows it was chosen on (null: there was one point)."""

    learning_rate: Number = None
    batch: Natural = None
    on: String | None = None


class Scores(Part):
    """One evaluated model on one task."""

    words: bool = False  # whether each word has an answer, else each row
    also: dict[String, Part] = {}
    instances_per_second: Number = None
    padding: Number = None
    diagnostics: Diagnostics = Diagnostics()
    steps: Natural = None  # and what follows: of a fine-tuned model
    training_loss: Number = None
    curve: Curve = Curve()
    profile: dict[String, Number] = {}
    seeds: dict[String, Number] = {}
    chosen: Choice = Choice()
    search: list[Any] = []


class Evaluated(Entry):
    tasks: dict[String, Scores] = {}
