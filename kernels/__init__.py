"""Steered attention, and all that the rest of steer_ros may use of it.

`impl/reference.py` is the specification; every faster implementation is tested against it.
"""

from . import inspect
from .api import steered_attention, triton_unsupported_reason
from .checks import IMPLS, LAW_NAMES, MAX_ALPHA, SETPOINT_LAWS, check_alpha, check_law, check_setpoint
from .fields import KeyField, make_key_field
from .impl.reference import LAWS, SteeredAttention, steered_attention_reference
from .impl.sdpa.row_bias import RowBias, make_row_bias
from .impl.sdpa.steered_rows import attend_rows, chunk_rows, focus_rows
from .update import update_field

__all__ = [
    "IMPLS",
    "LAWS",
    "LAW_NAMES",
    "MAX_ALPHA",
    "SETPOINT_LAWS",
    "KeyField",
    "RowBias",
    "SteeredAttention",
    "attend_rows",
    "check_alpha",
    "check_law",
    "check_setpoint",
    "chunk_rows",
    "focus_rows",
    "inspect",
    "make_key_field",
    "make_row_bias",
    "steered_attention",
    "steered_attention_reference",
    "triton_unsupported_reason",
    "update_field",
]
