"""`mux import`, `mux export` and `mux predict`: models in from elsewhere, out to elsewhere, and at work.

Their modules need torch, so they are imported inside the functions.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.dashboard.display import silence
from launcher.ending import FAILED, INTERRUPTED, REFUSED, ending
from launcher.runs_commands import existing

if TYPE_CHECKING:
    from mux.predict import Predictor, Rows

STREAM = "-"

imports = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Turn published models into model folders.")


@contextmanager
def model_work(code: int) -> Iterator[None]:
    """`ending` for what loads models, without the progress bars of loading."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with ending(code):
        yield


@imports.command("princeton")
def import_princeton(
    source: Annotated[Path, typer.Argument(
        help="A published folder: config.json with pytorch_model.bin or model.safetensors.", show_default=False)],
    destination: Annotated[Path, typer.Argument(help="The folder to write; must not exist.", show_default=False)],
    tokenizer: Annotated[Path | None, typer.Option(
        metavar="DIR", help="A folder with the tokenizer; published folders have none. The published models use that "
                            "of bert-base-uncased.", show_default=False)] = None,
) -> None:
    """Import a published MUX-PLM, or a BERT or ELECTRA baseline of the same authors.

    Every weight is accounted for; nothing in the folder is run. The Auto classes load what is written.

    Example: mux import princeton muxbert_base_gaussian_hadamard_index_pos_2 models/muxbert_base_2
    """
    with model_work(REFUSED):
        from mux.hub.princeton import import_folder

        print(import_folder(source, destination, tokenizer))


def export_model(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory, a model folder, or hub:ID.",
                                       show_default=False)],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write; must not exist.",
                                                show_default=False)],
    stage: Annotated[str | None, typer.Option(
        metavar="ID", help="The model of this stage.",
        show_default="the last fine-tuned, else the last pre-trained one")] = None,
    task: Annotated[str | None, typer.Option(help="The model of this task, where a stage has several.",
                                             show_default=False)] = None,
    checkpoint: Annotated[str | None, typer.Option(
        metavar="latest|STEP", help="Of a run: what it had learnt at this checkpoint, done or not; --stage may name "
                                    "one training of a fine-tuning stage.", show_default=False)] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx too, for any number of groups and any length, "
                                                      "and compare it under onnxruntime.")] = False,
    precision: Annotated[str, typer.Option(
        metavar="fp32|bf16|fp16|int8", help="Of the weights: bf16 and fp16 halve the folder. int8 adds "
                                            "model.int8.onnx, its linear layers in int8 for CPUs; with --onnx."
    )] = "fp32",
) -> None:
    """Write a model folder to give away: weights, tokenizer, and a model card with the run's results.

    Example: mux export runs/quickstart models/topics --onnx

    Example: mux export runs/bert_base_n2 models/half_way --checkpoint 500000 --stage pretrain; another run goes on
    from there with `from = "path:models/half_way"`
    """
    if checkpoint is not None:
        return export_checkpoint(run, destination, checkpoint, stage, task, onnx or precision != "fp32")
    with model_work(REFUSED):
        from mux.hub.export import export, find_model
        from mux.hub.onnx import OnnxFailure

        try:
            names = export(find_model(run, stage, task), destination, onnx, precision)
        except OnnxFailure as failure:
            print(f"{failure}\nnothing was written", file=sys.stderr)
            raise typer.Exit(FAILED) from None
    print(f"{destination}: {', '.join(names)}")


