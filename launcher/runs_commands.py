"""`mux runs`: list, show, compare and verify run directories."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.ending import FAILED, REFUSED, ending
from mux.plan import Plan
from mux.recipe import Problem, Refusal
from mux.run import RunDirectory, read_results

if TYPE_CHECKING:
    from rich.table import Table

    from launcher.verification import Verdict

runs = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="List, show, compare and verify runs.")

RunArgument = Annotated[Path, typer.Argument(help="A run directory.", show_default=False)]


@runs.command("ls")
def list_runs(folder: Annotated[Path, typer.Argument(help="Where runs live.")] = Path("runs")) -> None:
    """List runs with their status.

    Example: mux runs ls
    """
    from launcher.directory import at, running

    with ending(REFUSED):
        at(folder)
    table = plain_table("run", "status", "stages done", "of", right=("stages done", "of"))
    found = sorted(path.parent for path in folder.glob("*/plan.json"))
    if not found:
        print(f"no runs in {folder}/")
        return
    for path in found:
        try:
            results = read_results(path / "results.json") or {"status": "unknown", "stages": []}
        except (OSError, ValueError):
            results = {"status": "unreadable", "stages": []}
        status = results["status"]
        if running(RunDirectory(path)):
            status = "running"
        elif status == "running":
            status = "killed"  # its launcher is gone and had no time to say so
        done = sum(stage["status"] == "done" for stage in results["stages"])
        add_row(table, path.name, status, done, len(results["stages"]))
    show(table)


@runs.command("show")
def show_run(run: RunArgument) -> None:
    """Show what a run has learnt so far.

    Example: mux runs show runs/quickstart
    """
    from launcher.start import print_summary

    with ending(REFUSED):
        print_summary(existing(run))


@runs.command("verify")
def verify_run(run: RunArgument) -> None:
    """Read every checkpoint of a run from end to end: is each file there, whole, and what was saved?

    Exit status: 0 all are valid; 1 something is wrong, and is named; 2 there is no such run.

    Example: mux runs verify runs/quickstart
    """
    from launcher import verification

    with ending(REFUSED):
        directory = existing(run)
        plan = plan_of(directory)
        found = verification.trainings(directory, plan)
        with reading(sum(map(verification.total_bytes, found))) as hashed:
            verdicts = [verdict for training in found for verdict in verification.verdicts(training, plan, hashed)]
        pointers = [verification.pointer(training) for training in found]
    problems = [verdict.problem for verdict in verdicts] + [problem for problem, _ in pointers]
    if verdicts:
        show(checkpoint_table(verdicts))
    for text in filter(None, [*problems, *(note for _, note in pointers)]):
        show(text)
    wrong = sum(verdict.problem is not None for verdict in verdicts)
    what = f"{len(verdicts)} checkpoint{'s' if len(verdicts) != 1 else ''}"
    show(f"{what}, {f'{wrong} not valid' if wrong else 'all valid'}" if verdicts else f"{run} has no checkpoints")
    raise typer.Exit(FAILED if any(problems) else 0)


@runs.command("diff")
def compare_runs(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run directory.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.", show_default=False)],
) -> None:
    """Show in what two runs differ: keys of their recipes, versions and commit, and results; equal ones are counted.

    Example: mux runs diff runs/bert_base_n1 runs/bert_base_n2
    """
    from launcher import difference
    from launcher.record import values

    with ending(REFUSED):
        one, other = existing(first), existing(second)
        titles = [path.path.name for path in (one, other)]
        titles = titles if titles[0] != titles[1] else [str(first), str(second)]
        results, equal = difference.of_results(values(one.results), values(other.results))
        sections = {
            "recipe": difference.of_recipes(plan_of(one), plan_of(other)),
            "versions and data": difference.of_environments(values(one.environment), values(other.environment)),
            "results": results,
        }
    for name, rows in sections.items():
        if not rows:
            show(f"{name}: no difference")
            continue
        table = plain_table(name, *titles, right=titles if name == "results" else ())
        for row in rows:
            add_row(table, *row)
        show(table)
        show("")
    if equal:
        show(f"results: {equal} equal to the last bit")


@runs.command("keep")
def keep_records(
    kept: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run directories.", show_default=False)],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Where to write, a folder for each run.",
                                     show_default=False)],
) -> None:
    """Keep what runs were and what came of them, without weights: a record that fits into a repository.

    Paths below the runs and the current folder become relative; names of a cluster's hosts stay. mux report, mux runs
    show and mux runs diff read it like a run directory.

    Example: mux runs keep runs/bert_base_n1 runs/bert_base_n2 --to docs/runs
    """
    from launcher.record import keep

    with ending(REFUSED):
        for folder in keep([existing(path) for path in kept], to):
            print(folder)


def existing(path: Path) -> RunDirectory:
    from launcher.directory import at

    run = at(path)
    if not run.plan.exists():
        near = sorted(str(found.parent) for found in path.parent.glob("*/plan.json"))
        raise Refusal(Problem("is not a run directory: it has no plan.json", where=str(path),
                              hint=f"there are: {', '.join(near)}" if near else "mux runs ls lists runs"))
    return run


def plan_of(run: RunDirectory) -> Plan:
    """Raises Refusal if the run's plan cannot be read."""
    try:
        return run.read_plan()
    except ValueError as error:
        raise Refusal(Problem(f"cannot be read: {str(error).splitlines()[0]}", where=str(run.plan))) from None


def checkpoint_table(verdicts: list[Verdict]) -> Table:
    from launcher.dashboard.figures import size

    table = plain_table("training", "step", "ranks", "ZeRO", "size", "state", right=("step", "ranks", "ZeRO", "size"))
    for verdict in verdicts:
        manifest = verdict.manifest
        about = (manifest.world_size, manifest.zero_stage, size(manifest.bytes)) if manifest else ("–", "–", "–")
        add_row(table, verdict.training, verdict.step, *about, "not valid" if verdict.problem else "valid")
    return table


def plain_table(*titles: str, right: Any = ()) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right" if title in right else "left", overflow="fold")
    return table


def add_row(table: Table, *cells: object) -> None:
    """What files say is shown as it is: no markup, no escapes of terminals."""
    from rich.text import Text

    from launcher.dashboard.figures import clean

    table.add_row(*(Text(clean(cell)) for cell in cells))


def show(what: Table | str) -> None:
    from launcher.dashboard.figures import clean
    from launcher.dashboard.terminal import table_console

    console = table_console(sys.stdout)
    console.print(clean(what) if isinstance(what, str) else what, soft_wrap=isinstance(what, str))


@contextmanager
def reading(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal; the function that moves it takes how many bytes more are read."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
