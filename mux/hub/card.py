"""Model cards: the README.md of every model folder, written here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

PIPELINES = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForMaskedLM": "fill-mask",
}
PREDICTED = ("AutoModelForSequenceClassification", "AutoModelForTokenClassification")  # what `mux predict` takes
FAMILIES = {"bert": "BERT", "electra": "ELECTRA"}
TOKENIZER = "google-bert/bert-base-uncased"  # of the published models

GROUPS = """## What N means

**The model reads {N} texts in one forward pass.** Rows are grouped {N} by {N} in the order in which they are given, so
**a prediction depends on the other texts of its group** (its companions), a little. A group that is not full is filled
up with the first rows of the batch: send batches that are multiples of {N}.
"""

INDEPENDENT = """`mux predict` groups texts of similar length, which is fastest; with `--companions given` neighbours in
the file. Where a prediction must not depend on its companions:

- `mux predict {folder} FILE --companions fixed` gives every text the same companions in the same slots, so that its
  prediction is the same whatever else is in the file. This costs a whole pass a text: nothing of the speed is left.
- `mux predict {folder} FILE --copies K`, K = 1 .. {N}, reads every text K times among different companions and
  averages: the companions matter less, the accuracy rises, and the throughput falls by K.
"""

ONNX = """## ONNX

`model.onnx` takes what the tokenizer gives (int64, [rows, length]) and gives `logits`; it was compared with the model
under onnxruntime when it was made. The rows must be a multiple of N = {N}: fill the last group with the first rows
again, and drop what comes out for them.
"""

LICENCE = """## Licence

