"""What a steered attention call accepts. Each message names the argument, what it got and what is accepted."""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch
from torch import Tensor

from .fields import KeyField

LAW_NAMES = ("none", "additive", "conserving", "share", "target")
IMPLS = ("auto", "reference", "sdpa", "triton")
SETPOINT_LAWS = ("share", "target")  # the laws that have a setpoint, and want weights of at least 0
MAX_ALPHA = 64.0  # e^64 still leaves fp32 ten decades of room; nobody needs as much
MIN_SCALE, MAX_SCALE = 1e-20, 1e20  # the kernels divide by the scale, in fp32
_ALPHAS = f"finite numbers from {-MAX_ALPHA:g} to {MAX_ALPHA:g}"  # made here: torch.compile's tracing can't
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """q [B, Hq, S, D], k [B, Hk, K, D], v [B, Hk, K, Dv]: one float dtype, one device, Hk a divisor of Hq."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name}: {type(tensor).__name__}; accepted is a tensor")
    q_shape, k_shape, v_shape = q.shape, k.shape, v.shape
    if (
        len(q_shape) == len(k_shape) == len(v_shape) == 4
        and q.dtype == k.dtype == v.dtype
        and q.device == k.device == v.device
        and q.layout == k.layout == v.layout == torch.strided
        and q.dtype in _FLOATS
        and 0 not in q_shape
        and 0 not in k_shape
        and v_shape[3] > 0
        and k_shape[:3] == v_shape[:3]
        and k_shape[0] == q_shape[0]
        and k_shape[3] == q_shape[3]
        and q_shape[1] % k_shape[1] == 0
    ):
        return
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.ndim != 4:
            raise ValueError(f"{name}: shape {list(tensor.shape)}; accepted is [batch, heads, length, head size]")
        if tensor.layout != torch.strided:
            raise ValueError(f"{name}: layout {tensor.layout}; accepted is torch.strided, call .to_dense()")
        if 0 in tensor.shape:
            raise ValueError(f"{name}: shape {list(tensor.shape)}; accepted are sizes of at least 1")
        if tensor.dtype != q.dtype or tensor.dtype not in _FLOATS:
            raise ValueError(
                f"{name}: dtype {tensor.dtype}; accepted is one float dtype for q, k and v, 16 to 64 bits"
            )
        if tensor.device != q.device:
            raise ValueError(f"{name}: on {tensor.device}; accepted is q's device, {q.device}")
    batch, q_heads, _, head_size = q.shape
    if k.shape[0] != batch or k.shape[3] != head_size or q_heads % k.shape[1]:
        raise ValueError(
            f"k: shape {list(k.shape)}; accepted for this q is [{batch}, a divisor of {q_heads}, keys, {head_size}]"
        )
    raise ValueError(f"v: shape {list(v.shape)}; accepted is k's batch, heads and keys, {list(k.shape[:3])}")


def check_law(law: str, setpoint: object) -> None:
    """The law's name, and whether it has a setpoint."""
    if law not in LAW_NAMES:
        raise ValueError(f"law: {law!r}; accepted are {', '.join(LAW_NAMES)}")
    if law not in SETPOINT_LAWS:
        if setpoint is not None:
            raise ValueError(
                f"setpoint: {setpoint} with law {law}; accepted is None: only {' and '.join(SETPOINT_LAWS)} have one"
            )
    elif setpoint is None:
        raise ValueError(f"setpoint: None; accepted for law {law} is {setpoint_range(law)}")


def setpoint_range(law: str) -> str:
    """What `setpoint` may be, in words."""
    if law == "share":
        return "a number from 0 to 1, the region's share of what a row pays to V"
    return "a number between 0 and 1, both excluded, the region's share of a row"


def check_alpha(alpha: object) -> float:
    """alpha given as a number, as a float."""
    return _number("alpha", alpha, -MAX_ALPHA, MAX_ALPHA, _ALPHAS)


def check_setpoint(law: str, setpoint: object) -> float:
    """The setpoint of `law`, given as a number, as a float."""
    value = _number("setpoint", setpoint, 0.0, 1.0, setpoint_range(law))
    if law == "target" and not 0.0 < value < 1.0:
        raise ValueError(f"setpoint: {setpoint!r}; accepted for law target is {setpoint_range(law)}")
    return value


def _number(name: str, value: object, low: float, high: float, accepted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (float, int, Real)):
        raise ValueError(f"{name}: {value!r}; accepted are {accepted}")
    number = float(value)
    if not (math.isfinite(number) and low <= number <= high):
        raise ValueError(f"{name}: {value!r}; accepted are {accepted}")
    return number


def check_scalar_tensor(name: str, tensor: Tensor, q: Tensor) -> None:
    """alpha or setpoint given as a tensor: one float32 (or float64) number on q's device, which is not read
    here."""
    if tensor.numel() != 1 or tensor.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"{name}: {tensor.dtype} {list(tensor.shape)}; accepted is a number or one float32 number in a tensor"
        )
    if tensor.device != q.device:
        raise ValueError(f"{name}: on {tensor.device}; accepted is q's device, {q.device}")


def check_scale(scale: object) -> float:
    """scale as a float."""
    if isinstance(scale, bool) or not isinstance(scale, (float, int, Real)) or not MIN_SCALE <= scale <= MAX_SCALE:
        raise ValueError(f"scale: {scale!r}; accepted is a number above 0, from {MIN_SCALE:g} to {MAX_SCALE:g}")
    return float(scale)


