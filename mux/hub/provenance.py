"""What a run's model was made of, as the run's plan tells it."""

from __future__ import annotations

from mux.plan import Plan, StagePlan
from mux.recipe import TasksSection, definition_of


def chain(plan: Plan, stage_id: str) -> list[StagePlan]:
    """The stages whose training is in the model of this one, in order; the first one's source is outside the run."""
    stage = plan.stage(stage_id)
    inside = stage.source in [other.id for other in plan.stages]
    return [*(chain(plan, str(stage.source)) if inside else ()), stage]


def training_texts(plan: Plan, stage_id: str, task: str | None = None) -> tuple[str, ...]:
    """Where the texts came from that the run trained a stage's model (for `task`) on, as the recipe names them."""
    *earlier, last = chain(plan, stage_id)
    texts = [text for stage in earlier for text in _texts(plan, stage)]
    return tuple(dict.fromkeys([*texts, *([_rows(plan, task)] if task else _texts(plan, last))]))


def _texts(plan: Plan, stage: StagePlan) -> list[str]:
    if stage.kind == "finetune":
        return [_rows(plan, task) for task in stage.task_steps]
    return list(plan.recipe["corpus"]["sources"])


def _rows(plan: Plan, task: str) -> str:
    """The training rows of a task of the recipe, or of a known one."""
    return definition_of(task, TasksSection.model_validate(plan.recipe.get("tasks", {}))).train
