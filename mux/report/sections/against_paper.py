"""The paper's tables with ours beside."""

from __future__ import annotations

from collections.abc import Sequence

from mux.report.comparison import paper_tables
from mux.report.paper import paper
from mux.report.results import Run
from mux.report.section import Section


def section(runs: Sequence[Run]) -> Section:
    source, timed = paper().source, paper().protocol["throughput"]
    return Section(
        "paper", "The paper's tables, and ours beside",
        f"In each cell: ours; the paper's; ours less the paper's. Paper: {source.authors}: {source.title} "
        f"({source.identifier}). Only models of the paper that were trained and evaluated as it did, in finished "
        "runs, stand here; throughput, which does not depend on training, from any run that measured it as the paper "
        "did, in batches of "
        f"{timed['batch']} texts of {timed['sequence_length']} tokens (the paper on one {timed['device']}). The last "
        "column says which run it is, or what would fill the row.", "", tables=paper_tables(runs))
