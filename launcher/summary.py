"""The final screen of a run: what was learnt, how fast it is, where the model is and how Python uses it."""

from __future__ import annotations

import io
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from launcher.dashboard.display import BROKEN, silence
from launcher.dashboard.figures import clean, count, decimal, fraction, percent, short
from launcher.dashboard.rows import DIM, Column, ends, padded, panel, table
from launcher.dashboard.screen import STATUS
from launcher.dashboard.sentences import is_plainest, spread
from launcher.dashboard.terminal import Terminal
from launcher.preview import model_name
from mux.plan import Plan
from mux.recipe.schema import ModelSection

WIDEST = 100  # columns
ROWS_PER_SLOT = 32  # the batch of a pipeline is this many groups
THROUGHPUT_ROWS = 10

ACCURACY = {"retrieval": "retrieval accuracy", "pretrain": "masked-token accuracy"}
ELECTRA_ACCURACY = ACCURACY | {"pretrain": "replaced-token accuracy"}

Entry = dict[str, Any]


def render(results: dict[str, Any], plan: Plan, directory: Path) -> RenderableType:
    """The summary of `results` (the content of results.json); it fits itself to the width it is drawn at.

    Model paths are shown relative to the current directory where they are below it.
    """
    return Summary(results, plan, directory)


def show(results: dict[str, Any], plan: Plan, directory: Path, stream: TextIO) -> None:
    """Print the summary; a stream that is gone, or that cannot hold every character, is no error."""
    summary = render(results, plan, directory)
    encoding = stream.encoding or "utf-8"
    console = Terminal(stream)
    try:
        if encoding.lower().replace("-", "") == "utf8":
            console.print(summary)
        else:
            replaced = io.TextIOWrapper(io.BytesIO(), encoding, errors="replace")
            Console(file=replaced, width=console.width).print(summary)
            replaced.seek(0)
            stream.write(replaced.read())
        stream.flush()
    except BROKEN:
        silence(stream)


