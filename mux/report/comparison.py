"""The paper's tables with our numbers in them, the difference, and what would fill an empty row."""

from __future__ import annotations

from collections.abc import Sequence

from mux.report.measures import Measured, measured, tasks_of, title
from mux.report.paper import Column, PaperModel, PaperTable, Row, Standing, few_steps, paper, standings, timing
from mux.report.results import Run
from mux.report.tables import MINUS, NONE, Cell, Table, text

SOURCES = "our run, or what fills the row"


def paper_tables(runs: Sequence[Run]) -> list[Table]:
    return [compare(name, table, runs) for name, table in paper().tables.items()]


def compare(name: str, table: PaperTable, runs: Sequence[Run]) -> Table:
    """A table of the paper: in each cell our number, the paper's, and ours less the paper's."""
    rows = [_row(table, row, runs) for row in table.rows]
    cells = [cell for row in rows for cell in row if cell.paper]
    filled = sum(cell.value is not None for cell in cells)
    return Table(f"table_{name}", f"Table {name}: {table.title}",
                 [*table.keys, *(column.label for column in table.columns), SOURCES], rows,
                 note=f"{filled} of {len(cells)} numbers have one of ours beside them.", folded=True)


def _row(table: PaperTable, row: Row, runs: Sequence[Run]) -> list[Cell]:
    model = paper().models[row.model]
    standing = next(iter(standings(model, runs)), None)
    cells, missing = [], []
    for column, value in zip(table.columns, row.values, strict=True):
        cell, lack = _cell(column, value, column.decimals or table.decimals, model, standing, runs)
        cells.append(cell)
        missing += [lack] if lack and value is not None else []
    keys = [Cell(str(key), float(key) if isinstance(key, int | float) else None) for key in row.keys]
    return [*keys, *cells, text(_source(model, standing, list(dict.fromkeys(missing))))]


def _cell(column: Column, value: float | list[float] | None, decimals: int, model: PaperModel,
          standing: Standing | None, runs: Sequence[Run]) -> tuple[Cell, str]:
    """The cell, and what our side of it lacks."""
    ours, lack, note = _ours(column, model, standing, runs)
    printed, std = value if isinstance(value, list) else (value, None)
    plus = "+" if column.statistic == "gain" else ""
    times = "×" if column.statistic == "ratio" else ""
    theirs = "" if printed is None else f"{printed:{plus}.{decimals}f}{times}{'' if std is None else f' ±{std}'}"
    if ours is None:
        return Cell(NONE, None, theirs, printed, note=lack), lack
    rounded = round(ours.value, decimals)
    error = "" if ours.std is None or std is None else f" ±{ours.std:.1f}"
    difference = None if printed is None else round(rounded - printed, decimals) + 0.0
    neutral = column.statistic in ("range", "gain") or not difference
    return Cell(f"{rounded:{plus}.{decimals}f}{times}{error}".replace("-", MINUS), ours.value, theirs, printed,
                "" if difference is None else f"{difference:+.{decimals}f}".replace("-", MINUS),
                None if neutral or difference is None else difference > 0, note), ""


def _ours(column: Column, model: PaperModel, standing: Standing | None,
          runs: Sequence[Run]) -> tuple[Measured | None, str, str]:
    """Our number (percent, or times BERT BASE), what it lacks, and where it is from."""
    if column.statistic == "ratio":
        row = timing(model, runs)
        if row is None or row.ratio_to_bert_base is None:
            return None, "throughput", ""
        return (Measured(row.ratio_to_bert_base), "",
                f"{row.device}, {row.dtype}, {row.trials} x {row.batches} batches of {row.batch}")
    if standing is None or standing.why_not:
        return None, "" if standing is None else standing.why_not, ""
    run, tasks = standing.run, tasks_of(column.task or "")
    if absent := [task for task in tasks if task not in run.tuned]:
        return None, ", ".join(map(title, absent)), ""
    if short := [reason for task in tasks if (reason := few_steps(run, task))]:
        return None, "; ".join(short), ""
    copied = {task: scores for stage in run.stages("ensemble") for copies, entry in stage.copies.items()
              if copies == str(model.N) for task, scores in entry.tasks.items()}
    one, many = (measured(column.task or "", "mean" if column.statistic == "gain" else column.statistic, scores)
                 for scores in (run.tuned, copied))
    if column.statistic == "gain":
        ours = Measured(many.value - one.value) if one and many else None
    else:
        ours = many if column.copies == "N" else one
    lack = f"ensemble of {model.N} copies" if one else "the measure"
    return ours, "" if ours else lack, f"{run.label}, {len(run.tuned[tasks[0]].tickets)} tickets"


def _source(model: PaperModel, standing: Standing | None, missing: list[str]) -> str:
    """The run whose numbers these are and what it lacks, or the command that fills the row."""
    if model.recipe is None:
        return "no recipe: docs/baselines.md says why"
    command = f"mux-launch {model.recipe}"
    if standing is None:
        return command
    if standing.why_not:
        return f"{standing.run.label}: {standing.why_not}; {command}"
    return f"{standing.run.label}; lacks {', '.join(missing)}" if missing else standing.run.label
