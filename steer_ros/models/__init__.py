"""Who: the vision-language model (Perceiver), the reasoner, the bridge between them, and their loading."""

from .bridge import Bridge, load_bridge
from .grounding import Grounding
from .loading import ModelLoadError, builtin_names, resolve
from .perceiver import Perceiver, VisualFeatures
from .reasoner import Reasoner
from .turn import Turn

__all__ = [
    "Bridge",
    "Grounding",
    "ModelLoadError",
    "Perceiver",
    "Reasoner",
    "Turn",
    "VisualFeatures",
    "builtin_names",
    "load_bridge",
    "resolve",
]
