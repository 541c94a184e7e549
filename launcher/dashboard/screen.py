"""The dashboard on a terminal: a rich renderable made from a `State`, at any width from 20 columns on.

Text that comes from a recipe, a host or an error only ever enters as `Text` made from `clean` strings: it is
never read as markup or as a terminal escape. Every row is one line: the height is known before drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launcher.dashboard.figures import (
    clean,
    clock,
    count,
    decimal,
    duration,
    fraction,
    interval,
    percent,
    rate,
    short,
)
from launcher.dashboard.hosts import hosts_panel
from launcher.dashboard.rows import (
    ACCENT,
    BAD,
    DIM,
    GOOD,
    WARNING,
    Block,
    Column,
    bar,
    chart,
    ends,
    padded,
    panel,
    table,
)
from launcher.dashboard.sentences import outcome, spread
from launcher.dashboard.state import Stage, State, Work
from launcher.dashboard.trainings import trainings_panel
from mux import event as events

SIDE_BY_SIDE = 76  # columns from which training and speed stand beside each other

STATUS = {
    "waiting": ("○", DIM),
    "running": ("●", ACCENT),
    "done": ("✓", GOOD),
    "finished": ("✓", GOOD),
    "stopped": ("■", WARNING),
    "failed": ("✗", BAD),
}
LEVEL = {"info": "", "good": GOOD, "warning": WARNING, "error": BAD}


@dataclass(frozen=True)
class Limits:
    """The most rows of each list."""

    stages: int
    hosts: int
    evaluations: int
    latest: int
    trainings: int  # tasks of them
    training: int = 2  # panels, where training and speed are one above the other


# From all that one may want to see down to the least; the first that fits the height is taken.
FITS = (
    Limits(16, 16, 12, 8, 20), Limits(10, 8, 8, 6, 12), Limits(7, 6, 6, 4, 8), Limits(5, 4, 4, 3, 6),
    Limits(5, 3, 0, 3, 4), Limits(3, 2, 0, 2, 3), Limits(3, 0, 0, 2, 2), Limits(3, 2, 0, 0, 3, training=1),
    Limits(1, 0, 0, 0, 2, training=1), Limits(1, 0, 0, 0, 0, training=0),
)


def render(state: State, now: float, width: int, height: int | None = None) -> RenderableType:
    """The dashboard at `width` columns; with `height`, lists are shortened and panels left out to fit it.

    `now` is the reader's clock, the one on which `fold` was told when ranks were seen.
    """
    width = max(width, 20)
    for limits in FITS:
        blocks = _blocks(state, now, width, limits)
        if height is None or sum(block.lines for block in blocks) <= height:
            break
    return Group(*(block.content for block in blocks))


def _blocks(state: State, now: float, width: int, limits: Limits) -> list[Block]:
    blocks = [_run(state, now, width, limits.stages)]
    stage = state.stage
    if stage is not None and stage.last is not None:
        blocks += _training(stage, stage.last, width)[: limits.training]
    if state.tabled is not None and limits.trainings:
        blocks.append(trainings_panel(state.tabled, width, limits.trainings))
    if state.hosts and limits.hosts:
        blocks.append(hosts_panel(state, now, width, limits.hosts))
    if state.evaluations and limits.evaluations:
        blocks.append(_evaluations(state, width, limits.evaluations))
    if state.latest and limits.latest:
        blocks.append(_latest(state, width, limits.latest))
    return blocks


# --- the run and its stages -------------------------------------------------------------------------------
def _run(state: State, now: float, width: int, limit: int) -> Block:
    room = width - 4
    symbol, colour = STATUS[state.status]
    elapsed = None if state.started is None else (state.time if state.ended else now) - state.started
    status = Text.assemble((f"{symbol} {state.status}", colour), f"  {duration(elapsed)}")
    about = Text(clean(state.model))
    order = list(state.stages)
    if state.current is not None and len(order) > 1 and room >= 56:
        about.append(f"  stage {order.index(state.current) + 1} of {len(order)}", DIM)
    rows = [ends(about, status, room)]
    if state.reason:
        rows.append(padded(Text(clean(state.reason), colour), room))
    shown = _around(order, state.current, limit)
    name = min(max((Text(clean(id)).cell_len for id in shown), default=0), room // 3)
    work = None if state.stage and state.stage.number("running") > 1 else state.work  # one of many
    for id in shown:
        rows.append(_stage(state.stages[id], name, room))
        if work is not None and id == state.current:
            rows.append(_work(work, room))
    if work is not None and state.current not in shown:
        rows.append(_work(work, room))
    if len(shown) < len(order):
        rows.append(padded(Text(f"… {len(order) - len(shown)} more stages", DIM), room))
    return panel(clean(state.name) or "run", rows, width)


def _around(order: list[str], current: str | None, limit: int) -> list[str]:
    """At most `limit` stages, the current one and the one before it among them."""
    at = order.index(current) if current in order else 0
    first = max(0, min(at - (limit > 1), len(order) - limit))
    return order[first: first + limit]


def _stage(stage: Stage, name: int, width: int) -> Text:
    """`● pretrain  ━━━━━━━━━━─────────  320 / 800  40 %  eta 0:34`, or what a stage that is done achieved."""
    symbol, colour = STATUS[stage.status]
    label = padded(Text(clean(stage.id), "" if stage.status != "waiting" else DIM), name)
    row = Text.assemble((f"{symbol} ", colour), label, "  ")
    room = width - row.cell_len
    if stage.status == "waiting":
        rest = Text(f"{count(stage.steps)} steps" if stage.steps else "", DIM)
    elif stage.status == "done":
        took = f"{duration(stage.seconds):>7}  " if stage.seconds is not None else ""
        rest = Text.assemble((took, DIM), outcome(stage.result))
    elif not stage.steps:
        rest = Text(stage.status, DIM)
    else:
        return row.append_text(_advance(stage.step, stage.steps, stage.eta, "", room))
    return row.append_text(padded(rest, room))


def _work(work: Work, width: int) -> Text:
    what = padded(Text(f"  {clean(work.what)}", DIM), min(len(clean(work.what)) + 2, width // 2))
    row = what.append("  ")
    unit = clean(work.unit)
    if work.total is None:
        return row.append_text(padded(Text(f"{count(work.done)} {unit}"), width - row.cell_len))
    return row.append_text(_advance(work.done, work.total, work.eta, unit, width - row.cell_len))


def _advance(done: int, total: int, eta: float | None, unit: str, width: int) -> Text:
    """A bar and its numbers, fewer of them the less room there is."""
    share = done / total if total > 0 else 0.0
    left = f"  eta {duration(eta)}" if eta is not None else ""
    unit = f" {unit}" if unit else ""
    for figures in (f"{count(done)} / {count(total)}{unit}  {percent(share):>5}{left}",
                    f"{percent(share)}  {duration(eta)}", percent(share)):
        if (room := width - len(figures) - 2) >= 8:
            return bar(share, room).append("  ").append(figures)
    return padded(Text(percent(share)), width)


# --- training and speed -----------------------------------------------------------------------------------
def _training(stage: Stage, step: events.StepDone, width: int) -> list[Block]:
    title = f"{clean(stage.id)} {clean(step.task)}" if step.task else clean(stage.id)
    metrics, speed = _metrics(step), _speed(step)
    losses = [value for _, value in stage.losses.points]
    if width < SIDE_BY_SIDE:
        return [panel(title, _beside_chart(metrics, losses, width - 4), width),
                panel("speed", _beside_bars(speed, step, width - 4), width)]
    right = max(32, width * 2 // 5)
    lines = max(len(metrics), len(speed) + 3)
    training = _beside_chart(metrics + [("", Text())] * (lines - len(metrics)), losses, width - right - 4)
    timing = _beside_bars(speed + [("", Text())] * (lines - len(speed) - 3), step, right - 4)
    both = Table.grid(padding=0)
    both.add_row(panel(title, training, width - right).content, panel("speed", timing, right).content)
    return [Block(both, lines + 2)]


Named = tuple[str, Text]


def _metrics(step: events.StepDone) -> list[Named]:
    rows = [("loss", Text(decimal(step.loss), "bold"))]
    rows += [(name, Text(decimal(value))) for name, value in
             (("  task", step.task_loss), ("  teacher", step.teacher_loss), ("  retrieval", step.retrieval_loss))
             if value is not None]
    if step.accuracy is not None:
        rows.append(("accuracy", Text(fraction(step.accuracy), "bold")))
    rows.append(("learning rate", Text(rate(step.learning_rate))))
    rows.append(("grad norm", Text(short(step.grad_norm))))
    if step.loss_scale is not None:
        rows.append(("loss scale", Text(decimal(step.loss_scale, 0))))
        rows.append(("skipped", Text(count(step.skipped), WARNING if step.skipped else "")))
    return rows


def _speed(step: events.StepDone) -> list[Named]:
    seconds = sum(part or 0.0 for _, part in _parts(step))
    return [("instances/s", Text(count(step.instances_per_second), "bold")),
            ("groups/s", Text(count(step.groups_per_second))),
            ("tokens/s", Text(count(step.tokens_per_second))),
            ("step time", Text(interval(seconds)))]


def _parts(step: events.StepDone) -> list[tuple[str, float | None]]:
    return [("data", step.seconds_data), ("compute", step.seconds_compute), ("save", step.seconds_save)]


def _beside_chart(metrics: Sequence[Named], losses: Sequence[float], width: int) -> list[Text]:
    """Names and numbers, and to their right the loss curve with its largest and smallest value."""
    label = min(13, max(width - 9, 4))
    rows = [padded(Text(name, DIM), label).append_text(padded(value, 9, True)) for name, value in metrics]
    labels = {}
    if losses and width >= 48:
        labels = {0: decimal(max(losses), 2), len(rows) - 1: decimal(min(losses), 2)}
    axis = max((len(text) + 1 for text in labels.values()), default=0)
    room = width - label - 9 - 3 - axis
    if losses and room >= 6:
        for index, line in enumerate(chart(losses, room, len(rows))):
            value = Text(labels.get(index, ""), DIM)
            rows[index].append("   ").append(line, ACCENT).append_text(padded(value, axis, True))
    return [padded(row, width) for row in rows]


def _beside_bars(speed: Sequence[Named], step: events.StepDone, width: int) -> list[Text]:
    """Rates, and the share of a step's time that goes into data, compute and save."""
    rows = [ends(Text(name, DIM), value, width) for name, value in speed]
    total = sum(part or 0.0 for _, part in _parts(step))
    for name, part in _parts(step):
        share = (part or 0.0) / total if total > 0 else 0.0
        row = padded(Text(f"  {name}", DIM), 11).append_text(bar(share, max(width - 18, 1)))
        rows.append(padded(row.append(f"  {percent(share):>5}"), width))
    return rows


