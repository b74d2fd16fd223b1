"""A whole call by PyTorch's own attention: which rows are steered, and with which part of the field."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ...fields import KeyField
from .row_bias import RowBias, make_row_bias
from .steered_rows import attend_one, attend_rows, chunk_rows, focus_rows, held_at_once


def steered_attention_sdpa(
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
    """Arguments, checked, and results as of api.steered_attention. It reads the field, alpha and setpoint: on a GPU
    that waits for the device. A row that is not steered is what SDPA gives without steering, bit for bit."""
    keys = q_start + q.shape[2]
    if keys < k.shape[2]:
        k, v = k[:, :, :keys], v[:, :, :keys]
    if field is None or law == "none":
        return _plain(q, k, v, scale, q_start), _plain_focus(q, k, field, scale, q_start) if focus else None
    alpha_value = float(alpha)
    setpoint_value = None if setpoint is None else float(setpoint)
    if q.shape[2] == 1 and q_start >= field.end and field.weights.ndim == 1 and (rows is None or bool(rows)):
        row_bias = _cached_row_bias(field, field.end - field.start, law, alpha_value, setpoint_value, q, k.shape[1])
        if row_bias is not None and row_bias.on is None:  # decoding: the one row is steered, in all heads
            return _steered(q, k, v, row_bias, scale, focus)
    if field.weights.ndim == 1:
        parts = [(slice(None), field)]
    else:
        parts = [
            (
                slice(b, b + 1),
                KeyField(field.weights[b], field.visual[b], field.weight_extrema[b], field.gains, field.start),
            )
            for b in range(q.shape[0])
        ]
    steered = []
    for batch, part in parts:
        for first, last, end in _segments(part, rows, q_start, q.shape[2]):
            row_bias = _cached_row_bias(part, end, law, alpha_value, setpoint_value, q, k.shape[1])
            if row_bias is not None:
                steered.append((batch, first, last, row_bias))
    n_steered = sum(last - first for _, first, last, row_bias in steered if row_bias.on is None)
    whole = n_steered == len(parts) * q.shape[2]  # text rows alone: every one is steered, in all heads
    if whole and len(steered) == 1 and q.shape[2] <= chunk_rows(q.shape[0], q.shape[1], keys):
        return _steered(q, k, v, steered[0][3], scale, focus)
    if whole:
        out = q.new_empty(*q.shape[:3], v.shape[3])
        masses = q.new_empty(*q.shape[:3], 2, dtype=torch.float32) if focus else None
    else:
        out = _plain(q, k, v, scale, q_start)
        masses = _plain_focus(q, k, field, scale, q_start) if focus else None
    for batch, first, last, row_bias in steered:
        size = chunk_rows(q.shape[0], q.shape[1], q_start + last)
        for top in range(first, last, size):
            end = min(top + size, last)
            qs, ks, vs = q[batch, :, top:end], k[batch, :, : q_start + end], v[batch, :, : q_start + end]
            part, part_masses = _steered(qs, ks, vs, row_bias, scale, focus)
            if row_bias.on is not None:
                part = torch.where(row_bias.on.view(1, -1, 1, 1), part, out[batch, :, top:end])
            out[batch, :, top:end] = part
            if focus:
                masses[batch, :, top:end] = part_masses
    return out, masses


def _steered(
    q: Tensor, k: Tensor, v: Tensor, row_bias: RowBias, scale: float, focus: bool
) -> tuple[Tensor, Tensor | None]:
    """Rows that are steered, the last of which sees all the keys given: [B, Hq, n, Dv], and float32 [B, Hq, n, 2]."""
    out = attend_rows(q, k, v, row_bias, scale).transpose(1, 2)
    return out, focus_rows(q, k, row_bias, scale)[..., 0].float() if focus else None


def _plain(q: Tensor, k: Tensor, v: Tensor, scale: float, q_start: int) -> Tensor:
    """Causal attention, contiguous [B, Hq, S, Dv]; the last row sees all the keys given."""
    n_rows, keys = q.shape[2], k.shape[2]
    if n_rows == 1:
        if q.element_size() >= 4 and held_at_once(q, k, v):
            return attend_one(q, k, v, None, scale).transpose(1, 2)
        packed = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])
        return scaled_dot_product_attention(packed, k, v, scale=scale).reshape(*q.shape[:3], v.shape[3]).contiguous()
    options = {"scale": scale, "enable_gqa": q.shape[1] != k.shape[1]}
    if q_start == 0:
        return scaled_dot_product_attention(q, k, v, is_causal=True, **options).contiguous()
    size = chunk_rows(q.shape[0], q.shape[1], keys)
    out = None if n_rows <= size else q.new_empty(*q.shape[:3], v.shape[3])
    positions = torch.arange(keys, device=q.device)
    for top in range(0, n_rows, size):
        end = min(top + size, n_rows)
        visible = positions[: q_start + end] <= positions[q_start + top : q_start + end, None]
        part = scaled_dot_product_attention(
            q[:, :, top:end], k[:, :, : q_start + end], v[:, :, : q_start + end], attn_mask=visible, **options
        )
        if out is None:
            return part.contiguous()
        out[:, :, top:end] = part
    return out


def _plain_focus(q: Tensor, k: Tensor, field: KeyField | None, scale: float, q_start: int) -> Tensor:
    """The mass of R of every row without the law, twice: float32 [B, Hq, S, 2]."""
    batch, q_heads, n_rows, _ = q.shape
    masses = torch.zeros(batch, q_heads, n_rows, 2, dtype=torch.float32, device=q.device)
    if field is None:
        return masses
    keys, k_heads = k.shape[2], k.shape[1]
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    region = torch.zeros(*field.weights.shape[:-1], keys, dtype=dtype, device=q.device)
    inside = ((field.weights > 0) & field.visual)[..., : max(0, keys - field.start)]
    region[..., field.start : field.end] = inside.to(dtype)
    region = region.view(-1, 1, 1, keys, 1)  # [B or 1, 1, 1, K, 1]
    k = k.to(dtype).transpose(-1, -2)[:, :, None]
    positions = torch.arange(keys, device=q.device)
    size = chunk_rows(batch, q_heads, keys)
    for top in range(0, n_rows, size):
        end = min(top + size, n_rows)
        grouped = q[:, :, top:end].to(dtype).reshape(batch, k_heads, -1, end - top, q.shape[3])
        hidden = positions > positions[q_start + top : q_start + end, None]
        p = torch.matmul(grouped * scale, k).masked_fill(hidden, float("-inf")).softmax(-1)
        masses[:, :, top:end] = torch.matmul(p, region).reshape(batch, q_heads, end - top, 1).float()
    return masses


def _segments(field: KeyField, rows: Tensor | None, q_start: int, n_rows: int) -> Iterator[tuple[int, int, int]]:
    """Runs of text rows after V's first key that see the same keys of V: (first row, last row + 1, how much of the
    field they see)."""
    visual = field.visual.tolist()
    on = [True] * n_rows if rows is None else rows.tolist()
    first, end = None, 0
    for row in range(n_rows + 1):
        j = min(q_start + row, field.end - 1) - field.start  # the last key of the field that the row sees
        inside = q_start + row < field.end
        steered = row < n_rows and on[row] and j >= 0 and not (inside and visual[j])
        if first is not None and (not steered or (inside and visual[j - 1])):
            yield first, row, end
            first = None
        if steered and first is None:
            first = row
            end = j + 1
            while not visual[end - 1]:  # keys of the gap that the row lies in are text
                end -= 1


def _has_effect(law: str, alpha: float, low: int, high: int) -> bool:
    """Whether the law has something to steer with where these are V's extreme weights."""
    if law == "additive":
        return alpha != 0.0 and not low == high == 0
    if law == "conserving":
        return alpha != 0.0 and low < high
    return low <= 0 < high if law == "share" else high > 0


