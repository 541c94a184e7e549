"""`mux export`: a run's model, or any model folder, as a folder to give away: weights, tokenizer, model card, ONNX."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
)

from mux.hub.card import model_card
from mux.hub.fetch import local_folder
from mux.hub.folder import written_whole
from mux.hub.provenance import chain, training_texts
from mux.model.opening import open_config, open_model
from mux.model.pipelines import open_tokenizer
from mux.model.precision import HALVES, MULTIPLIED, to_precision
from mux.recipe.wording import reason
from mux.run import RunDirectory, read_results

AUTO_CLASSES: dict[str, Any] = {
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForPreTraining": AutoModelForPreTraining,
    "ForMaskedLM": AutoModelForMaskedLM,
}
COMPANIONS = "companions.json"  # texts for `mux predict --companions fixed`; goes with the model if it is there


@dataclass(frozen=True)
class Origin:
    """A model folder, and what is known about how it was made."""

    folder: Path
    name: str
    made_by: str
    results: Mapping[str, Any] | None = None  # the content of the run's results.json
    task: str | None = None
    sources: tuple[str, ...] = ()  # of the training texts, as the recipe names them


def find_model(source: str, stage: str | None = None, task: str | None = None) -> Origin:
    """The model that `source` means: a folder, hub:ID, or of a run its last fine-tuned, else its last pre-trained one.

    `stage` and `task` choose among a run's models. Raises ValueError, naming the models there are, if that does not
    leave one.
    """
    path = local_folder(source) if source.startswith(("hub:", "princeton:")) else Path(source)
    if (path / "config.json").is_file():
        if stage or task:
            raise ValueError(f"{path} is a model folder: --stage and --task choose a model of a run")
        return Origin(path, path.absolute().name, f"`mux export` from the folder `{path.absolute().name}`")
    results = read_results(path / "results.json")
    if results is None:
        raise ValueError(f"{path} is neither a model folder (config.json) nor a run directory (results.json)")
    try:
        models = run_models(results)
    except (TypeError, AttributeError, KeyError):
        raise ValueError(f"{path / 'results.json'} is not what a run writes") from None
    if models and not any((path / model).is_dir() for _, _, model in models):
        raise ValueError(f"{path} holds none of its models: they were deleted, or this is a record (mux runs keep); "
                         "its recipe trains them again")
    kinds = {entry["id"]: entry["kind"] for entry in results["stages"]}
    last = next((of for of, _, _ in reversed(models) if kinds[of] == "finetune"), models[-1][0] if models else None)
    found = [model for model in models if model[0] == (stage or last) and task in (None, model[1])]
    if len(found) != 1:
        there = ", ".join(f"--stage {of}{f' --task {name}' if name else ''}" for of, name, _ in models)
        raise ValueError(f"{path} has {'several models' if found else 'no such model'}; "
                         f"{f'choose from {there}' if there else 'none has been trained yet'}")
    of, name, model = found[0]
    try:
        plan = RunDirectory(path).read_plan()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path / 'plan.json'} cannot be read: {reason(error)}") from None
    start = chain(plan, of)[0].source
    made_by = f"stage `{of}` of the run `{results['name']}`" + (f", which began with `{start}`" if start else "")
    return Origin(path / model, "-".join(filter(None, (results["name"], name))), made_by, results, name,
                  training_texts(plan, of, name))


def run_models(results: Mapping[str, Any]) -> list[tuple[str, str | None, str]]:
    """(stage id, task, path inside the run) of every model that a run has finished, in order."""
    models: list[tuple[str, str | None, str]] = []
    for entry in results["stages"]:
        if entry["status"] == "done" and entry["kind"] == "finetune":
            models += [(entry["id"], task, row["model"]) for task, row in entry["tasks"].items()]
        elif entry["status"] == "done" and "model" in entry:
            models.append((entry["id"], None, entry["model"]))
    return models


def export(origin: Origin, destination: Path, onnx: bool = False, precision: str = "fp32") -> list[str]:
    """Write the model to `destination`, whole or not at all; the names of the files. `precision`: of the weights, or
    "int8", of a second ONNX file.

    Raises ValueError if something is at the destination, or weights, the tokenizer or packages are missing, or for a
    precision that does not go with the rest; OnnxFailure if (with `onnx`) the model cannot be exported or the file does
    not compute the same.
    """
    if precision == "int8" and not onnx:
        raise ValueError("int8 weights are those of an ONNX file: --onnx --precision int8 "
                         "(mux predict --precision int8 makes its own from any folder)")
    if precision in MULTIPLIED:
        raise ValueError(f"a file has no {precision}, which says how fp32 weights are multiplied: export them as fp32, "
                         f"and read texts with mux predict --precision {precision}")
    if precision in HALVES and onnx:
        raise ValueError(f"ONNX files are in fp32, or with --precision int8 in int8, too: not in {precision}")
    if onnx:
        from mux.hub.onnx import export_onnx, quantize_onnx, require  # their packages are an extra

        require()
    with written_whole(destination) as part:
        config = open_config(origin.folder)
        auto_class = auto_class_of(config, origin.folder)
        tokenizer = open_tokenizer(origin.folder, config)
        model = open_model(auto_class, origin.folder)
        if precision != "int8":
            model = to_precision(model, precision, torch.device("cpu"))
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        if (origin.folder / COMPANIONS).exists():
            shutil.copyfile(origin.folder / COMPANIONS, part / COMPANIONS)
        if onnx:
            export_onnx(model, part / "model.onnx")
        if precision == "int8":
            quantize_onnx(part / "model.onnx", part / "model.int8.onnx")
        card = model_card(config, name=origin.name, made_by=origin.made_by, folder=str(destination),
                          auto_class=auto_class.__name__, results=origin.results, task=origin.task,
                          sources=origin.sources, onnx=onnx)
        (part / "README.md").write_text(card, encoding="utf-8")
        return sorted(path.name for path in part.iterdir())


def auto_class_of(config: PreTrainedConfig, folder: Path) -> Any:
    names: Sequence[str] = config.architectures or ()
    for ending, auto_class in AUTO_CLASSES.items():
        if any(name.endswith(ending) for name in names):
            return auto_class
    raise ValueError(f"{folder} holds {' or '.join(names) or 'no head'}; only models with a head are exported: "
                     f"{', '.join(AUTO_CLASSES)}")
