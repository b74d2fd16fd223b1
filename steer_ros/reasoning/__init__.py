"""Thinking: the Reasoner, its prompt, steered generation, and the guard over its answers."""

from .guard import Guard
from .reasoner import Reasoner
from .turn import Turn

__all__ = ["Guard", "Reasoner", "Turn"]
