"""Steered rows on a CPU from PyTorch's own attention over parts of the keys: text, V, and R within V.

Beside a part's output PyTorch's kernel gives the logarithm of what its scores sum to, and a law is no more than what
the parts weigh. R is counted twice, within V and apart, and gets what the law gives it beyond its part of V:
lerp(V, R, c). Conserving takes the biased V in R's place, where that is no dearer or R's keys have biases of their
own.

One row in half precision, which is decoding, has two parts in one call, as copies of the query with masks of their
own: K and V are read once. In single precision steered_rows.attend_one is faster for one row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .row_bias import RowBias

# What SDPA itself calls on a CPU. It is PyTorch's own affair: with a version that lacks it, nothing fits.
_attention = getattr(getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None), "default", None)
MULTIPLE = 16  # of keys: with other numbers of them half precision takes half as long again
FEWEST = 256  # keys of the spans: of fewer the scores themselves are made sooner
FEWEST_ROWS = 32  # for which it pays to copy V together from between the gaps
_ALMOST_NONE = -(2.0**-24)  # less of V than this is not off R: rounding's


def fits(q: Tensor, k: Tensor, v: Tensor, row_bias: RowBias) -> bool:
    """Whether `attend_parts` takes this, and is the faster way."""
    n, half, law = q.shape[2], q.dtype.itemsize < 4, row_bias.law
    if law == "target":  # (one row of one head has a way of its own in PyTorch, and no second is as fast)
        if n > 1 or not half or row_bias.group == 1:
            return False
    elif law not in ("conserving", "share") or row_bias.end - row_bias.start < FEWEST:
        return False
    if not (half or not row_bias.has_gaps or n >= FEWEST_ROWS):
        return False
    if _attention is None or not q.is_cpu or q.shape[3] != v.shape[3]:
        return False
    if not q.stride(3) == k.stride(3) == v.stride(3) == 1:
        return False
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return False
    if law == "conserving":
        return row_bias.lift is not None or (half and (n == 1 or not row_bias.by_head))
    return len(row_bias.region_keys) > 0 and (law == "target" or not row_bias.has_bias or row_bias.lift is not None)


def attend_parts(q: Tensor, k: Tensor, v: Tensor, row_bias: RowBias, scale: float) -> Tensor:
    """Arguments and result as of steered_rows.attend_rows: q [B, Hq, n, D] → [B, n, Hq, D]."""
    batch, q_heads, n, head = q.shape
    packed = q.reshape(batch, k.shape[1], -1, head)  # [B, Hk, G·n, D]
    if row_bias.law == "target":
        out, _ = _two(packed, k, v, row_bias.padded("sides", k.shape[2]), scale)
        rest, region = out.chunk(2, 2)
        out = torch.lerp(rest, region, row_bias.setpoint)
        if row_bias.on is not None:
            out = torch.where(row_bias.on, out, rest)
        return out.reshape(batch, q_heads, n, head).transpose(1, 2)
    exact = row_bias.bias.dtype
    text, log_text = _text(packed, k, v, row_bias, n, scale)
    if _in_copies(q):
        out, log_sums = _two(packed, k[:, :, row_bias.span], v[:, :, row_bias.span], row_bias.copies, scale)
        visual, other = out.to(exact).chunk(2, 2)
        log_v, log_other = log_sums.chunk(2, 2)
    else:
        (visual, log_v), (other, log_other) = _visual(packed, k, v, row_bias, scale)
        visual, other = visual.to(exact), other.to(exact)
    still = None
    if row_bias.law == "conserving" and (row_bias.lift is None or _in_copies(q)):
        visual = other
    elif row_bias.law == "share" or row_bias.has_bias:
        more = _more(log_other - log_v, row_bias, n)
        visual.lerp_(other, more.unsqueeze(-1))
        if row_bias.law == "share" and not row_bias.has_bias and q.dtype == torch.float32 and float(more.min()) <= 0.0:
            still = more == 0.0
    out = text.to(exact).lerp_(visual, torch.sigmoid(log_v - log_text).unsqueeze(-1))
    if still is not None:
        _leave(out, still, packed, k, v, row_bias, n, scale)
    return out.to(q.dtype).reshape(batch, q_heads, n, head).transpose(1, 2)


def _in_copies(q: Tensor) -> bool:
    return q.shape[2] == 1 and q.dtype.itemsize < 4


def _attend(packed: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Attention's output [B, Hk, rows, D], and the logarithm of the scores' sum [B, Hk, rows]."""
    return _attention(packed, k, v, 0.0, False, attn_mask=mask, scale=scale)


