"""Steered attention in plain PyTorch: the specification of every law, readable before it is fast.

One text row of one head has base scores s_k = q·k·scale over the keys it can see. V are its visible visual
keys, T the rest, w_k = weights[k] / 127 the weights on V, g the head's gain (α · gate) and R = {k in V: w_k >
0}. A law is a *shift* that is added to the base scores of V; the shifted scores go through the softmax:

    none        shift = 0
    additive    shift = g·w                                                 (the research note's mechanism)
    conserving  shift = g·w − c,  c = log Σ_V e^(s + g·w) − log Σ_V e^s      (V keeps its total)

A law is one entry of `LAWS`. It sees scores, tilt, V and R of each row, so a law that moves groups of keys to
a mark joins with one more function. A row that has nothing to steer with keeps its base scores bit for bit:
no visible visual key, or weights that cannot move anything (all zero; for conserving, the same on all of V).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

WEIGHT_ONE = 127  # the INT8 weight that means 1.0


class SteeredAttention(NamedTuple):
    """What one call gives: out [B, Hq, S, Dv] in q's dtype; the mass of R of every row before and after the
    law, [B, Hq, S] in the compute dtype (equal where the row was not steered)."""

    out: Tensor
    focus_before: Tensor
    focus_after: Tensor


def _log_sum(scores: Tensor, keys: Tensor) -> Tensor:
    """log Σ e^scores over the keys, −inf where there is none. [..., K], bool [..., K] → [..., 1]."""
    return scores.masked_fill(~keys, float("-inf")).logsumexp(-1, keepdim=True)


def _no_shift(scores: Tensor, tilt: Tensor, visual: Tensor, region: Tensor) -> Tensor:
    return torch.zeros_like(scores)


def _additive(scores: Tensor, tilt: Tensor, visual: Tensor, region: Tensor) -> Tensor:
    return tilt.masked_fill(~visual, 0.0).expand_as(scores)


def _conserving(scores: Tensor, tilt: Tensor, visual: Tensor, region: Tensor) -> Tensor:
    c = _log_sum(scores + tilt, visual) - _log_sum(scores, visual)
    low = tilt.masked_fill(~visual, float("inf")).amin(-1, keepdim=True)
    high = tilt.masked_fill(~visual, float("-inf")).amax(-1, keepdim=True)
    moves = high > low  # false for rows with no visible V, and for a tilt that is the same on all of V
    return torch.where(visual & moves, tilt - c, torch.zeros_like(scores))


# A law: (scores, tilt, visual, region) → shift [B, Hq, S, K]. scores are the base scores [B, Hq, S, K]; tilt
# is g·w, visual and region (bool) say which keys of V and R the row can see; these three broadcast against
# scores.
LAWS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "none": _no_shift,
    "additive": _additive,
    "conserving": _conserving,
}


def steered_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor,
    visual: Tensor,
    *,
    law: str,
    gain: float | Tensor = 1.0,
    rows: Tensor | None = None,
    scale: float | None = None,
    q_start: int | None = None,
    valid_length: int | Tensor | None = None,
    mask: Tensor | None = None,
    compute_dtype: torch.dtype | None = None,
) -> SteeredAttention:
    """Causal attention whose text rows are steered by `law`.

    Args:
        q: [B, Hq, S, D] float. k: [B, Hk, K, D], v: [B, Hk, K, Dv], of q's dtype and device; Hk divides Hq
            (query head h reads key head h // (Hq / Hk)).
        weights: int8 [K] or [B, K], −127…127 for −1…1. What lies outside `visual` counts as 0.
        visual: bool [K] or [B, K], which keys are in V.
        law: a key of `LAWS`.
        gain: g = α · gain of the heads, a number or a float tensor [Hq]; finite. 0 switches a head off.
        rows: bool [S] or [B, S], which rows are steered; None steers every row. Rows inside a visual span
        must be False.
        scale: of the scores; None is D ** −0.5.
        q_start: the key position of the first row. Row i sees the keys up to q_start + i. None puts the rows
            last, q_start = valid_length − S.
        valid_length: how many keys are real (the cache may be longer; what lies beyond is never read). None
        is K.
        mask: bool, broadcastable to [B, Hq, S, K]: a further mask over the causal one; True lets a row see a
        key.
        compute_dtype: None is float64 for float64 inputs, else float32.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range; the message names it.
    """
    _check(q, k, v, weights, visual, law, rows)
    batch, q_heads, n_rows, head_dim = q.shape
    k_heads = k.shape[1]
    length = k.shape[2] if valid_length is None else int(valid_length)
    if not 1 <= length <= k.shape[2]:
        raise ValueError(f"valid_length: {length}; accepted are 1 to the number of keys, {k.shape[2]}")
    start = length - n_rows if q_start is None else int(q_start)
    if start < 0 or start + n_rows > length:
        raise ValueError(f"q_start: {start}; accepted are 0 to valid_length - S, {length - n_rows}")
    dtype = compute_dtype or (torch.float64 if q.dtype == torch.float64 else torch.float32)
    scale = head_dim**-0.5 if scale is None else scale
    gains = _gain_column(gain, q_heads, dtype, q.device)  # [Hq, 1, 1]

    k, v = (t[:, :, :length].to(dtype).repeat_interleave(q_heads // k_heads, dim=1) for t in (k, v))
    scores = (q.to(dtype) @ k.transpose(-1, -2)) * scale  # [B, Hq, S, L]
    position = start + torch.arange(n_rows, device=q.device)
    visible = torch.arange(length, device=q.device)[None, :] <= position[:, None]  # [S, L]
    visible = visible.expand(batch, 1, n_rows, length)
    if mask is not None:
        visible = visible & mask[..., :length]
    visual = visual[..., :length].expand(batch, length)[:, None, None, :] & visible  # [B, 1|Hq, S, L]
    w = (weights[..., :length].to(dtype) / WEIGHT_ONE).expand(batch, length)[:, None, None, :]
    region = visual & (w > 0)
    if rows is not None:
        steered = rows.expand(batch, n_rows)[:, None, :, None]
    else:
        steered = torch.ones((), dtype=torch.bool, device=q.device)

    shift = LAWS[law](scores, gains * w, visual, region)
    shift = torch.where(steered & (gains != 0), shift, torch.zeros_like(shift))
    scores = scores.masked_fill(~visible, float("-inf"))
    before = scores.softmax(-1)
    after = (scores + shift).softmax(-1)
    return SteeredAttention(
        (after @ v).to(q.dtype),
        before.masked_fill(~region, 0.0).sum(-1),
        after.masked_fill(~region, 0.0).sum(-1),
    )


def _gain_column(gain: float | Tensor, heads: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The gains as [Hq, 1, 1] (or [1, 1, 1]), checked."""
    column = torch.as_tensor(gain, dtype=dtype, device=device)
    if column.ndim > 1 or (column.ndim == 1 and column.shape[0] != heads):
        raise ValueError(f"gain: shape {tuple(column.shape)}; accepted are a number or [Hq] = [{heads}]")
    if not bool(torch.isfinite(column).all()):
        raise ValueError(f"gain: {gain}; accepted are finite numbers")
    return column.reshape(-1, 1, 1)


def _check(q: Tensor, k: Tensor, v: Tensor, weights: Tensor, visual: Tensor, law: str, rows: Tensor | None) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.ndim != 4:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}; accepted is [batch, heads, length, head size]")
        if tensor.dtype != q.dtype or not tensor.is_floating_point():
            raise ValueError(f"{name}: dtype {tensor.dtype}; accepted is one float dtype for q, k and v")
    batch, q_heads, n_rows, head_dim = q.shape
    keys = k.shape[2]
    if 0 in q.shape or 0 in k.shape:
        raise ValueError(f"q, k: shapes {tuple(q.shape)}, {tuple(k.shape)}; accepted are sizes of at least 1")
    if k.shape[0] != batch or k.shape[3] != head_dim or q_heads % k.shape[1]:
        raise ValueError(
            f"k: shape {tuple(k.shape)}; accepted for this q is [{batch}, a divisor of {q_heads}, keys, {head_dim}]"
        )
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v: shape {tuple(v.shape)}; accepted is k's batch, heads and keys, {tuple(k.shape[:3])}")
    for name, tensor, dtype in (("weights", weights, torch.int8), ("visual", visual, torch.bool)):
        if tensor.dtype != dtype or tuple(tensor.shape) not in ((keys,), (batch, keys)):
            raise ValueError(
                f"{name}: {tensor.dtype} {tuple(tensor.shape)}; accepted is {dtype}, [{keys}] or [{batch}, {keys}]"
            )
    if bool((weights == -128).any()):
        raise ValueError("weights: -128; accepted are -127 to 127")
    if rows is not None and (rows.dtype != torch.bool or tuple(rows.shape) not in ((n_rows,), (batch, n_rows))):
        raise ValueError(f"rows: {rows.dtype} {tuple(rows.shape)}; accepted is torch.bool, [{n_rows}]")
    if law not in LAWS:
        raise ValueError(f"law: {law!r}; accepted are {', '.join(LAWS)}")
