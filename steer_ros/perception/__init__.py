"""Seeing: the vision-language model as a Perceiver, grounding, saliency, and the source of a frame's regions."""

from .grounding import Grounding
from .perceiver import Perceiver

__all__ = ["Grounding", "Perceiver"]
