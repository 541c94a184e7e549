"""Recipes: what a run is to do, as one TOML file that may extend another. No torch: the launcher reads them.

    loaded = load(Path("recipes/quickstart.toml"), ["stages.pretrain.steps=100"])
    loaded.recipe.model.N, loaded.provenance["model.N"]     # 2, "recipes/quickstart.toml:12"
"""

from mux.recipe.digest import differences, digest, harmless
from mux.recipe.loader import Loaded, load
from mux.recipe.refusal import Problem, Refusal
from mux.recipe.schema import (
    HUB_KEYS,
    ClusterSection,
    CorpusSection,
    Departures,
    EngineSection,
    EnsembleStage,
    EvaluateStage,
    FinetuneStage,
    ModelSection,
    PretrainStage,
    Recipe,
    RetrievalStage,
    Search,
    Shape,
    Stage,
    StageSection,
    TaskDefinition,
    TasksSection,
    ThroughputStage,
    TokenizerSection,
    TrainingStage,
)
from mux.recipe.tasks import TASKS

__all__ = [
    "HUB_KEYS",
    "TASKS",
    "ClusterSection",
    "CorpusSection",
    "Departures",
    "EngineSection",
    "EnsembleStage",
    "EvaluateStage",
    "FinetuneStage",
    "Loaded",
    "ModelSection",
    "PretrainStage",
    "Problem",
    "Recipe",
    "Refusal",
    "RetrievalStage",
    "Search",
    "Shape",
    "Stage",
    "StageSection",
    "TaskDefinition",
    "TasksSection",
    "ThroughputStage",
    "TokenizerSection",
    "TrainingStage",
    "differences",
    "digest",
    "harmless",
    "load",
]
