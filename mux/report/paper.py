"""The paper's numbers and its protocol (paper.json)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

DATA = Path(__file__).with_name("paper.json")


class Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Source(Facts):
    title: str
    authors: str
    identifier: str
    note: str


class Column(Facts):
    """`task` is a task or an average; `copies` = "N": every text in all slots."""

    label: str
    task: str | None = None
    statistic: Literal["mean", "max", "min", "range", "gain", "ratio"]
    copies: Literal["N"] | None = None
    decimals: int | None = None  # else the table's


class Row(Facts):
    keys: list[str | int | float]
    model: str
    values: list[float | list[float] | None]  # two: mean and standard deviation


class PaperTable(Facts):
    title: str
    decimals: int
    keys: list[str]
    columns: list[Column]
    rows: list[Row]


class PaperModel(Facts):
    """A model of the paper; `pretrained` false: the retrieval stage is all that comes before fine-tuning (T-MUX)."""

    name: str
    family: str
    source: str | None = None
    size: str | None = None
    N: int
    multiplexer: str | None = None
    demultiplexer: str | None = None
    retrieval_rate: float = 0.0
    pretrained: bool = True
    recipe: str | None

    @property
    def stages(self) -> tuple[str, ...]:
        """The kinds of the stages that train it before fine-tuning, the last one first (section 3)."""
        return (*(("pretrain",) if self.pretrained else ()),
                *(("retrieval",) if self.N > 1 or not self.pretrained else ()))

    def same_network(self, family: str | None, source: str | None, size: str | None, N: int, multiplexer: str | None,
                     demultiplexer: str | None) -> bool:
        """Whether a model is built like this one; at N = 1 nothing is multiplexed."""
        if self.family == "hub":
            return family == "hub" and (source or "").split("@")[0] == self.source
        if (family, size, N) != (self.family, self.size, self.N):
            return False
        return N == 1 or (multiplexer, demultiplexer) == (self.multiplexer, self.demultiplexer)


class Paper(Facts):
    source: Source
    protocol: dict[str, dict[str, Any]]
    instances_per_second: dict[str, Any]
    models: dict[str, PaperModel]
    tables: dict[str, PaperTable]


@cache
def paper() -> Paper:
    return Paper.model_validate_json(DATA.read_text(encoding="utf-8"))
