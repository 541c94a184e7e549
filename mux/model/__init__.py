"""MUX models for transformers: importing this package registers them with the Auto classes."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
)

from mux.model.config import MuxConfig
from mux.model.heads import MuxForPreTraining, MuxForSequenceClassification
from mux.model.muxed import MuxModel
from mux.model.pipelines import pipeline

AutoConfig.register(MuxConfig.model_type, MuxConfig)
AutoModel.register(MuxConfig, MuxModel)
AutoModelForPreTraining.register(MuxConfig, MuxForPreTraining)
AutoModelForMaskedLM.register(MuxConfig, MuxForPreTraining)
AutoModelForSequenceClassification.register(MuxConfig, MuxForSequenceClassification)

__all__ = ["MuxConfig", "MuxForPreTraining", "MuxForSequenceClassification", "MuxModel", "pipeline"]
