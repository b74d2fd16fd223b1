"""The path of PyTorch's own: exact for every law of impl/reference.py, and as fast as a CPU's attention.

A law becomes a bias on each row, and scaled_dot_product_attention does the rest. The additive bias does not
depend on the row. Conserving and share need sums over V for each row: where it is faster, those that attention
over parts of the keys has anyway (parts.py), else scores against V only, never a second pass over the text. Under
target R gets ψ and all other keys 1 − ψ, whatever their scores: two attentions, over R and over the rest, are mixed
in that proportion. Query heads that share a key head are packed into rows, so K and V are never repeated.

One row on a CPU, which is decoding, has few enough scores to hold: there the softmax is made once, by the same
operations with and without steering, and the law scales the probabilities in it. A factor of exactly 1 changes no bit.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .parts import MULTIPLE, attend_parts, fits
from .row_bias import RowBias

MAX_MASK_ITEMS = 1 << 20  # of a chunk of rows: 4 MiB of fp32 bias, whatever the prompt's length
_SUMS_OF_V = ("conserving", "share")  # laws that need the scores in full precision, whatever q's dtype
_NO_BIAS = {dtype: torch.zeros((), dtype=dtype) for dtype in (torch.float32, torch.float64)}  # baddbmm wants one
_NEVER = float("-inf")
_TOO_SMALL = 1e-25  # a sum of probabilities that fp32 no longer holds to full precision, key by key


def chunk_rows(batch: int, query_heads: int, keys: int) -> int:
    """How many rows to steer at a time so that a chunk's bias stays within MAX_MASK_ITEMS."""
    return max(1, MAX_MASK_ITEMS // (batch * query_heads * keys))


def attend_rows(q: Tensor, k: Tensor, v: Tensor, row_bias: RowBias, scale: float) -> Tensor:
    """Steered attention of consecutive text rows, the last of which sees all the keys given.

    q: [B, Hq, n, D]. k: [B, Hk, L, D], v: [B, Hk, L, Dv], where row i sees the first L − n + 1 + i keys and
    every row sees all of row_bias's V. Returns [B, n, Hq, Dv]. Gradients flow to q, k and v.
    """
    if q.dtype == row_bias.bias.dtype and held_at_once(q, k, v):
        return attend_one(q, k, v, row_bias, scale)
    if fits(q, k, v, row_bias):
        return attend_parts(q, k, v, row_bias, scale)
    if row_bias.law in _SUMS_OF_V and held_at_once(q, k, v):
        return attend_one(q, k, v, row_bias, scale)
    batch, q_heads, n, _ = q.shape
    k_heads, keys = k.shape[1], k.shape[2]
    packed = _pack(q, k_heads)  # [B, Hk, G·n, D]
    if packed.dtype != row_bias.bias.dtype and packed.device.type != "cpu":
        # Off the CPU, SDPA wants the mask in q's dtype; a bias rounded to half precision would shift all of R.
        packed, k, v = (t.to(row_bias.bias.dtype) for t in (packed, k, v))
    row = _with_causal(row_bias.padded("rest" if row_bias.law == "target" else "bias", keys), packed, n)
    if row_bias.law in _SUMS_OF_V:
        row = row.expand(batch, k_heads, packed.shape[2], keys).clone()
        over_v = _scores(packed, k[:, :, row_bias.span], row_bias, scale)  # these rows see all of V: no mask
        shift = None if n == 1 or over_v.requires_grad else _quick_shift(over_v, row_bias)
        row[..., row_bias.span] = _shift(over_v, None, row_bias, n) if shift is None else shift
    out = scaled_dot_product_attention(packed, k, v, attn_mask=row, scale=scale)
    if row_bias.law == "target":
        out = _mix(out, packed, k, v, row_bias, n, scale)
    return out.to(q.dtype).reshape(batch, q_heads, n, v.shape[-1]).transpose(1, 2)


def focus_rows(q: Tensor, k: Tensor, row_bias: RowBias, scale: float) -> Tensor:
    """The mass of R and of each region, before and after the law: [B, Hq, n, 2, 1 + regions] in the bias's
    dtype. Arguments as for `attend_rows`."""
    batch, q_heads, n, _ = q.shape
    scores = _scores(_pack(q, k.shape[1]), k, row_bias, scale)  # [B, Hk, G·n, L]
    if n > 1:
        scores = scores + _causal(n, k.shape[2], scores).repeat(q_heads // k.shape[1], 1)
    over_v = row_bias.span
    before = torch.matmul(scores.softmax(-1)[..., over_v], row_bias.columns)
    scores[..., over_v] += _shift(scores[..., over_v], scores, row_bias, n)
    after = torch.matmul(scores.softmax(-1)[..., over_v], row_bias.columns)
    return torch.stack([before, after], dim=-2).view(batch, q_heads, n, 2, -1)


def held_at_once(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether `attend_one` takes this: one sequence's row, on a CPU, unrecorded."""
    recorded = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    return q.shape[0] == q.shape[2] == 1 and q.is_cpu and not recorded


def attend_one(q: Tensor, k: Tensor, v: Tensor, row_bias: RowBias | None, scale: float) -> Tensor:
    """One row of every head: q [1, Hq, 1, D] → [1, 1, Hq, Dv]; without row_bias it is not steered. Written for few
    operations: at 640 keys, what PyTorch takes to begin each of them is a third of the time."""
    q_heads, k_heads, dtype = q.shape[1], k.shape[1], q.dtype
    q, k, v = q.reshape(k_heads, q_heads // k_heads, -1), k.squeeze(0), v.squeeze(0)
    if dtype.itemsize < 4:
        q, k = q.float(), k.float()
    if row_bias is not None and row_bias.law in ("none", "additive"):
        p = torch.baddbmm(row_bias.padded("bias", k.shape[1])[0], q, k.mT, alpha=scale).softmax(-1)
    else:
        scores = torch.baddbmm(_NO_BIAS[q.dtype], q, k.mT, beta=0, alpha=scale)  # [Hk, G, L]
        p = scores.softmax(-1)
        if row_bias is not None and not _scale_probabilities(p.view(q_heads, -1), row_bias):
            over_v = scores[..., row_bias.span]
            over_v += _shift(over_v[None], scores[None], row_bias, 1)[0]
            p = scores.softmax(-1)
    if dtype.itemsize < 4:  # as PyTorch's own attention does
        p = p.to(dtype)
    return torch.bmm(p, v).view(1, 1, q_heads, -1)


def _scale_probabilities(p: Tensor, row_bias: RowBias) -> bool:
    """Give probabilities p [Hq, L] what the law gives, in place. False, with p spoilt: a sum is so small that it takes
    logarithms."""
    law, keys = row_bias.law, p.shape[1]
    of_sums, groups, text = row_bias.scaling(keys)
    whole = None
    if row_bias.by_head:  # the biases join p at once
        if law != "target":
            whole = torch.mv(p, of_sums[:, 0])
        p *= row_bias.padded("exp", keys)[0].flatten(0, 1)
    sums = torch.mm(p, of_sums)
    if whole is not None:
        sums[:, 0] = whole
    if float(sums.min()) < _TOO_SMALL:
        return False
    if law == "target":
        factors = row_bias.setpoint_pair / sums
    elif law == "conserving":
        before, after = sums.split_with_sizes((1, 1), 1)  # (`split` takes three times as long)
        factors = before / after
    else:  # share only raises R and only lowers V∖R
        whole, got = sums.split_with_sizes((1, 2), 1)
        after = got.sum(1, keepdim=True) if row_bias.has_bias else whole
        factors = (row_bias.setpoint_pair * after / got).clamp_(*row_bias.limits)
        if row_bias.has_bias:
            factors *= whole / after
    if row_bias.on is not None:
        factors = torch.where(row_bias.on.view(-1, 1), factors, 1.0)
    p *= torch.addmm(text, factors, groups)
    return True


def _quick_shift(over_v: Tensor, row_bias: RowBias) -> Tensor | None:
    """What `_shift` gives, for conserving and share over many rows, with one softmax in place of a logarithm of a
    sum for each group. None where that does not hold: heads that differ, or a sum that is too small."""
    if row_bias.on is not None or row_bias.by_head or row_bias.has_gaps or over_v.device.type != "cpu":
        return None
    p = over_v.softmax(-1)
    sums = torch.matmul(p, (row_bias.sides_v * row_bias.exp_v).t())  # [B, Hk, G·n, 2]: R, V∖R, biased
    after = sums.sum(-1, keepdim=True)
    smallest = after if row_bias.law == "conserving" else sums
    if float(smallest.min()) < _TOO_SMALL:
        return None
    bias = row_bias.bias - row_bias.bias.amax()  # what exp_v is e to the power of
    if row_bias.law == "conserving":
        return bias - after.log()
    factors = (row_bias.setpoint_pair * after / sums).clamp(*row_bias.limits)
    if row_bias.has_bias:  # else it is exactly 1 where R has its share
        factors /= after
    region, rest = factors.log().split(1, -1)
    return bias + torch.where(row_bias.region, region, rest)


def _shift(over_v: Tensor, scores: Tensor | None, row_bias: RowBias, n: int) -> Tensor:
    """The law's shift of the spans' keys, [B, Hk, G·n, |spans|], from their scores over_v; by logarithms, which
    hold whatever the scores. Target wants all scores [B, Hk, G·n, L] besides."""
    bias = _spread(row_bias.bias[None], n)
    if row_bias.law in ("none", "additive"):
        return bias
    biased = over_v + bias
    if row_bias.law == "conserving":
        shift = bias - (_log_sum(biased, row_bias.visual) - _log_sum(over_v, row_bias.visual))
    else:
        log_r, log_b = _log_sum(biased, row_bias.region), _log_sum(biased, row_bias.visual & ~row_bias.region)
        setpoint, rest = row_bias.setpoint_pair.log()
        if row_bias.law == "share":
            log_v, log_biased = _log_sum(over_v, row_bias.visual), torch.logaddexp(log_r, log_b)
            raised = torch.where(row_bias.region, setpoint + log_v - log_r, rest + log_v - log_b)
            kept = log_v - log_biased if row_bias.has_bias else torch.zeros_like(log_v)
            shift = bias + torch.where((log_r - log_biased).exp() >= row_bias.setpoint, kept, raised)
        else:
            others = scores.clone()
            others[..., row_bias.span] = biased.masked_fill(row_bias.region, _NEVER)
            shift = bias + torch.where(
                row_bias.region, setpoint - rest + others.logsumexp(-1, keepdim=True) - log_r, 0.0
            )
    if row_bias.on is not None:
        shift = torch.where(_spread(row_bias.on[None], n), shift, 0.0)
    return torch.where(row_bias.visual, shift, 0.0) if row_bias.has_gaps else shift


def _mix(out: Tensor, packed: Tensor, k: Tensor, v: Tensor, row_bias: RowBias, n: int, scale: float) -> Tensor:
    """Target: out [B, Hk, G·n, Dv], what the other keys give alone, with R's part in it."""
    many = packed.is_cpu and packed.dtype.itemsize < 4 and packed.shape[2] > MULTIPLE  # (for few, a mask is dearer)
    at, row = row_bias.region_filled(MULTIPLE if many else 1)
    k, v = k.index_select(2, at), v.index_select(2, at)
    if row_bias.has_bias:
        bias = _spread(row_bias.bias[None], n).index_select(3, at - row_bias.start)
        row = bias if row is None else bias + row
    of_r = scaled_dot_product_attention(packed, k, v, attn_mask=row, scale=scale)
    mixed = torch.lerp(out, of_r, row_bias.setpoint)
    return mixed if row_bias.on is None else torch.where(_spread(row_bias.on[None], n), mixed, out)


def _log_sum(scores: Tensor, keys: Tensor) -> Tensor:
    """log Σ e^scores over the keys: [..., n], bool [n] → [..., 1]."""
    return scores.masked_fill(~keys, _NEVER).logsumexp(-1, keepdim=True)


def _scores(packed: Tensor, k: Tensor, row_bias: RowBias, scale: float) -> Tensor:
    """[B, Hk, G·n, keys], in the bias's dtype: a score rounded to half precision would shift the whole of V."""
    return torch.matmul(packed.to(row_bias.bias.dtype) * scale, k.to(row_bias.bias.dtype).transpose(-1, -2))


def _pack(q: Tensor, k_heads: int) -> Tensor:
    """[B, Hq, n, D] → [B, Hk, G·n, D]: the query heads of a group become rows, head by head."""
    return q.reshape(q.shape[0], k_heads, -1, q.shape[3])


def _spread(per_group: Tensor, n: int) -> Tensor:
    """[1, Hk, G, K] → a row for each packed row, [1, Hk, G·n, K]; what a group shares stays [1, ·, 1, K]."""
    return per_group if n == 1 or per_group.shape[2] == 1 else per_group.repeat_interleave(n, dim=2)


def _with_causal(row: Tensor, packed: Tensor, n: int) -> Tensor:
    """A bias [1, 1 | Hk, 1 | G, L] that also hides what comes after each row; one row sees everything."""
    if n == 1:
        return row
    causal, group = _causal(n, row.shape[-1], row), packed.shape[2] // n
    if row.shape[2] == 1:  # the same n rows for each head of the group
        return (row + causal).repeat(1, 1, group, 1)
    return _spread(row, n) + causal.repeat(group, 1)


def _causal(n: int, keys: int, like: Tensor) -> Tensor:
    """−inf above the diagonal that ends in the last row's last key, 0 below: [n, keys]."""
    return like.new_full((n, keys), _NEVER).triu_(keys - n + 1)
