"""Steered attention. `reference` is the specification; every faster implementation is tested against it."""

from .api import steered_attention
from .checks import LAW_NAMES, MARKED, MAX_ALPHA
from .fields import KeyField, make_key_field
from .reference import LAWS, SteeredAttention, steered_attention_reference

__all__ = [
    "LAWS",
    "LAW_NAMES",
    "MARKED",
    "MAX_ALPHA",
    "KeyField",
    "SteeredAttention",
    "make_key_field",
    "steered_attention",
    "steered_attention_reference",
]
