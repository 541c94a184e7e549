"""Grouped inference over files: `mux predict`."""

from mux.predict.files import Interrupted, Rows, output_kind, predict_file
from mux.predict.heads import Text
from mux.predict.predictor import Predictor

__all__ = ["Interrupted", "Predictor", "Rows", "Text", "output_kind", "predict_file"]