# --- evaluations and last events --------------------------------------------------------------------------
def _evaluations(state: State, width: int, limit: int) -> Block:
    found = list(state.evaluations.values())
    shown = found[-limit:]
    several = any(row.copies != 1 for row in shown)
    composed = any(row.composition != "random" for row in shown)
    columns = [
        Column("task", [Text(clean(row.task)) for row in shown], worth=9),
        Column("stage", [Text(clean(row.stage), DIM) for row in shown], worth=4),
        Column("copies", [Text(str(row.copies) if several else "") for row in shown], right=True, worth=7),
        Column("groups", [Text(clean(row.composition) if composed else "") for row in shown], worth=7),
        Column("metric", [Text(clean(row.metric)) for row in shown], worth=5),
        Column("mean ± std", [Text(spread(row.mean, row.std), "bold") for row in shown], right=True, worth=8),
        Column("majority", [Text("" if row.majority is None else fraction(row.majority)) for row in shown],
               right=True, worth=6),
    ]
    rows = table(columns, width - 4)
    if len(found) > len(shown):
        rows.append(Text(f"… {len(found) - len(shown)} earlier ones", DIM))
    return panel("evaluations", [padded(row, width - 4) for row in rows], width)


def _latest(state: State, width: int, limit: int) -> Block:
    rows = [padded(Text.assemble((clock(told.time), DIM), "  ", (told.text, LEVEL[told.level])), width - 4)
            for told in state.latest[-limit:]]
    return panel("last events", rows, width)
