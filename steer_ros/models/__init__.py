"""The models' common ground: loading, tokenization, visual features, the bridge between two models, decoding."""

from .bridge import Bridge, load_bridge
from .features import VisualFeatures
from .loading import ModelLoadError, builtin_names, resolve

__all__ = ["Bridge", "ModelLoadError", "VisualFeatures", "builtin_names", "load_bridge", "resolve"]
