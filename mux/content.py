"""What the fields of an event may hold: nothing on the way out that must not be said, nothing on the way in that its
type does not say. Files of events are read by programs that must not fail for a line that someone else has written.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from mux.secrets import redacted

LIMIT = 2**63  # of whole numbers: floats and dates can be made of them

Whole = Annotated[int, Field(gt=-LIMIT, lt=LIMIT)]


class Row(BaseModel):
    """A table inside an event. Of its keys some are known, and readers ignore the others."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class HostRow(Row):
    name: str
    ranks: list[Whole]


class TrainingRow(Row):
    name: str
    task: str
    seed: Whole | None = None
    learning_rate: float | None = None
    batch: Whole | None = None
    steps: Whole = 0
    done: bool = False


class StageRow(Row):
    id: str
    kind: str = ""
    steps: Whole | None = None
    done: bool = False
    trainings: list[TrainingRow] = []


# Field -> what is in it, where Python's annotation does not say. Of floats all but times may be null: JSON has no NaN.
_ROWS: dict[tuple[str, Any], Any] = {
    ("hosts", list[dict[str, Any]]): list[HostRow],
    ("stages", list[dict[str, Any]]): list[StageRow],
}
_TYPES: dict[Any, Any] = {int: Whole, int | None: Whole | None, float: float | None}


@cache
def _model(kind: type) -> type[BaseModel]:
    """A dataclass as pydantic checks it."""
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in fields(kind)}
    types = {name: _ROWS.get((name, hint)) or _TYPES.get(hint, hint) for name, hint in known.items()}
    return create_model(kind.__name__, __base__=Row, **{  # type: ignore[call-overload, no-any-return]
        name: (hint, None) for name, hint in (types | {"time": float}).items()})


def checked(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Of `values` those that the dataclass `kind` has fields for. Raises ValueError for one of another type."""
    return _model(kind).model_validate(values).model_dump(exclude_unset=True)


def sayable(value: Any) -> Any:
    """A value without secrets; what JSON has no word for is null."""
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {key: sayable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [sayable(item) for item in value]
    return value