def export_checkpoint(run: str, destination: Path, checkpoint: str, stage: str | None, task: str | None,
                      onnx: bool) -> None:
    """Write the model of a checkpoint."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # its weights go from files to files
    with model_work(REFUSED):
        directory = existing(Path(run))
        if onnx:
            raise ValueError(f"--onnx is for model folders: mux export {run} {destination} --checkpoint {checkpoint}, "
                             f"and then mux export {destination} DST --onnx")
        from mux.stages.consolidation import export_checkpoint

        what, names = export_checkpoint(directory, checkpoint, stage, task, destination)
    print(f"{destination}: {what}: {', '.join(names)}")


def predict(
    model: Annotated[str, typer.Argument(
        help="A folder with a classification model, a run directory, or hub:ID.", show_default=False)],
    file: Annotated[str, typer.Argument(help="jsonl, csv, tsv (with names in the first line) or txt (a text a line); "
                                             "- is stdin.", show_default=False)],
    output: Annotated[str, typer.Option(help="jsonl, csv or tsv; - is stdout.")] = STREAM,
    text: Annotated[str, typer.Option(metavar="COLUMN", help="The column with the text, or for a token model with "
                                                             "a text or the list of its words.")] = "text",
    text_pair: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column with the second text.",
                                                  show_default=False)] = None,
    batch: Annotated[int, typer.Option(metavar="GROUPS", help="Groups that go through the model at once.")] = 32,
    copies: Annotated[int, typer.Option(help="Read each text so many times, 1 to N, in different groups, and average: "
                                             "more accurate, slower by that factor.")] = 1,
    companions: Annotated[str, typer.Option(
        metavar="length|given|fixed", help="Who shares a group. length: texts of similar length, which is fastest. "
                                           "given: neighbours in the file. fixed: every text is grouped with the same "
                                           "N - 1 texts (the model folder's companions.json or neutral sentences), so "
                                           "that its prediction does not depend on the file; one text a pass, N times "
                                           "slower. With --copies groups are drawn.")] = "length",
    max_length: Annotated[int | None, typer.Option(metavar="L", help="Cut texts to so many tokens.",
                                                   show_default="what the model reads")] = None,
    format: Annotated[str | None, typer.Option(
        metavar="jsonl|csv|tsv", help="Of the output.", show_default="as its name ends, else as FILE's")] = None,
    input_format: Annotated[str | None, typer.Option(
        metavar="jsonl|csv|tsv|txt", help="Of FILE.", show_default="as its name ends; stdin: txt")] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Add the score of every class.")] = False,
    spans: Annotated[bool, typer.Option("--spans", help="Token models: entities instead of a tag a word.")] = False,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1.",
                                               show_default="the GPU if there is one")] = None,
    precision: Annotated[str, typer.Option(
        metavar="fp32|fp32-medium|bf16|fp16|int8",
        help="Of weights and arithmetic: bf16 and fp16 for GPUs, int8 (of the linear layers) for CPUs. Faster, and a "
             "little off. fp32-medium: weights stay, and are multiplied in TF32 (GPUs) or several pieces of bf16 (CPUs "
             "that have it): far less off on a CPU.")] = "fp32",
    stage: Annotated[str | None, typer.Option(metavar="ID", help="Of a run: the model of this stage.",
                                              show_default=False)] = None,
    task: Annotated[str | None, typer.Option(help="Of a run: the model of this task.", show_default=False)] = None,
) -> None:
    """Predict for every row of a file, N texts a pass. Rows keep their order and fields and get a prediction.

    The file is streamed, never held whole. The output is written to OUTPUT.part and renamed when it is complete.

    Example: mux predict runs/quickstart reviews.jsonl --output predicted.jsonl --copies 2
    """
    with model_work(REFUSED):
        from mux.hub.export import find_model
        from mux.predict import Predictor, Rows, output_kind

        rows = Rows(file, text, text_pair, input_format)
        output_kind(rows, output, format)
        predictor = Predictor(find_model(model, stage, task).folder, batch=batch, copies=copies,
                              companions=companions, max_length=max_length, device=device, precision=precision,
                              scores=scores, spans=spans)
        total = rows.count(predictor.head.takes_words, predictor.added)
    write(predictor, rows, output, format, total)


def write(predictor: Predictor, rows: Rows, output: str, format: str | None, total: int | None) -> None:
    """Predict, with a progress bar on stderr where that is a terminal."""
    from mux.predict import Interrupted, predict_file

    with model_work(FAILED):
        try:
            with progress_bar(total) as progress:
                done = predict_file(predictor, rows, output, format, progress)
        except Interrupted as interrupted:
            cause = interrupted.__cause__
            print(*filter(None, (str(cause), str(interrupted))), sep="\n", file=sys.stderr)
            raise typer.Exit(INTERRUPTED if isinstance(cause, KeyboardInterrupt) else FAILED) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # whoever reads stdout has seen enough
            silence(sys.stdout)
            raise typer.Exit(FAILED) from None
    if output != STREAM:
        print(f"{output}: {done:,} rows", file=sys.stderr)


@contextmanager
def progress_bar(total: int | None) -> Iterator[Callable[[float], None]]:
    """A bar on stderr with rows and rate; the function that moves it takes how many rows are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:,.0f} rows/s")

    console = Console(stderr=True)
    with Progress(BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn(), console=console,
                  disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=int(done))
