"""The paper's tables with our numbers in them, the difference, and what would fill an empty row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mux.report.measures import Measured, measured, tasks_of, title
from mux.report.paper import Column, PaperModel, PaperTable, Row, paper
from mux.report.results import Run
from mux.report.standing import Standing, few_tickets, standings, timing
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


@dataclass(frozen=True)
class Ours:
    """Our number of a cell (percent, or times BERT BASE), or what it lacks."""

    number: Measured | None = None
    lack: str = ""
    run: str = ""  # its label; of a throughput, which may be any run's, none
    note: str = ""


def _row(table: PaperTable, row: Row, runs: Sequence[Run]) -> list[Cell]:
    """Each number is that of the first run that has it as the paper took it."""
    model = paper().models[row.model]
    order = standings(model, runs)
    cells, found = [], []
    for column, value in zip(table.columns, row.values, strict=True):
        decimals = column.decimals or table.decimals
        ours = _timed(model, runs) if column.statistic == "ratio" else _ours(column, decimals, model, order)
        cells.append(_cell(column, value, decimals, ours))
        found += [ours] if value is not None else []
    keys = [Cell(str(key), float(key) if isinstance(key, int | float) else None) for key in row.keys]
    return [*keys, *cells, text(_source(model, order, found))]


def _cell(column: Column, value: float | list[float] | None, decimals: int, ours: Ours) -> Cell:
    printed, std = value if isinstance(value, list) else (value, None)
    plus = "+" if column.statistic == "gain" else ""
    times = "×" if column.statistic == "ratio" else ""
    theirs = "" if printed is None else f"{printed:{plus}.{decimals}f}{times}{'' if std is None else f' ±{std}'}"
    if ours.number is None:
        return Cell(NONE, None, theirs, printed, note=ours.lack)
    rounded = round(ours.number.value, decimals)
    error = "" if ours.number.std is None or std is None else f" ±{ours.number.std:.1f}"
    difference = None if printed is None else round(rounded - printed, decimals) + 0.0
    neutral = column.statistic in ("range", "gain") or not difference
    return Cell(f"{rounded:{plus}.{decimals}f}{times}{error}".replace("-", MINUS), ours.number.value, theirs, printed,
                "" if difference is None else f"{difference:+.{decimals}f}".replace("-", MINUS),
                None if neutral or difference is None else difference > 0, ours.note)


def _timed(model: PaperModel, runs: Sequence[Run]) -> Ours:
    row = timing(model, runs)
    if row is None or row.ratio_to_bert_base is None:
        return Ours(lack="throughput")
    return Ours(Measured(row.ratio_to_bert_base),
                note=f"{row.device}, {row.dtype}, {row.trials} x {row.batches} batches of {row.batch}")


def _ours(column: Column, decimals: int, model: PaperModel, order: Sequence[Standing]) -> Ours:
    found = [_of_run(column, decimals, model, standing) for standing in order]
    return next((ours for ours in found if ours.number), found[0] if found else Ours())


def _of_run(column: Column, decimals: int, model: PaperModel, standing: Standing) -> Ours:
    if standing.why_not:
        return Ours(lack=standing.why_not)
    name, tasks = column.task or "", tasks_of(column.task or "")
    if absent := [task for task in tasks if task not in standing.tuned]:
        return Ours(lack=", ".join(standing.lacks.get(task, title(task)) for task in absent))
    alone = {task: standing.tuned[task].scores for task in tasks}
    copied = {task: scores for task in tasks for copies, of in standing.run.results.copied(standing.tuned[task].stage)
              if copies == model.N and (scores := of.get(task)) and not few_tickets(scores, model)}
    terms = {"gain": ((copied, "mean"), (alone, "mean")), "range": ((alone, "max"), (alone, "min"))}.get(
        column.statistic, ((copied if column.copies == "N" else alone, column.statistic),))
    numbers = [measured(name, statistic, scores) for scores, statistic in terms]
    known = [number for number in numbers if number]
    if len(known) < len(numbers):
        lack = f"ensemble of {model.N} copies" if measured(name, "mean", alone) else "the measure"
        return Ours(lack=lack)
    if len(known) == 2:  # of what is shown, as in the paper
        known = [Measured(round(known[0].value, decimals) - round(known[1].value, decimals))]
    return Ours(known[0], "", standing.run.label, f"{standing.run.label}, {len(alone[tasks[0]].tickets)} tickets")


def _source(model: PaperModel, order: Sequence[Standing], found: Sequence[Ours]) -> str:
    """The runs whose numbers these are and what is lacking, or the command that fills the row."""
    if model.recipe is None:
        return "no recipe: docs/baselines.md says why"
    command = f"mux-launch {model.recipe}"
    if not order:
        return command
    first = order[0]
    if first.why_not:
        return f"{first.run.label}: {first.why_not}; {command}"
    labels = ", ".join(dict.fromkeys(ours.run for ours in found if ours.run)) or first.run.label
    missing = dict.fromkeys(ours.lack for ours in found if ours.lack)
    return f"{labels}; lacks {', '.join(missing)}" if missing else labels
