"""`mux export --checkpoint`: a model folder from the shards of a checkpoint, of any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel

from mux import manifest as manifests
from mux.event import Event
from mux.hub.folder import written_whole
from mux.hub.provenance import training_texts
from mux.manifest import Manifest, folder_name
from mux.model import MuxForPreTraining
from mux.plan import Plan
from mux.rank import StopFlag, Voice
from mux.recipe import FinetuneStage, PretrainStage, Recipe, RetrievalStage
from mux.recipe.wording import listed
from mux.run import RunDirectory
from mux.stages.context import Context
from mux.stages.evaluation import open_task
from mux.stages.loading import config_of
from mux.stages.model_folder import write_model
from mux.train.engine import Alone, load_weights

NEWEST = "latest"


class Silent:
    """A voice that nobody hears: the work has no run that is going on."""

    def __call__(self, event: Event) -> None: ...

    def follow(self, event: Event) -> None: ...

    def progress(self, what: str, done: int, total: int | None, unit: str = "") -> None: ...


def export_checkpoint(run: RunDirectory, checkpoint: str, stage: str | None, task: str | None,
                      destination: Path) -> tuple[str, list[str]]:
    """Write the model that the run would have left if it had ended there: (what it is, the names of the files).

    `checkpoint`: "latest" or a step; `stage`: a stage's id, or a training of it ("finetune/topic/seed0_..."). Raises
    ValueError if that does not name one, naming those there are; InvalidCheckpoint if it is damaged.
    """
    plan = run.read_plan()
    training, folder = _chosen(run, plan, checkpoint, stage, task)
    with written_whole(destination) as part:
        manifest = manifests.verify(folder)
        context = Context(run=run, plan=plan, recipe=Recipe.model_validate(plan.recipe), ranks=Alone(),
                          voice=cast(Voice, Silent()), stop=cast(StopFlag, lambda: False))
        what = f"step {manifest.step} of {training} of the run `{plan.name}`"
        _write(context, training, manifest, folder, part, destination, what)
        return what, sorted(path.name for path in part.iterdir())


def _chosen(run: RunDirectory, plan: Plan, checkpoint: str, stage: str | None, task: str | None) -> tuple[str, Path]:
    """(training, folder) of the one checkpoint that is meant; without a stage, of the last that has any."""
    there = {name: (folder, steps) for name, folder in run.checkpoint_folders(plan).items()
             if (steps := manifests.steps(folder))}
    last = next((name.split("/")[0] for name in reversed(there)), None)
    found = [name for name in there if (stage or last) in (name, name.split("/")[0])
             and task in (None, *name.split("/")[1:2])]
    if len(found) != 1:
        choice = f"choose from {', '.join(f'--stage {name}' for name in there)}" if there else "there is none"
        raise ValueError(f"{run.path} has checkpoints of {'several such trainings' if found else 'no such training'}; "
                         f"{choice}")
    folder, steps = there[found[0]]
    if checkpoint == NEWEST:
        return found[0], folder / folder_name(steps[-1])
    if checkpoint not in map(str, steps):
        raise ValueError(f"{folder} has no checkpoint of step {checkpoint}: it has {listed(list(map(str, steps)))}")
    return found[0], folder / folder_name(int(checkpoint))


def _write(context: Context, training: str, manifest: Manifest, folder: Path, part: Path, home: Path,
           what: str) -> None:
    stage_id, _, rest = training.partition("/")
    task = rest.partition("/")[0] or None
    model = _model(context, stage_id, task)
    load_weights(model, folder, manifest.zero_stage)
    write_model(context, model, model.state_dict(), part, stage_id, home, what,
                training_texts(context.plan, stage_id, task))


def _model(context: Context, stage_id: str, task: str | None) -> PreTrainedModel:
    """Of the stage's kind, with weights that are to be replaced."""
    stage = next(stage for stage in context.recipe.stages if stage.id == stage_id)
    if isinstance(stage, FinetuneStage):
        assert task is not None
        return context.encoder.starting(stage, open_task(context, task, stage_id), None)
    assert isinstance(stage, PretrainStage | RetrievalStage)
    rate = stage.retrieval_rate if isinstance(stage, PretrainStage) else 1.0
    return cast(Any, MuxForPreTraining(config_of(context.recipe.model, context.tokenizer, rate)))
