"""The two commands: `mux-launch` starts a run, `mux` does what comes after."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from launcher import model_commands, report_commands, runs_commands
from launcher.ending import REFUSED, ending, told
from launcher.runs_commands import existing
from mux.recipe import Problem, Refusal
from mux.recipe.wording import printable
from mux.run import read_results
from mux.secrets import redact_output

launch = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
mux = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True,
                  help="What comes after `mux-launch`: watch and stop runs, look at their results, use their models.")
mux.add_typer(runs_commands.runs, name="runs")
mux.add_typer(model_commands.imports, name="import")
mux.command("export")(model_commands.export_model)
mux.command()(model_commands.predict)
mux.command()(report_commands.report)
mux.command()(report_commands.choose)


@contextmanager
def refusing(heading: str = "") -> Iterator[None]:
    """Print a refusal as one block, without a traceback, and exit 2."""
    try:
        yield
    except Refusal as refusal:
        print(f"{heading}{told(refusal)}", file=sys.stderr)
        raise typer.Exit(REFUSED) from None


@launch.command()
def launch_run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.", show_default=False)],
    hostfile: Annotated[Path | None, typer.Option(
        help="Hosts, one `name slots=n` a line. Without it: this host, its GPUs, or CPU processes.")] = None,
    set_: Annotated[list[str] | None, typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a value, e.g. stages.pretrain.steps=100. Repeatable.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run lives.", show_default="runs/<name>")] = None,
    stages: Annotated[str | None, typer.Option(
        metavar="A,B", help="Only these stages, by id.", show_default=False)] = None,
    resume: Annotated[str, typer.Option(
        metavar="auto|required|never", help="Go on with an unfinished run in the run directory.")] = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Move an earlier run aside and start over.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; start nothing.")] = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="Submit it to SLURM, as [slurm] of the recipe says.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Run without this terminal; `mux watch` shows it.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the dashboard.")] = False,
) -> None:
    """Turn a recipe into a finished run: train, fine-tune, measure, with DeepSpeed on the hosts there are.

    An unfinished run goes on where it was. Ctrl-C saves a checkpoint and stops; a second one ends at once.

    Exit status: 0 finished; 2 refused before anything was started; 75 stopped on request, can go on;
    130 interrupted twice; 1 failed.

    Example: mux-launch recipes/quickstart.toml --set stages.pretrain.steps=1600
    """
    os.umask(0o077)  # a run is its owner's alone, and so is all that it makes on its way there
    redact_output("stdout", "stderr")
    with refusing("refused, nothing was started:\n"):
        from launcher import start

        request = start.Request(recipe, hostfile, tuple(set_ or ()), run_dir, stages, start.resume_word(resume), fresh,
                                slurm)
        if slurm:
            from launcher import batch

            raise typer.Exit(batch.submit(request, dry_run, detach))
        if dry_run:
            print(start.preview(request))
            return
        if detach:
            command = [*sys.argv[:1], *(word for word in sys.argv[1:] if word != "--detach"), "--plain"]
            raise typer.Exit(start.detach(request, command))
        code = start.launch(request, plain)
    raise typer.Exit(code)


@mux.callback()
def guard() -> None:
    redact_output("stderr")  # what `mux predict` writes to stdout is its user's own


@mux.command()
def watch(run: Annotated[Path, typer.Argument(help="A run directory.", show_default=False)],
          plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the dashboard.")] = False,
          replay: Annotated[bool, typer.Option("--replay", help="Show what is there and leave.")] = False) -> None:
    """Show a run's dashboard, replayed from its events. Ctrl-C leaves the run alone.

    Example: mux watch runs/quickstart
    """
    from launcher import dashboard
    from launcher.directory import running

    with refusing():
        directory = existing(run)
    display = dashboard.choose(sys.stdout, plain)
    with display:
        ending = dashboard.follow(directory.events, display, until_end=not replay, alive=lambda: running(directory))
    print(dashboard.FAREWELLS[ending])


@mux.command()
def stop(run: Annotated[Path, typer.Argument(help="A run directory.", show_default=False)],
         wait: Annotated[bool, typer.Option(help="Wait until it has stopped.")] = True) -> None:
    """Ask a run to save a checkpoint and stop.

    Example: mux stop runs/quickstart
    """
    from launcher.directory import running

    with refusing():
        directory = existing(run)
        if not running(directory):
            raise Refusal(Problem("the run is not going on", where=str(run)))
    directory.ask_to_stop("mux stop")
    print("asked to stop: at its next step the run saves a checkpoint and leaves")
    while wait and running(directory):
        time.sleep(0.2)
    if wait:
        with ending(REFUSED):
            status = (read_results(directory.results) or {}).get("status")
        print("stopped; the same mux-launch command goes on from there" if status == "stopped"
              else f"the run had ended already: {printable(str(status))}")
