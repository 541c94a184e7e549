"""`mux report` and `mux choose`: what runs achieved, and which of their models to deploy.

What they stand on is imported inside the functions: the report draws figures.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.ending import FAILED, REFUSED, ending
from mux.recipe import Problem, Refusal
from mux.recipe.wording import did_you_mean, some

if TYPE_CHECKING:
    from mux.report.choice import Choice, Condition
    from mux.report.points import Point

Runs = Annotated[list[Path], typer.Argument(metavar="RUN", help="Run directories.", show_default=False)]

MEASURED = "an evaluation comes from the finetune stage, a latency from a throughput stage with batches_of = "\
           "[\"one_group\"] in it"


def report(
    runs: Runs,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to write.",
                                             show_default="RUN/report, of several runs report")] = None,
    page: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Fill this page of markdown instead: between its lines <!-- report NAME --> and "
                             "<!-- end of report --> comes the section NAME, or the \"figure NAME\" or \"table NAME\".",
        show_default=False)] = None,
) -> None:
    """Write a page of what runs achieved beside the numbers of the paper: figures, tables, Pareto frontier.

    index.html holds everything and needs no network and no server. Beside it are report.md, the tables as markdown and
    csv, and the figures as svg and png. Parts for which nothing has been run say what would fill them.

    Example: mux report runs/bert_n1 runs/bert_n2 runs/bert_n5 --out report
    """
    with ending(REFUSED):
        from mux.report.writer import fill, write

        if page and out:
            raise Refusal(Problem("give either a folder or a page", "--page"))
        if page:
            print(fill(runs, page, note))
        else:
            print(write(runs, out or (runs[0] / "report" if len(runs) == 1 else Path("report")), note))


def note(done: int, total: int, what: str) -> None:
    """On a terminal, what is being done."""
    if what and sys.stderr.isatty():
        print(f"{done + 1} of {total}: {what}", file=sys.stderr)


def choose(
    runs: Runs,
    task: Annotated[str | None, typer.Option(
        help="This task, or an average (glue, glue_without_wnli_cola, token).", show_default="every task")] = None,
    accuracy: Annotated[float | None, typer.Option(
        metavar="A", help="At least so much in the task's own metric, 0.85 for 85 %.", show_default=False)] = None,
    throughput: Annotated[float | None, typer.Option(
        metavar="T", help="At least so many instances a second.", show_default=False)] = None,
    latency_ms: Annotated[float | None, typer.Option(
        "--latency-ms", metavar="L", help="At most so many milliseconds for a group alone.",
        show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Choose what to deploy: the models of the Pareto frontier that satisfy all conditions, and how to deploy each.

    At least one condition is needed. Best first: the fastest where an accuracy is asked for, else the most accurate.
    A model is a run at a number of copies; only speeds of one device and length are compared.

    The accuracy is that of the model that is kept, the first seed's; 95 % is its interval over compositions into
    groups, seeds and test rows. P(...) is the probability
    that the condition really holds, by a normal distribution of that error, or of the spread of speed between batches;
    empty where no spread is known.

    Exit status: 0 a model was found for at least one task; 1 for none: the nearest are named; 2 refused.

    Example: mux choose runs/bert_* --task sst2 --accuracy 0.85
    """
    with ending(REFUSED):
        from mux.report.choice import choose as choose_points

        conditions = asked({"accuracy": accuracy, "throughput": throughput, "latency": latency_ms})
        choices = choose_points(points_of(runs, task), conditions)
    if as_json:
        print(json.dumps({"conditions": {condition.name: condition.bound for condition in conditions},
                          "tasks": [_as_json(choice) for choice in choices]}, indent=1, ensure_ascii=False))
    else:
        from launcher.choices import show

        show(choices, sys.stdout)
    if not any(choice.models for choice in choices):
        raise typer.Exit(FAILED)


def asked(bounds: dict[str, float | None]) -> list[Condition]:
    """The conditions of the options that were given. Raises Refusal for none and for impossible ones."""
    from mux.report.choice import Condition

    given = {name: bound for name, bound in bounds.items() if bound is not None}
    if not given:
        raise Refusal(Problem("nothing is asked for", hint="give at least one of --accuracy, --throughput, "
                                                           "--latency-ms, as in --accuracy 0.85"))
    problems = []
    for name, bound in given.items():
        if name == "accuracy" and not -1 <= bound <= 1:
            problems.append(Problem(f"{bound:g} is no accuracy", "--accuracy",
                                    hint="a share of 1 is meant: 0.85 for 85 %"))
        elif name != "accuracy" and not 0 < bound < math.inf:
            problems.append(Problem(f"{bound:g} is not above 0", "--latency-ms" if name == "latency" else f"--{name}"))
    if problems:
        raise Refusal(problems)
    return [Condition(name, bound) for name, bound in given.items()]


def points_of(runs: Iterable[Path], task: str | None) -> list[Point]:
    """The points of all runs on a task or average, or on all tasks. Raises ValueError or Refusal if there are none."""
    from mux.report.points import points
    from mux.report.results import read_run

    found = [point for run in dict.fromkeys(runs) for point in points(read_run(run).raw, run)]
    if not found:
        raise Refusal(Problem("no model of these runs has been evaluated", hint=MEASURED))
    tasks = dict.fromkeys(point.task for point in found)
    if task is not None and task not in tasks:
        raise Refusal(Problem(f"no run has results of {some([task])}", "--task",
                              hint=did_you_mean(task, tasks, "there are")))
    return [point for point in found if point.task == task or (task is None and len(point.tasks) == 1)]


def _as_json(choice: Choice) -> dict[str, Any]:
    return {
        "task": choice.task, "metric": choice.metric, "device": choice.device, "dtype": choice.dtype,
        "sequence_length": choice.sequence_length, "timed_by": choice.timed_by,
        "models": [_model(point, choice.conditions) for point in choice.models],
        "nearest": {condition.name: _model(point, choice.conditions) for condition, point in choice.nearest},
    }


def _model(point: Point, conditions: Sequence[Condition]) -> dict[str, Any]:
    from mux.report.choice import commands

    confidence = {condition.name: condition.confidence(point) for condition in conditions}
    return asdict(point) | {"confidence": confidence, "commands": commands(point)}
