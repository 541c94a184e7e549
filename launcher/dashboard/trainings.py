"""The panel of a fine-tuning stage's trainings: a table that fills, tasks by points of the search and seeds."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from launcher.dashboard.figures import clean, fraction, percent, short
from launcher.dashboard.rows import ACCENT, BAD, DIM, GOOD, Block, Column, padded, panel, table
from launcher.dashboard.state import Stage, Training, TrainingStatus

Place = tuple[float | None, int | None, int | None]  # learning rate, batch, seed
Tasks = dict[str, dict[Place, Training]]


def trainings_panel(stage: Stage, width: int, limit: int) -> Block:
    """A row a task, those first that are not done where there is room for `limit` of them only.

    A column a point and seed; where these do not fit, the numbers of trainings that are done, running and so on.
    """
    tasks: Tasks = {}
    for one in stage.trainings.values():
        tasks.setdefault(one.task, {})[one.learning_rate, one.batch, one.seed] = one
    order = sorted(tasks, key=lambda task: all(one.status == "done" for one in tasks[task].values()))
    shown = {task: tasks[task] for task in tasks if task in order[:limit]}
    places = list(dict.fromkeys(place for row in tasks.values() for place in row))
    columns = _by_place(shown, places) if len(places) > 1 else _one_each(shown)
    if sum(column.width + 2 for column in columns) - 2 > width - 4:
        columns = _by_status(shown)
    rows = table(columns, width - 4)
    if len(shown) < len(tasks):
        rows.append(Text(f"… {len(tasks) - len(shown)} more tasks", DIM))
    running = f", {stage.number('running')} running" if stage.number("running") else ""
    failed = f", {stage.number('failed')} failed" if stage.number("failed") else ""
    title = f"trainings of {clean(stage.id)}: {stage.number('done')} of {len(stage.trainings)} done{running}{failed}"
    return panel(title, [padded(row, width - 4) for row in rows], width)


def _by_place(tasks: Tasks, places: Sequence[Place]) -> list[Column]:
    """Headed by what tells the columns apart, a line each of learning rate, batch and seed."""
    kinds = [(kind, [f"{value:g}" if isinstance(value, float) else str(value) for value in values])
             for kind, values in zip(("learning rate", "batch", "seed"), zip(*places, strict=True), strict=True)
             if len(set(values)) > 1]
    (kind, headers), *more = kinds
    names = Column(kind, [*(Text(kind, DIM) for kind, _ in more), *_names(tasks)], worth=9)
    return [names, *(Column(
        headers[index], [*(Text(values[index], DIM) for _, values in more),
                         *(_cell(row.get(place), row) for row in tasks.values())], right=True, worth=8)
        for index, place in enumerate(places))]


def _names(tasks: Tasks) -> list[Text]:
    return [Text(clean(task)) for task in tasks]


def _one_each(tasks: Tasks) -> list[Column]:
    """Tasks with one training each: more about it."""
    ones = [one for row in tasks.values() for one in row.values()]
    running = [one.status == "running" for one in ones]
    return [
        Column("task", _names(tasks), worth=9),
        Column("score", [_cell(one, {}) for one in ones], right=True, worth=8),
        Column("loss", [Text(short(one.loss) if now else "") for one, now in zip(ones, running, strict=True)], True, 5),
        Column("rank", [Text(f"{one.device[1]} on {clean(one.device[0])}" if now else "", DIM)
                        for one, now in zip(ones, running, strict=True)], worth=3),
    ]


def _by_status(tasks: Tasks) -> list[Column]:
    statuses: tuple[TrainingStatus, ...] = ("done", "running", "waiting", "failed")
    numbers = [[sum(one.status == status for one in row.values()) for row in tasks.values()] for status in statuses]
    best = [max(_scores(row), default=None) for row in tasks.values()]
    return [
        Column("task", _names(tasks), worth=9),
        *(Column(status, [Text(str(number or "")) for number in of_tasks], right=True, worth=7 - index)
          for index, (status, of_tasks) in enumerate(zip(statuses, numbers, strict=True))),
        Column("best", [Text("" if score is None else fraction(score), "bold") for score in best], right=True, worth=8),
    ]


def _cell(one: Training | None, row: dict[Place, Training]) -> Text:
    """A dot, a share of the steps, or a score, the best of its row so far standing out."""
    if one is None:
        return Text()
    if one.status == "done":
        best = max(_scores(row), default=None)
        return Text(fraction(one.score), f"bold {GOOD}" if one.score == best else GOOD)
    if one.status == "failed":
        return Text("✗", BAD)
    share = percent(one.step / one.steps) if one.steps > 0 else percent(0)
    return Text(share, ACCENT) if one.status == "running" else Text(share if one.step else "·", DIM)


def _scores(row: dict[Place, Training]) -> list[float]:
    return [one.score for one in row.values() if one.score is not None]