class Summary:
    def __init__(self, results: dict[str, Any], plan: Plan, directory: Path) -> None:
        self.status = str(results.get("status", ""))
        self.stages: list[Entry] = [entry for entry in results.get("stages", ()) if isinstance(entry, dict)]
        self.plan = plan
        self.directory = directory
        model = plan.recipe.get("model", {})
        self.N = int(model.get("N", 1))
        self.accuracy = ELECTRA_ACCURACY if model.get("family") == "electra" else ACCURACY

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(20, min(options.max_width, WIDEST))
        yield self._head(width)
        for title, rows in (("what was learnt", self._learnt(width - 4)),
                            ("compositions into groups", self._compositions(width - 4)),
                            ("copies", self._copies(width - 4)), ("throughput", self._throughput(width - 4)),
                            ("muxology", self._muxology(width - 4))):
            if rows:
                yield panel(title, rows, width).content
        if any(_tasks(entry) or entry.get("rows") for entry in self.stages):
            yield Text(f"\nA page of all this, beside the paper's numbers: mux report "
                       f"{clean(shlex.quote(_shown(self.directory)))}", overflow="fold")
        yield from self._use(options.max_width)

    def _head(self, width: int) -> RenderableType:
        symbol, colour = STATUS.get(self.status, ("●", ""))
        cluster = self.plan.cluster
        devices = "devices" if cluster.devices != 1 else "device"
        model = model_name(ModelSection.model_validate(self.plan.recipe["model"]))
        about = f"{clean(model)} on {cluster.devices} {cluster.device} {devices}, {clean(cluster.source)}"
        rows = [ends(Text(about), Text(f"{symbol} {clean(self.status)}", colour), width - 4)]
        if missing := [clean(entry.get("id", "")) for entry in self.stages if entry.get("status") != "done"]:
            rows += [Text(line, colour) for line in _wrap(f"not done: {', '.join(missing)}", width - 4)]
        return panel(clean(self.plan.name), _fit(rows, width - 4), width).content

    # --- the panels; an empty list where the run has nothing for one --------------------------------------
    def _learnt(self, width: int) -> list[Text]:
        rows: list[tuple[str, str, str, str, str]] = []
        for entry in self.stages:
            stage = clean(entry.get("id", ""))
            if (what := self.accuracy.get(entry.get("kind", ""))) and "accuracy" in entry:
                loss = f"loss {short(entry.get('loss'))}, {count(entry.get('steps'))} steps"
                rows.append((stage, what, fraction(entry["accuracy"]), _number(entry.get("majority")), loss))
                if "retrieval_accuracy" in entry and entry.get("kind") != "retrieval":
                    rows.append((stage, self.accuracy["retrieval"], fraction(entry["retrieval_accuracy"]), "", ""))
            for task, row in _tasks(entry):
                parts = {task: row} | {f"{task} {clean(name)}": part for name, part in _dict(row.get("also")).items()
                                       if isinstance(part, dict)}
                rows += [(stage, f"{name} {clean(part.get('metric', ''))}", _mean(part), _number(part.get("majority")),
                          _how(row) if part is row else "") for name, part in parts.items()]
            rows += [(stage, f"average {clean(name)}", fraction(value), "", "")
                     for name, value in _dict(entry.get("averages")).items()]
        if not rows:
            return []
        stages, whats, values, majorities, details = zip(*rows, strict=True)
        chosen = [Text(line, DIM) for entry in self.stages for how in _chosen(entry) for line in _wrap(how, width)]
        return _fit([*table([
            Column("stage", _texts(stages), worth=3),
            Column("", _texts(whats), worth=9),
            Column("held out", _texts(values, "bold"), right=True, worth=8),
            Column("majority", _texts(majorities), right=True, worth=7),
            Column("", _texts(details, DIM), worth=1),
        ], width), *chosen], width)

    def _copies(self, width: int) -> list[Text]:
        rows = [(clean(copies), task, row) for entry in self.stages
                for copies, result in _dict(entry.get("copies")).items()
                for task, row in _tasks(_dict(result))]
        if not rows:
            return []
        return _fit(table([
            Column("copies", _texts(copies for copies, _, _ in rows), True, 9),
            Column("", _texts(f"{task} {clean(row.get('metric', ''))}" for _, task, row in rows), worth=6),
            Column("mean ± std", _texts((_mean(row) for _, _, row in rows), "bold"), True, 8),
            Column("majority", _texts(_number(row.get("majority")) for _, _, row in rows), True, 5),
            Column("instances/s", _texts(_speed(row) for _, _, row in rows), True, 7),
        ], width), width)

    def _compositions(self, width: int) -> list[Text]:
        rows = [(clean(name), task, row) for entry in self.stages
                for name, result in _dict(entry.get("compositions")).items()
                for task, row in _tasks(_dict(result))]
        if not rows:
            return []
        return _fit(table([
            Column("groups", _texts(name for name, _, _ in rows), worth=9),
            Column("", _texts(f"{task} {clean(row.get('metric', ''))}" for _, task, row in rows), worth=6),
            Column("mean ± std", _texts((_mean(row) for _, _, row in rows), "bold"), True, 8),
            Column("best ticket", _texts(_number(row.get("max")) for _, _, row in rows), True, 5),
            Column("padding", _texts(percent(row.get("padding")) for _, _, row in rows), True, 7),
            Column("instances/s", _texts(_speed(row) for _, _, row in rows), True, 4),
        ], width), width)

    def _muxology(self, width: int) -> list[Text]:
        """The first and the last layer; the report draws all."""
        rows = [row for entry in self.stages for row in entry.get("models") or ()
                if isinstance(row, dict) and row.get("layers")]
        if not rows:
            return []

        def ends_of(key: str) -> Iterator[Text]:
            return (Text(" → ".join(short(row["layers"][at].get(key)) for at in (0, -1))) for row in rows)

        return _fit(table([
            Column("model", _texts(clean(row.get("name", "")) for row in rows), worth=9),
            Column("layers", _texts(str(len(row["layers"])) for row in rows), True, 5),
            Column("mean |activation|", list(ends_of("mean_abs")), True, 8),
            Column("attention entropy", list(ends_of("attention_entropy")), True, 7),
        ], width), width)

    def _throughput(self, width: int) -> list[Text]:
        everything = [row for entry in self.stages for row in entry.get("rows") or () if isinstance(row, dict)]
        if not everything:
            return []
        rows = ([row for row in everything if is_plainest(row)] or everything)[:THROUGHPUT_ROWS]
        ours = [row for row in rows if row.get("N") == self.N > 1 and row.get("ratio_to_n1")]
        lines = table([
            Column("model", _texts(clean(row.get("model", "")) for row in rows), worth=9),
            Column("head", _texts(clean(row.get("head", "")) for row in rows), worth=1),
            Column("instances/s", _texts(map(_speed, rows)), True, 8),
            Column("x N = 1", _texts((_ratio(row.get("ratio_to_n1")) for row in rows), "bold"), True, 7),
            Column("x BERT BASE", _texts(_ratio(row.get("ratio_to_bert_base")) for row in rows), True, 6),
        ], width)
        if len(rows) < len(everything):
            more = f"… {len(everything) - len(rows)} more rows: other heads, batches and modes"
            lines += [Text(line, DIM) for line in _wrap(more, width)]
        lines += [Text(line, DIM) for line in _wrap(_conditions(rows[0]), width)]
        for row in ours[:1]:
            base = row.get("ratio_to_bert_base")
            also = f", {short(base)} x as fast as BERT BASE" if base else ""
            speed = f"N = {self.N} is {short(row['ratio_to_n1'])} x as fast as N = 1 on this machine{also}."
            lines += map(Text, _wrap(speed, width))
        return _fit(lines, width)

    # --- the model ----------------------------------------------------------------------------------------
    def _use(self, width: int) -> Iterator[Text]:
        """The last model that is there and the Python that uses it, outside of any box, so that it can be copied."""
        made = [(entry, model) for entry in self.stages for model in models(entry).items()]
        found = [(entry, (model, task)) for entry, (model, task) in made if (self.directory / model).is_dir()]
        if made and not found:
            yield Text("\nIts models are not here: they were deleted, or this is a record (mux runs keep).")
        if not found:
            return
        entry, (model, task) = found[-1]
        path = _shown(self.directory / model)
        yield Text(f"\nThe model is in {clean(path)}. In Python:\n")
        lines = (_pretrained_code(path) if entry.get("kind") in ACCURACY
                 else _code(path, _pipeline(entry, task), ROWS_PER_SLOT * self.N, width))
        for line in lines:
            yield Text(line, overflow="fold")


