"""Recorded predictions: a Parquet file with a row for every ticket and test row, or word, from which every score of
results.json can be computed again.

Columns: part ("test", or a name of `also`), ticket, row, word (-1 of whole texts), slot (1 .. N, 0 with several
copies), label, prediction (names of classes, "" for a word that was cut away; or numbers), confidence (null if none).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mux.data.diagnostics import Predictions
from mux.data.metrics import MISSING
from mux.run import write_bytes

SUFFIX = ".parquet"


def read_predictions(path: Path) -> pd.DataFrame:
    """The file as it was written, in its order: part after part, ticket after ticket, row after row."""
    return pq.read_table(path).to_pandas()


def write_predictions(path: Path, parts: Mapping[str, Predictions]) -> None:
    """The file whole or not at all, with mode 0600."""
    table = pa.concat_tables([_table(name, made) for name, made in parts.items()])
    content = pa.BufferOutputStream()
    pq.write_table(table, content)
    write_bytes(path, content.getvalue())


def _table(part: str, made: Predictions) -> pa.Table:
    tickets, answers = made.answers.shape
    of_row = np.arange(answers) - np.repeat(made.starts, np.diff(np.append(made.starts, answers)))
    words = of_row if made.of_words else np.full(answers, -1)
    return pa.table({
        "part": pa.array([part], pa.string()).take(pa.array(np.zeros(tickets * answers, dtype=np.int64))),
        "ticket": np.repeat(np.arange(tickets, dtype=np.int16), answers),
        "row": np.tile(made.rows.astype(np.int32), tickets),
        "word": np.tile(words.astype(np.int32), tickets),
        "slot": made.slots.astype(np.int16).ravel(),
        "label": _values(np.tile(made.labels, tickets), made.names),
        "prediction": _values(made.answers.ravel(), made.names),
        "confidence": pa.array(made.confidence.astype(np.float32).ravel(), from_pandas=True),  # NaN is null
    })


def _values(values: np.ndarray, names: tuple[str, ...]) -> pa.Array:
    """Names of classes, or the numbers themselves with all their digits."""
    if not names:
        return pa.array(values.astype(np.float64))
    return pa.array([*names, ""], pa.string()).take(pa.array(np.where(values == MISSING, len(names), values)))
