"""MUX models for transformers: importing this package registers them with the Auto classes."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from mux.model.classification import MuxForSequenceClassification, MuxForTokenClassification
from mux.model.config import MuxConfig
from mux.model.muxed import MuxModel
from mux.model.pipelines import pipeline
from mux.model.pretraining import MuxForMaskedLM, MuxForPreTraining

AutoConfig.register(MuxConfig.model_type, MuxConfig)
AutoModel.register(MuxConfig, MuxModel)
AutoModelForPreTraining.register(MuxConfig, MuxForPreTraining)
AutoModelForMaskedLM.register(MuxConfig, MuxForMaskedLM)
AutoModelForSequenceClassification.register(MuxConfig, MuxForSequenceClassification)
AutoModelForTokenClassification.register(MuxConfig, MuxForTokenClassification)

__all__ = [
    "MuxConfig",
    "MuxForMaskedLM",
    "MuxForPreTraining",
    "MuxForSequenceClassification",
    "MuxForTokenClassification",
    "MuxModel",
    "pipeline",
]
