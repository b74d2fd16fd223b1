"""Steered attention in plain PyTorch: the specification of every law, readable before it is fast.

One text row of one head has base scores s_k = q·k·scale over the keys it can see. V are its visible visual
keys, T the rest, w_k = weights[k] / 127 the weights on V, g the head's gain (α · gain) and R = {k in V: w_k >
0}, B = V∖R. The weights *tilt* V: t_k = s_k + g·w_k. With the base sums L_T = Σ_T e^s, L_V = Σ_V e^s and the
tilted sums L'_R = Σ_R e^t, L'_B = Σ_B e^t, L'_V = L'_R + L'_B, a law is a *shift* that is added to the base
scores of V; the shifted scores go through the softmax:

    none        shift = 0
    additive    shift = g·w                                                 (the research note's mechanism)
    conserving  shift = g·w − log(L'_V / L_V)                               (V keeps its total)
    share       shift = g·w − log(L'_V / L_V), and where R's share of V after the tilt, L'_R / L'_V, is below ρ
                instead on R  g·w + log(ρ L_V / L'_R), on B  g·w + log((1 − ρ) L_V / L'_B)    (V keeps its total)
    target      shift = g·w, and on R besides b = logit ψ − logit m, m = L'_R / (L_T + L'_V)  (R gets ψ of the row)

ρ = 1 leaves B a shift of −∞. share and target are meant for weights ≥ 0; a weight below 0 is a tilt of B.

A row is *active*, which means that the law holds for it, if all of this is so; any other row keeps its base
scores bit for bit, and its focus after is its focus before:

    rows        it is one of `rows`; a row inside a visual span must not be
    head        its head is on: `heads` says so; for additive and conserving its gain is not 0 either
    weights     over the V that the row can see there is something to steer with:
                additive    a weight that is not 0
                conserving  two weights that differ
                share       a key in R and one in B
                target      a key in R, and any key outside it

A law is one entry of `LAWS`. It sees scores, tilt, V and R of each row, so another law is one more function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import SETPOINT_LAWS, check_law, check_setpoint, check_tensors
from ..fields import KeyField

WEIGHT_ONE = 127  # the INT8 weight that means 1.0
_NEVER = float("-inf")


class SteeredAttention(NamedTuple):
    """What one call gives: out [B, Hq, S, Dv] in q's dtype; the mass of R of every row before and after the
    law, [B, Hq, S] in the compute dtype (equal where the row was not steered)."""

    out: Tensor
    focus_before: Tensor
    focus_after: Tensor


def _log_sum(scores: Tensor, keys: Tensor) -> Tensor:
    """log Σ e^scores over the keys, −inf where there is none. [..., K], bool [..., K] → [..., 1]."""
    return scores.masked_fill(~keys, _NEVER).logsumexp(-1, keepdim=True)


def _no_shift(scores: Tensor, tilt: Tensor, visual: Tensor, region: Tensor, setpoint: float | None) -> Tensor:
    return torch.zeros_like(scores)


def _additive(scores: Tensor, tilt: Tensor, visual: Tensor, region: Tensor, setpoint: float | None) -> Tensor:
    return tilt.masked_fill(~visual, 0.0).expand_as(scores)


def _conserving(scores: Tensor, tilt: Tensor, visual: Tensor, region: Tensor, setpoint: float | None) -> Tensor:
    c = _log_sum(scores + tilt, visual) - _log_sum(scores, visual)
    low = tilt.masked_fill(~visual, float("inf")).amin(-1, keepdim=True)
    high = tilt.masked_fill(~visual, _NEVER).amax(-1, keepdim=True)
    has_effect = high > low  # false for rows with no visible V, and for a tilt that is the same on all of V
    return torch.where(visual & has_effect, tilt - c, torch.zeros_like(scores))


def _share(scores: Tensor, tilt: Tensor, visual: Tensor, region: Tensor, setpoint: float | None) -> Tensor:
    rest = visual & ~region
    log_v = _log_sum(scores, visual)
    log_r, log_b = _log_sum(scores + tilt, region), _log_sum(scores + tilt, rest)
    log_tilted = _log_sum(scores + tilt, visual)
    rho = torch.as_tensor(setpoint, dtype=scores.dtype, device=scores.device)
    on_r, on_b = rho.log() + log_v - log_r, (-rho).log1p() + log_v - log_b
    raised = torch.where(region, on_r, on_b)
    shift = tilt + torch.where((log_r - log_tilted).exp() >= rho, log_v - log_tilted, raised)
    has_effect = region.any(-1, keepdim=True) & rest.any(-1, keepdim=True)
    return torch.where(visual & has_effect, shift, torch.zeros_like(scores))


def _target(scores: Tensor, tilt: Tensor, visual: Tensor, region: Tensor, setpoint: float | None) -> Tensor:
    tilted = scores + tilt.masked_fill(~visual, 0.0)
    outside = ~region & (scores > _NEVER)
    psi = torch.as_tensor(setpoint, dtype=scores.dtype, device=scores.device)
    b = psi.log() - (-psi).log1p() + _log_sum(tilted, outside) - _log_sum(tilted, region)
    has_effect = region.any(-1, keepdim=True) & outside.any(-1, keepdim=True)
    return torch.where(visual & has_effect, torch.where(region, tilt + b, tilt), torch.zeros_like(scores))


# A law: (scores, tilt, visual, region, setpoint) → shift [B, Hq, S, K]. scores are the base scores [B, Hq, S, K], −inf
# at keys that the row can't see; tilt is g·w, visual and region (bool) say which keys of V and R the row can see;
# these three broadcast against scores. setpoint is ρ or ψ, None for a law without one.
LAWS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, float | None], Tensor]] = {
    "none": _no_shift,
    "additive": _additive,
    "conserving": _conserving,
    "share": _share,
    "target": _target,
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
    setpoint: float | None = None,
    heads: Tensor | None = None,
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
        gain: g = α · gain of the heads, a number or a float tensor [Hq]; finite. 0 switches a head off under
            additive and conserving; under share and target it is no tilt inside R and B.
        setpoint: ρ of share, 0 to 1, or ψ of target, between 0 and 1; required for these, None for the others.
        heads: bool [Hq], which heads are steered; None is all.
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
    check_tensors(q, k, v)
    check_law(law, setpoint)
    _check(q, k, weights, visual, heads, rows)
    batch, q_heads, n_rows, head_dim = q.shape
    k_heads = k.shape[1]
    length = k.shape[2] if valid_length is None else int(valid_length)
    if not 1 <= length <= k.shape[2]:
        raise ValueError(f"valid_length: {length}; accepted are 1 to the number of keys, {k.shape[2]}")
    start = length - n_rows if q_start is None else int(q_start)
    if start < 0 or start + n_rows > length:
        raise ValueError(f"q_start: {start}; accepted are 0 to valid_length - S, {length - n_rows}")
    length = start + n_rows  # what no row sees is not read
    dtype = compute_dtype or (torch.float64 if q.dtype == torch.float64 else torch.float32)
    scale = head_dim**-0.5 if scale is None else scale
    gains = _gain_column(gain, q_heads, dtype, q.device)  # [Hq, 1, 1]
    setpoint = None if setpoint is None else check_setpoint(law, setpoint)

    k, v = (t[:, :, :length].to(dtype).repeat_interleave(q_heads // k_heads, dim=1) for t in (k, v))
    position = start + torch.arange(n_rows, device=q.device)
    visible = torch.arange(length, device=q.device)[None, :] <= position[:, None]  # [S, L]
    visible = visible.expand(batch, 1, n_rows, length)
    if mask is not None:
        visible = visible & mask[..., :length]
    scores = ((q.to(dtype) @ k.transpose(-1, -2)) * scale).masked_fill(~visible, _NEVER)  # [B, Hq, S, L]
    visual = visual[..., :length].expand(batch, length)[:, None, None, :] & visible  # [B, 1|Hq, S, L]
    w = (weights[..., :length].to(dtype) / WEIGHT_ONE).expand(batch, length)[:, None, None, :]
    region = visual & (w > 0)

    steered = torch.ones((), dtype=torch.bool, device=q.device) if law in SETPOINT_LAWS else gains != 0
    if heads is not None:
        steered = steered & heads[:, None, None]
    if rows is not None:
        steered = steered & rows.expand(batch, n_rows)[:, None, :, None]
    shift = LAWS[law](scores, gains * w, visual, region, setpoint)
    shift = torch.where(steered, shift, torch.zeros_like(shift))
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
    if column.ndim > 1 or (column.ndim == 1 and column.shape[0] not in (1, heads)):
        raise ValueError(f"gain: shape {tuple(column.shape)}; accepted are a number or [Hq] = [{heads}]")
    if not bool(torch.isfinite(column).all()):
        raise ValueError(f"gain: {gain}; accepted are finite numbers")
    return column.reshape(-1, 1, 1)


def _check(q: Tensor, k: Tensor, weights: Tensor, visual: Tensor, heads: Tensor | None, rows: Tensor | None) -> None:
    """What lies beside q, k and v."""
    batch, q_heads, n_rows, _ = q.shape
    keys = k.shape[2]
    for name, tensor, dtype in (("weights", weights, torch.int8), ("visual", visual, torch.bool)):
        if tensor.dtype != dtype or tuple(tensor.shape) not in ((keys,), (batch, keys)):
            raise ValueError(
                f"{name}: {tensor.dtype} {tuple(tensor.shape)}; accepted is {dtype}, [{keys}] or [{batch}, {keys}]"
            )
    if bool((weights == -128).any()):
        raise ValueError("weights: -128; accepted are -127 to 127")
    if heads is not None and (heads.dtype != torch.bool or tuple(heads.shape) != (q_heads,)):
        raise ValueError(f"heads: {heads.dtype} {tuple(heads.shape)}; accepted is torch.bool, [{q_heads}]")
    if rows is not None and (rows.dtype != torch.bool or tuple(rows.shape) not in ((n_rows,), (batch, n_rows))):
        raise ValueError(f"rows: {rows.dtype} {tuple(rows.shape)}; accepted is torch.bool, [{n_rows}]")


def steered_attention_by_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    field: KeyField | None,
    law: str,
    alpha: Tensor,
    setpoint: Tensor | None,
    rows: Tensor | None,
    scale: float,
    q_start: int,
    length: int,
    focus: bool,
) -> tuple[Tensor, Tensor | None]:
    """The operator's own arguments, checked, in this file's words; results as of api.steered_attention."""
    batch, _, n_rows, _ = q.shape
    shape = (k.shape[2],) if field is None or field.weights.ndim == 1 else (batch, k.shape[2])
    weights = torch.zeros(shape, dtype=torch.int8, device=q.device)
    visual = torch.zeros(shape, dtype=torch.bool, device=q.device)
    gain, heads = alpha.double().reshape(1), None
    if field is None:
        law, setpoint = "none", None
    else:
        weights[..., field.start : field.end] = field.weights
        visual[..., field.start : field.end] = field.visual
        if field.gains is not None:
            table = field.gains.double()
            gain, heads = gain * table, table != 0
        text = ~visual[..., q_start : q_start + n_rows]  # [S] or [B, S]
        rows = text if rows is None else text & rows
    result = steered_attention_reference(
        q, k, v, weights, visual, law=law, gain=gain, setpoint=None if setpoint is None else float(setpoint),
        heads=heads, rows=rows, scale=scale, q_start=q_start, valid_length=length,
    )  # fmt: skip
    masses = torch.stack([result.focus_before, result.focus_after], dim=-1).float() if focus else None
    return result.out, masses