_CACHE: OrderedDict[tuple[object, ...], tuple[Tensor, Tensor, Tensor | None, RowBias | None]] = OrderedDict()
_CACHE_LOCK = threading.Lock()
_CACHE_SIZE = 64  # layers of a model that decodes one context; some kilobytes each, by head and 8k keys 0.7 MB


def _cached_row_bias(
    field: KeyField, end: int, law: str, alpha: float, setpoint: float | None, q: Tensor, key_heads: int
) -> RowBias | None:
    """What the rows need of the first `end` keys of the field; None if there is nothing to steer with. Kept from call
    to call on a CPU: decoding asks for the same at every token. What is kept is compared with the field's values,
    which a kernel may have changed in place."""
    if q.is_cuda:
        return _make_row_bias(field, end, law, alpha, setpoint, q, key_heads)
    weights, visual, gains = field.weights, field.visual, field.gains
    if end < weights.shape[0]:
        weights, visual = weights[:end], visual[:end]
    kind = None
    if gains is not None:
        kind = gains.dtype
        if kind == torch.float8_e4m3fn:  # which PyTorch can't compare
            gains = gains.view(torch.uint8)
    key = (weights.data_ptr(), field.start, end, law, alpha, setpoint, q.shape[1], key_heads, q.dtype, kind)
    kept = _CACHE.get(key)
    if kept is not None:
        old_weights, old_visual, old_gains, row_bias = kept
        same = torch.equal(old_weights, weights) and torch.equal(old_visual, visual)
        if same and (gains is None or torch.equal(old_gains, gains)):
            return row_bias
    row_bias = _make_row_bias(field, end, law, alpha, setpoint, q, key_heads)
    with _CACHE_LOCK:
        _CACHE[key] = weights.clone(), visual.clone(), None if gains is None else gains.clone(), row_bias
        while len(_CACHE) > _CACHE_SIZE:
            _CACHE.popitem(last=False)
    return row_bias


def _make_row_bias(
    field: KeyField, end: int, law: str, alpha: float, setpoint: float | None, q: Tensor, key_heads: int
) -> RowBias | None:
    """What the rows need of the first `end` keys of the field; None if there is nothing to steer with."""
    ones = torch.ones(q.shape[1], dtype=torch.float32)
    table = ones if field.gains is None else field.gains.float().cpu()
    if not _has_effect(law, alpha, *field.weight_extrema[end - 1].tolist()) or not bool(table.any()):
        return None
    visual = field.visual[:end]
    return make_row_bias(
        field.weights[:end], visual, field.start, alpha * table.double(), ones, key_heads,
        law=law, setpoint=setpoint, has_gaps=not bool(visual.all()), regions=None, on=table != 0,
        dtype=torch.float64 if q.dtype == torch.float64 else torch.float32,
    )  # fmt: skip
