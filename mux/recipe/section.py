"""A table of a recipe as a pydantic model, and the types of its values."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

LIMIT = 10**12  # no count of anything here is larger; below it the plan's floats cannot overflow

Text = Annotated[str, Field(min_length=1, pattern=r"^\P{Cc}+$")]  # no control characters: it is printed
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.,:+\-]{0,99}$")]  # of a scheduler's partition, account
Count = Annotated[int, Field(ge=1, le=LIMIT)]
Natural = Annotated[int, Field(ge=0, le=LIMIT)]
Length = Annotated[int, Field(ge=8, le=LIMIT)]  # of a row, in tokens
Rate = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # of a moving average: 1 would never move
Beside = Annotated[float, Field(ge=0, lt=1)]  # share of a loss beside another, which does not vanish
Seconds = Annotated[float, Field(ge=5, le=2_592_000)]  # of patience, up to 30 days: less ends every run at once
Positive = Annotated[float, Field(gt=0)]

# TOML arrays become tuples; their items stay strict.
Texts = Annotated[tuple[Text, ...], Field(strict=False)]
Counts = Annotated[tuple[Count, ...], Field(strict=False)]
Naturals = Annotated[tuple[Natural, ...], Field(strict=False)]
Positives = Annotated[tuple[Positive, ...], Field(strict=False)]

SizeName = Literal["TINY", "SMALL", "BASE", "LARGE"]
MultiplexerName = Literal["gaussian", "contextual", "contextual_v1", "orthogonal", "orthogonal_low_rank", "binary"]
DemultiplexerName = Literal["rsa", "prefix"]
CompositionName = Literal["random", "length", "similar", "dissimilar"]


class Section(BaseModel):
    """Strict (no string for a number, no bool for an int), frozen, without unknown keys, NaN or infinity."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True
    )