def _pretrained_code(path: str) -> list[str]:
    return ["from mux.model import MuxForPreTraining",
            f"model = MuxForPreTraining.from_pretrained({json.dumps(path, ensure_ascii=False)})"]


def _code(path: str, pipeline: str, batch: int, width: int) -> list[str]:
    """Python that runs as it is printed; a line wider than the screen goes on inside its parentheses."""
    quoted = json.dumps(path, ensure_ascii=False)
    head = ["import mux.model", "from transformers import pipeline"]
    call = [f'print(pipeline("{pipeline}", model={quoted}, batch_size={batch})', '(["...", "..."]))']
    if len("".join(call)) <= width:
        return [*head, "".join(call)]
    return [*head, f'print(pipeline("{pipeline}",', f"    model={quoted},",
            f'    batch_size={batch})(["...", "..."]))']


def _shown(path: Path) -> str:
    """Relative to the current directory if it is below, as one would type it."""
    try:
        return os.fspath(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return os.fspath(path)


def _pipeline(entry: Entry, task: str | None) -> str:
    """The pipeline for the model of a stage's task."""
    words = _dict(_dict(entry.get("tasks")).get(task or "")).get("words")
    return "token-classification" if words else "text-classification"


def models(entry: Entry) -> dict[str, str | None]:
    """Model folders of a stage, relative to the run directory, and the task of each."""
    own: dict[str, str | None] = {entry["model"]: None} if isinstance(entry.get("model"), str) else {}
    return own | {row["model"]: task for task, row in _tasks(entry) if isinstance(row.get("model"), str)}


def _tasks(entry: Entry) -> list[tuple[str, Entry]]:
    return [(clean(task), row) for task, row in _dict(entry.get("tasks")).items() if isinstance(row, dict)]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(values: Any, style: str = "") -> list[Text]:
    return [Text(value, style) for value in values]


def _how(row: Entry) -> str:
    """`over 5 tickets, first of 3 seeds`."""
    parts = [f"over {len(row['tickets'])} tickets"] if row.get("tickets") else []
    if len(row.get("seeds") or ()) > 1:
        parts.append(f"first of {len(row['seeds'])} seeds")
    return ", ".join(parts)


def _chosen(entry: Entry) -> list[str]:
    """`sst2, rte: best of 4 points by held-out train rows (10 %)`."""
    by: dict[str, list[str]] = {}
    for task, row in _tasks(entry):
        if on := _dict(row.get("chosen")).get("on"):
            by.setdefault(f"best of {len(row.get('search') or ())} points by {clean(on)}", []).append(task)
    return [f"{', '.join(tasks)}: {how}" for how, tasks in by.items()]


def _mean(row: Entry) -> str:
    return spread(row.get("mean"), row.get("std"))


def _speed(row: Entry) -> str:
    return count(row.get("instances_per_second"))


def _number(value: float | None) -> str:
    return "" if value is None else fraction(value)


def _ratio(value: float | None) -> str:
    return "" if value is None else decimal(value, 2)


def _conditions(row: Entry) -> str:
    """`batch 128, length 128, 3 x 200 batches, cpu, float32, 2 threads`."""
    words = {"batch": "batch", "sequence_length": "length"}
    parts = [f"{word} {row[key]}" for key, word in words.items() if key in row]
    if "trials" in row and "batches" in row:
        parts.append(f"{row['trials']} x {row['batches']} batches")
    parts += [str(row[key]) for key in ("device", "dtype") if row.get(key)]
    if row.get("threads"):
        parts.append(f"{row['threads']} threads")
    return clean(", ".join(parts))


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return [line for line in lines if line]


def _fit(rows: list[Text], width: int) -> list[Text]:
    return [padded(row, width) for row in rows]