This card grants none: whoever publishes the model chooses one. The texts it was trained on keep their own
licences{builtin}.
"""


def model_card(config: PreTrainedConfig, *, name: str, made_by: str, folder: str, auto_class: str,
               results: Mapping[str, Any] | None = None, task: str | None = None,
               sources: Sequence[str] = (), onnx: bool = False, tokenizer: bool = True) -> str:
    """The card of a model in markdown, for a MuxConfig or any other encoder's config.

    `made_by`: a phrase, "stage `finetune` of the run `quickstart`". `folder`: where the model will be.
    `auto_class`: the Auto class that loads it. `results`: the content of the run's results.json; of `task` alone, if
    it is given. `sources`: where the training texts came from, as a recipe names them. `onnx`, `tokenizer`: there is a
    model.onnx, a tokenizer.
    """
    N = getattr(config, "num_instances", 1)
    parts = [
        _head(auto_class, N, sources),
        f"# {name}\n\n{_description(config, N)} Made by {made_by}.\n",
        GROUPS.format(N=N) if N > 1 else "",
        INDEPENDENT.format(N=N, folder=folder) if N > 1 and auto_class in PREDICTED else "",
        _use(config, folder, auto_class, N, tokenizer),
        ONNX.format(N=N) if onnx else "",
        _results(results or {}, task),
        _sources(sources),
        LICENCE.format(builtin=" (the embedded Wikipedia texts: CC BY-SA 4.0)"
                       if any(source.startswith("builtin:") for source in sources) else ""),
    ]
    return "\n".join(part for part in parts if part)


def _head(auto_class: str, N: int, sources: Sequence[str]) -> str:
    """The metadata that the hub reads; data sets of the hub are linked by their ids."""
    lines = ["library_name: transformers"]
    if pipeline := PIPELINES.get(auto_class):
        lines.append(f"pipeline_tag: {pipeline}")
    lines.append("tags: [data-multiplexing, mux-plm]" if N > 1 else "tags: [mux-plm]")
    ids = [match[1] for source in sources if (match := re.match(r"hub:([\w.-]+(?:/[\w.-]+)?)", source))]
    if ids:
        lines.append(f"datasets: [{', '.join(dict.fromkeys(ids))}]")
    return "---\n{}\n---\n".format("\n".join(lines))


def _description(config: PreTrainedConfig, N: int) -> str:
    shape = f"{config.num_hidden_layers} layers of width {config.hidden_size}"
    family = getattr(config, "family", config.model_type)
    encoder = FAMILIES.get(family, family)
    if N == 1:
        return f"A {encoder} encoder, {shape}."
    compat = " The numerics are those of the published MUX-PLMs." if getattr(config, "compat", None) else ""
    return (f"A multiplexed {encoder} encoder (N = {N}, {config.multiplexer} multiplexer, {config.demultiplexer} "
            f"demultiplexer), {shape}.{compat}")


def _use(config: PreTrainedConfig, folder: str, auto_class: str, N: int, tokenizer: bool) -> str:
    mux = config.model_type == "mux"
    registers = ["import mux.model  # registers the model with transformers"] if mux else []
    code = [*registers, f"from transformers import {auto_class}, AutoTokenizer",
            f'model = {auto_class}.from_pretrained("{folder}")',
            f'tokenizer = AutoTokenizer.from_pretrained("{folder if tokenizer else TOKENIZER}")']
    text = "## How to use it\n\n```python\n{}\n```\n".format("\n".join(code))
    if not tokenizer:
        text += (f"\nThe folder has no tokenizer: the published models use that of {TOKENIZER}. Save it here, with "
                 "`tokenizer.save_pretrained`, for pipelines and for `mux predict`.\n")
    elif pipeline := PIPELINES.get(auto_class):
        caller = "mux.model.pipeline" if mux else "transformers.pipeline"
        text += f'\nor `{caller}("{pipeline}", "{folder}")`'
        text += f", which sends {32 * N} texts at once" if mux else ""
        if auto_class in PREDICTED:
            text += f"; or, for files of any length, `mux predict {folder} texts.jsonl --output predicted.jsonl`"
        text += ".\n"
    return text


def _sources(sources: Sequence[str]) -> str:
    return "## Training texts\n\n{}\n".format("\n".join(f"- `{source}`" for source in sources)) if sources else ""


# --- results.json as tables ---------------------------------------------------------------------------------
def _results(results: Mapping[str, Any], task: str | None) -> str:
    stages = [stage for stage in results.get("stages", ()) if stage.get("status") == "done"]
    tables = [
        _table(("stage", "steps", "loss", "accuracy", "retrieval accuracy"), _trained(stages)),
        _table(("stage", "task", "copies", "metric", "mean", "std", "max", "min", "tickets", "majority"),
               _scored(stages, task)),
        _table(("model", "N", "instances/s", "against its N = 1", "against BERT BASE"), _timed(stages)),
    ]
    found = [table for table in tables if table]
    if not found:
        return ""
    note = ("A ticket is one composition of the test texts into groups; mean, std, max and min are over tickets. "
            "Majority is the score of always answering the most frequent class.\n")
    return "## Results\n\n{}\n{}".format("\n".join(found), note if tables[1] else "")


def _trained(stages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Any, ...]]:
    for stage in stages:
        if stage["kind"] in ("retrieval", "pretrain"):
            yield tuple(stage.get(key) for key in ("id", "steps", "loss", "accuracy", "retrieval_accuracy"))


def _scored(stages: Sequence[Mapping[str, Any]], task: str | None) -> Iterator[tuple[Any, ...]]:
    for stage in stages:
        by_copies = {"1": stage, **stage.get("copies", {})}
        for copies, entry in by_copies.items():
            for name, row in entry.get("tasks", {}).items():
                if task in (None, name):
                    scores = {row["metric"]: row | {"tickets": len(row["tickets"])}, **row.get("others", {})}
                    for metric, score in scores.items():
                        yield stage["id"], name, copies, metric, *(
                            score.get(key) for key in ("mean", "std", "max", "min", "tickets", "majority"))


def _timed(stages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Any, ...]]:
    for stage in stages:
        for row in stage.get("rows", ()):
            yield tuple(row.get(key)
                        for key in ("model", "N", "instances_per_second", "ratio_to_n1", "ratio_to_bert_base"))


def _table(titles: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> str:
    """A markdown table; empty without rows."""
    lines = [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}", *lines, ""]) if lines else ""


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.4f}"
    return str(value).replace("|", "\\|")

