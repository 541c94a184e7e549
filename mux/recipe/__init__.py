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
    ModelSection,
    Recipe,
    Shape,
    TaskDefinition,
    TasksSection,
    TokenizerSection,
)
from mux.recipe.section import Section
from mux.recipe.stages import (
    EnsembleStage,
    EvaluateStage,
    FinetuneStage,
    MuxologyStage,
    PretrainStage,
    RetrievalStage,
    Search,
    Stage,
    StageSection,
    ThroughputModels,
    ThroughputStage,
    TrainingStage,
)
from mux.recipe.tasks import definition_of

__all__ = [
    "HUB_KEYS",
    "ClusterSection",
    "CorpusSection",
    "Departures",
    "EngineSection",
    "EnsembleStage",
    "EvaluateStage",
    "FinetuneStage",
    "Loaded",
    "ModelSection",
    "MuxologyStage",
    "PretrainStage",
    "Problem",
    "Recipe",
    "Refusal",
    "RetrievalStage",
    "Search",
    "Section",
    "Shape",
    "Stage",
    "StageSection",
    "TaskDefinition",
    "TasksSection",
    "ThroughputModels",
    "ThroughputStage",
    "TokenizerSection",
    "TrainingStage",
    "definition_of",
    "differences",
    "digest",
    "harmless",
    "load",
]
