"""Thinking: the Reasoner, its prompt, steered generation, and the guard over its answers."""

from .reasoner import Reasoner
from .turn import Turn
from .turn_options import Callbacks, Limits

__all__ = ["Callbacks", "Limits", "Reasoner", "Turn"]
