"""What `mux choose` found, as people read it: a table a task, and below it the commands that deploy each model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.dashboard.figures import clean, count, decimal, fraction, short
from launcher.dashboard.rows import BAD, DIM
from launcher.dashboard.terminal import table_console
from mux.recipe.wording import printable

if TYPE_CHECKING:
    from mux.report.choice import Choice, Condition
    from mux.report.points import Point


def show(choices: Sequence[Choice], stream: TextIO) -> None:
    """Print all choices. Text from runs is never read as markup or as a terminal escape."""
    console = table_console(stream)
    for choice in choices:
        asked = ", ".join(bound(condition, choice.metric) for condition in choice.conditions)
        console.print(Text.assemble((f"{clean(choice.task)}: {asked}", "bold"), (f"  ({measured(choice)})", DIM)))
        if choice.models:
            console.print(_table(choice))
            for rank, point in enumerate(choice.models, 1):
                _deploy(console, rank, point)
        else:
            _nearest(console, choice)
        console.print()


UNITS = {"accuracy": "", "throughput": "/s", "latency": " ms"}


def bound(condition: Condition, metric: str) -> str:
    """`matthews ≥ 0.4`, `throughput ≥ 2000/s`, `latency ≤ 20 ms`: the bounds as they were given."""
    name = clean(metric) if condition.name == "accuracy" else condition.name
    sign = "≥" if condition.quantity.more_is_better else "≤"
    return f"{name} {sign} {condition.bound:g}{UNITS[condition.name]}"


def measured(choice: Choice) -> str:
    """On what and how the speeds were taken."""
    device = ", ".join(filter(None, (choice.device, choice.dtype)))
    where = f"on {clean(device)}" if device else "on an unknown device"
    if choice.timed_by == "throughput":
        return f"{where}, rows of {choice.sequence_length} tokens, by the throughput stage"
    return f"{where}, by the evaluation's own speed: no throughput stage has timed these"


def _table(choice: Choice) -> Table:
    table = Table(box=None, pad_edge=False, header_style=DIM)
    for header in ("", "model", "run"):
        table.add_column(header)
    columns = ["copies", clean(choice.metric), "95 %", "instances/s", "x BERT BASE", "latency ms",
               *(f"P({bound(condition, choice.metric)})" for condition in choice.conditions)]
    for header in columns:
        table.add_column(header, justify="right")
    for rank, point in enumerate(choice.models, 1):
        table.add_row(*map(Text, (
            str(rank), clean(point.model), clean(point.run), str(point.copies), fraction(point.accuracy),
            f"{fraction(point.accuracy_low)} to {fraction(point.accuracy_high)}",
            count(point.instances_per_second), "" if point.ratio_to_bert_base is None
            else decimal(point.ratio_to_bert_base, 2), "" if point.latency_ms is None else short(point.latency_ms),
            *(_probability(condition.confidence(point)) for condition in choice.conditions))))
    return table


def _probability(value: float | None) -> str:
    """In whole percent; never certain, for nothing measured is."""
    if value is None:
        return ""
    return "> 99 %" if value > 0.99 else "< 1 %" if value < 0.01 else f"{100 * value:.0f} %"


def _deploy(console: Console, rank: int, point: Point) -> None:
    from mux.report.choice import commands

    console.print(Text(f"\nto deploy {rank}:"))
    for command in commands(point):
        console.print(Text(f"  {printable(command)}"), soft_wrap=True)
    if point.copies > 1:
        console.print(Text(f"  (a folder knows nothing of copies: mux predict takes --copies {point.copies} "
                           "for it, too)", DIM), soft_wrap=True)


def _nearest(console: Console, choice: Choice) -> None:
    """Of each condition, the model that does best, and whether that would do."""
    console.print(Text("no model satisfies this" if len(choice.conditions) == 1 else "no model satisfies all of this",
                       BAD))
    found = dict(choice.nearest)
    for condition in choice.conditions:
        if condition not in found:
            console.print(Text(f"  {condition.name} was not measured; a throughput stage with batches_of = "
                               '["instances", "one_group"] does so'), soft_wrap=True)
            continue
        point = found[condition]
        value = condition.quantity.value(point) or 0.0
        missing = condition.surplus(value)
        verdict = "which would do" if missing >= 0 else f"{short(-missing)} off"
        copies = f", {point.copies} copies" if point.copies > 1 else ""
        console.print(Text(f"  {condition.name} at best {short(value)}{UNITS[condition.name]}, {verdict}: "
                           f"{clean(point.model)}{copies}, {clean(point.run)}"), soft_wrap=True)