def check_field(field: KeyField | None, q: Tensor, length: int | None, keys: int) -> None:
    """The field against this call: batch, heads, device, and that it ends within the valid length, if known."""
    if field is None:
        return
    if not isinstance(field, KeyField):
        raise ValueError(f"field: {type(field).__name__}; accepted is a KeyField, as make_key_field gives, or None")
    fits = q.shape[0], q.shape[1], q.device
    if torch.compiler.is_compiling() or field.__dict__.get("_fits") != fits:
        _check_tables(field, q)
        if not torch.compiler.is_compiling():
            _check_field_values(field)
            field.__dict__["_fits"] = fits  # it is frozen: its tensors are for good, but for values
    if field.start < 0 or field.end > (keys if length is None else length):
        what = "the number of keys" if length is None else "valid_length"
        limit = keys if length is None else length
        raise ValueError(
            f"field: keys {field.start} to {field.end}; accepted are 0 to {what}, {limit} "
            "(KeyField.truncated cuts one)"
        )


def _check_tables(field: KeyField, q: Tensor) -> None:
    """The field's tensors against each other and this q."""
    if isinstance(field.start, bool) or not isinstance(field.start, (int, torch.SymInt)):
        raise ValueError(f"field: start {field.start!r}; accepted is a whole number")
    weights, visual, weight_extrema, gains = field.weights, field.visual, field.weight_extrema, field.gains
    shape = weights.shape
    if weights.dtype != torch.int8 or weights.ndim not in (1, 2) or (weights.ndim == 2 and shape[0] != q.shape[0]):
        raise ValueError(
            f"field: weights {weights.dtype} {list(shape)}; accepted is int8, [n] or [{q.shape[0]}, n] for this batch"
        )
    if visual.dtype != torch.bool or visual.shape != shape:
        raise ValueError(f"field: visual {visual.dtype} {list(visual.shape)}; accepted is bool, {list(shape)}")
    if weight_extrema.dtype != torch.int8 or weight_extrema.shape != (*shape, 2):
        raise ValueError(
            f"field: weight_extrema {weight_extrema.dtype} {list(weight_extrema.shape)}; "
            f"accepted is int8, {[*shape, 2]}"
        )
    if gains is not None and (
        gains.dtype not in (torch.float32, torch.float8_e4m3fn) or gains.ndim != 1 or gains.shape[0] != q.shape[1]
    ):
        raise ValueError(
            f"field: gains {gains.dtype} {list(gains.shape)}; accepted is float32 or float8_e4m3fn, [{q.shape[1]}], "
            "one for each query head"
        )
    tables = {"weights": weights, "visual": visual, "weight_extrema": weight_extrema, "gains": gains}
    for name, tensor in tables.items():
        if tensor is not None and tensor.device != q.device:
            raise ValueError(f"field: {name} on {tensor.device}; accepted is q's device, {q.device}")


def _check_field_values(field: KeyField) -> None:
    """What the tables hold, where they can be read without waiting for a device."""
    weights, gains = field.weights, field.gains
    if type(weights) is not Tensor or not weights.is_cpu:
        return
    if bool((weights == -128).any()):
        raise ValueError("field: weights of -128; accepted are -127 to 127")
    if bool(weights.masked_fill(field.visual, 0).any()):
        raise ValueError("field: weights not 0 outside V; accepted there is 0, as make_key_field sees to")
    if gains is not None and not bool(torch.isfinite(gains.float()).all()):
        raise ValueError(f"field: gains {gains.float().tolist()}; accepted are finite numbers")


def check_rows(rows: Tensor | None, q: Tensor) -> None:
    """rows: bool [S] on q's device, or None."""
    if rows is None:
        return
    if not isinstance(rows, Tensor):
        raise ValueError(f"rows: {type(rows).__name__}; accepted is a bool tensor, [{q.shape[2]}], or None")
    if rows.dtype != torch.bool or rows.ndim != 1 or rows.shape[0] != q.shape[2]:
        raise ValueError(f"rows: {rows.dtype} {list(rows.shape)}; accepted is torch.bool, [{q.shape[2]}]")
    if rows.device != q.device:
        raise ValueError(f"rows: on {rows.device}; accepted is q's device, {q.device}")


def check_length_tensor(length: Tensor, q: Tensor) -> None:
    """valid_length given as a tensor: one whole number, for the whole batch."""
    if length.dtype not in (torch.int32, torch.int64) or length.numel() != 1:
        raise ValueError(
            f"valid_length: {length.dtype} {list(length.shape)}; accepted is one int32 or int64 number: "
            "all of a batch have the same length (unpadded)"
        )
    if length.device != q.device:
        raise ValueError(f"valid_length: on {length.device}; accepted is q's device, {q.device}")


def check_length(length: int, rows: int, keys: int) -> None:
    """valid_length against the number of keys and rows."""
    if not rows <= length <= keys:
        raise ValueError(f"valid_length: {length}; accepted are {rows} (the rows) to {keys}, the number of keys")


def check_first(first: int, rows: int, length: int) -> None:
    """q_start against valid_length."""
    if not 0 <= first <= length - rows:
        raise ValueError(f"q_start: {first}; accepted are 0 to valid_length - S, {length - rows}")


_RENAMED = {"mark": "setpoint"}  # old name → new name


def refuse_keywords(function: str, unknown: dict[str, object]) -> None:
    """Raise TypeError for keyword arguments that `function` does not have; for a renamed one, with the new name."""
    name = next(iter(unknown))
    if name in _RENAMED:
        raise TypeError(f"{name}: renamed; use {_RENAMED[name]}")
    raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def whole(name: str, value: object) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, (int, Integral)):
        raise ValueError(f"{name}: {value!r}; accepted is a whole number")
    return int(value)