def _two(packed: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """`_attend` of the rows under two masks, one above the other [1, 1 | Hk, 2 · G, keys]."""
    return _attend(torch.cat((packed, packed), 2), k, v, mask, scale)


def _text(packed: Tensor, k: Tensor, v: Tensor, row_bias: RowBias, n: int, scale: float) -> tuple[Tensor, Tensor]:
    """The keys off V, the last n of which are the rows' own."""
    parts = []
    for tensor in (k, v):
        pieces = [tensor[:, :, row_bias.end :]]
        if row_bias.has_gaps:
            pieces.insert(0, tensor.index_select(2, row_bias.gap_keys))
        if row_bias.start > 0:
            pieces.insert(0, tensor[:, :, : row_bias.start])
        parts.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2))
    mask = None
    if n > 1:
        keys = parts[0].shape[2]
        causal = row_bias.bias.new_full((n, keys), float("-inf")).triu_(keys - n + 1)
        mask = causal.repeat(row_bias.group, 1)[None, None]
    return _attend(packed, *parts, mask, scale)


def _visual(
    packed: Tensor, k: Tensor, v: Tensor, row_bias: RowBias, scale: float
) -> tuple[tuple[Tensor, Tensor], ...]:
    """V, and R or the biased V."""
    if row_bias.lift is not None:
        at, mask = row_bias.region_filled(MULTIPLE)
        region = k.index_select(2, at), v.index_select(2, at), mask
    if row_bias.has_gaps:
        k, v = k.index_select(2, row_bias.visual_keys), v.index_select(2, row_bias.visual_keys)
    else:
        k, v = k[:, :, row_bias.span], v[:, :, row_bias.span]
    other = (k, v, row_bias.bias[None, ..., row_bias.visual]) if row_bias.lift is None else region
    return _attend(packed, k, v, None, scale), _attend(packed, *other, scale)


def _more(log_r: Tensor, row_bias: RowBias, n: int) -> Tensor:
    """What part of V's output R's takes the place of, so that R has in V what the law gives it [B, Hk, G·n], from the
    logarithm of what it has."""
    shape, more = log_r.shape, None
    if row_bias.has_bias:
        more = torch.sigmoid(log_r.reshape(*shape[:2], -1, n) + row_bias.lift).reshape(shape)
    if row_bias.law == "share":  # 1 − (1 − setpoint) / (1 − R's part)
        rest = 1.0 - row_bias.setpoint
        raised = log_r.expm1().clamp_(max=_ALMOST_NONE).reciprocal_().mul_(rest).add_(1.0).clamp_(min=0.0)
        more = raised if more is None else torch.maximum(raised, more)
        if row_bias.on is not None:
            more = torch.where(row_bias.on, more.reshape(*shape[:2], -1, n), 0.0).reshape(shape)
    return more


def _leave(
    out: Tensor, still: Tensor, packed: Tensor, k: Tensor, v: Tensor, row_bias: RowBias, n: int, scale: float
) -> None:
    """Put attention over all keys in the place of rows in which R has its share already, `still` [B, Hk, G·n]: by
    logarithms, the larger the less exact, parts are joined to some ulps of single precision and not to one."""
    if row_bias.on is not None:  # the other heads are not what is wanted of this
        still = (still.reshape(*still.shape[:2], -1, n) & row_bias.on).reshape(still.shape)
    at = still.flatten(0, 1).any(0).nonzero().squeeze(1)
    if len(at) == 0:
        return
    keys = torch.arange(k.shape[2])
    mask = row_bias.bias.new_zeros(len(at), len(keys))
    mask.masked_fill_(keys > (len(keys) - n + at % n)[:, None], float("-inf"))
    plain, _ = _attend(packed.index_select(2, at), k, v, mask[None, None], scale)
    out[:, :, at] = torch.where(still[:, :, at, None], plain, out[:, :, at])
