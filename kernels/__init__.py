"""Steered attention, and all that the rest of steer_ros may use of it.

`impl/reference.py` is the specification; every faster implementation is tested against it.
"""

from . import inspect
from .api import steered_attention, why_not_triton
from .checks import IMPLS, LAW_NAMES, MARKED, MAX_ALPHA, check_alpha, check_law, check_mark
from .fields import KeyField, make_key_field
from .impl.reference import LAWS, SteeredAttention, steered_attention_reference
from .impl.sdpa.row_bias import Terms, make_terms
from .impl.sdpa.rows import attend_rows, chunk_rows, focus_rows
from .update import update_field

__all__ = [
    "IMPLS",
    "LAWS",
    "LAW_NAMES",
    "MARKED",
    "MAX_ALPHA",
    "KeyField",
    "SteeredAttention",
    "Terms",
    "attend_rows",
    "check_alpha",
    "check_law",
    "check_mark",
    "chunk_rows",
    "focus_rows",
    "inspect",
    "make_key_field",
    "make_terms",
    "steered_attention",
    "steered_attention_reference",
    "update_field",
    "why_not_triton",
]
