"""The fast path: a law becomes a bias on each row, and PyTorch's scaled_dot_product_attention does the rest.

Exact for every law of kernels/reference.py. The additive bias does not depend on the row. Conserving needs
each row's c = log Σ_V p_k·e^(g·w_k), with p the softmax over V alone: scores against V only, never a second
pass over the text. Query heads that share a key head are packed into rows, so K and V are never repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

MAX_MASK_ITEMS = 1 << 23  # of a chunk of rows: 32 MiB of fp32 bias, whatever the prompt's length
_TINY = 1e-30  # keeps 0 / 0 out of the focus of a row that V has no part of
_SPARE_KEYS = 1024  # a bias row is made this much longer than asked, so that decoding seldom has to remake it


@dataclass(eq=False)
class Terms:
    """What rows need of one version of the field, given their heads' gains: made once, read at every token.

    start, end: the key positions that the spans before the rows cover, n = end − start of them, text between
        frames (gaps) included.
    bias: g·w [1, 1, n], or [Hk, G, n] where heads differ; 0 in gaps. exp: e^bias, 0 in gaps.
    visual: 1.0 on V, 0.0 in gaps [n]. columns: 1.0 where a key is in V, in R, in a region [n, 2 + regions].
    sums: columns, then columns times exp, for heads that do not differ [n, 2 · (2 + regions)].
    heads: 1.0 for query heads whose focus counts [Hq], heads_on of them. conserving: whether c is needed.
    """

    start: int
    end: int
    bias: Tensor
    exp: Tensor
    visual: Tensor
    gapless: bool
    conserving: bool
    columns: Tensor
    sums: Tensor
    heads: Tensor
    heads_on: int
    _row: Tensor | None = None
    _visual_row: Tensor | None = None

    def rows(self, keys: int) -> tuple[Tensor, Tensor]:
        """The bias and `visual` over the first `keys` positions: [1, 1 | Hk, 1 | G, keys] and [keys]."""
        row, visual_row = self._row, self._visual_row
        if row is None or visual_row is None or row.shape[-1] < keys:
            row = self.bias.new_zeros(1, *self.bias.shape[:-1], keys + _SPARE_KEYS)
            row[..., self.start : self.end] = self.bias
            visual_row = self.bias.new_zeros(keys + _SPARE_KEYS)
            visual_row[self.start : self.end] = self.visual
            self._row, self._visual_row = row, visual_row
        return row[..., :keys], visual_row[:keys]


def make_terms(
    weights: Tensor,
    visual: Tensor,
    start: int,
    gains: Tensor,
    heads: Tensor,
    key_heads: int,
    *,
    conserving: bool,
    gapless: bool,
    regions: Tensor | None,
    dtype: torch.dtype,
) -> Terms:
    """weights int8 [n], visual bool [n] and regions bool [n, r] or None, at key positions from `start`, on the
    model's device; gains (α · gain) and heads float32 [Hq] on the CPU; dtype that of the bias."""
    device = weights.device
    w = weights.to(dtype) / 127
    if bool((gains == gains[0]).all()):
        bias = (float(gains[0]) * w).view(1, 1, -1)
    else:
        bias = gains.to(device, dtype).view(key_heads, -1, 1) * w
    on_v = visual.to(dtype)
    columns = torch.stack([visual, (weights > 0) & visual], dim=1)
    if regions is not None:
        columns = torch.cat([columns, regions], dim=1)
    columns = columns.to(dtype)
    exp = bias.exp() * on_v
    return Terms(
        start=start,
        end=start + weights.shape[0],
        bias=bias,
        exp=exp,
        visual=on_v,
        gapless=gapless,
        conserving=conserving,
        columns=columns,
        sums=torch.cat([columns, exp[0, 0, :, None] * columns], dim=1),
        heads=heads.to(device),
        heads_on=int(heads.sum()),
    )


def chunk_rows(batch: int, query_heads: int, keys: int) -> int:
    """How many rows to steer at a time so that a chunk's bias stays within MAX_MASK_ITEMS."""
    return max(1, MAX_MASK_ITEMS // (batch * query_heads * keys))


def attend_rows(q: Tensor, k: Tensor, v: Tensor, terms: Terms, scale: float) -> Tensor:
    """Steered attention of consecutive rows, the last of which sees all the keys given.

    q: [B, Hq, n, D]. k: [B, Hk, L, D], v: [B, Hk, L, Dv], where row i sees the first L − n + 1 + i keys and
    every row sees all of terms' V. Returns [B, n, Hq, Dv].
    """
    batch, q_heads, n, _ = q.shape
    k_heads, keys = k.shape[1], k.shape[2]
    packed = _pack(q, k_heads)  # [B, Hk, G·n, D]
    row, visual_row = terms.rows(keys)  # [1, 1|Hk, 1|G, L]
    if n > 1:
        row = _spread(row, n)
    if terms.conserving:
        c = _conserving_shift(packed, k, terms, n, scale)  # [B, Hk, G·n, 1]
        row = torch.addcmul(row, c, visual_row, value=-1.0)
    if n > 1:
        causal, group = _causal(n, keys, row), packed.shape[2] // n
        if row.shape[2] == 1:  # the same n rows for each head of the group
            row = (row + causal).repeat(1, 1, group, 1)
        else:
            row = row + causal.repeat(group, 1)
    if packed.dtype != row.dtype and packed.device.type != "cpu":
        # Off the CPU, SDPA wants the mask in q's dtype; a bias rounded to half precision would shift all of R.
        packed, k, v = packed.to(row.dtype), k.to(row.dtype), v.to(row.dtype)
    out = scaled_dot_product_attention(packed, k, v, attn_mask=row, scale=scale).to(q.dtype)
    return out.reshape(batch, q_heads, n, v.shape[-1]).transpose(1, 2)


def focus_rows(q: Tensor, k: Tensor, terms: Terms, scale: float) -> Tensor:
    """The mass of R and of each region, before and after the law: [B, Hq, n, 2, 1 + regions] in the bias's
    dtype. Arguments as for `attend_rows`. After follows from before in closed form: no second softmax."""
    batch, q_heads, n, _ = q.shape
    dtype = terms.bias.dtype
    k = k.to(dtype).transpose(-1, -2)
    scores = torch.matmul(_pack(q, k.shape[1]).to(dtype) * scale, k)  # [B, Hk, G·n, L]
    if n > 1:
        scores = scores + _causal(n, k.shape[3], scores).repeat(q_heads // k.shape[1], 1)
    base = scores.softmax(-1)[..., terms.start : terms.end]
    columns = terms.columns.shape[1]
    if terms.exp.shape[:2] == (1, 1):
        sums = torch.matmul(base, terms.sums)  # [B, Hk, G·n, 2·columns]
        before, after = sums[..., :columns], sums[..., columns:]
    else:
        before = torch.matmul(base, terms.columns)
        after = torch.matmul(base * _spread(terms.exp.unsqueeze(0), n), terms.columns)
    v_before, v_after = before[..., :1], after[..., :1]  # column 0 is V itself
    norm = v_after / v_before.clamp_min(_TINY) if terms.conserving else 1.0 - v_before + v_after
    both = torch.stack([before[..., 1:], after[..., 1:] / norm.clamp_min(_TINY)], dim=-2)
    return both.view(batch, q_heads, n, 2, columns - 1)


def _pack(q: Tensor, k_heads: int) -> Tensor:
    """[B, Hq, n, D] → [B, Hk, G·n, D]: the query heads of a group become rows, head by head."""
    return q.reshape(q.shape[0], k_heads, -1, q.shape[3])


def _spread(per_group: Tensor, n: int) -> Tensor:
    """[1, Hk, G, K] → a row for each packed row, [1, Hk, G·n, K]; what a group shares stays [1, ·, 1, K]."""
    return per_group if n == 1 or per_group.shape[2] == 1 else per_group.repeat_interleave(n, dim=2)


def _conserving_shift(packed: Tensor, k: Tensor, terms: Terms, n: int, scale: float) -> Tensor:
    """c of each packed row: [B, Hk, G·n, 1]."""
    dtype = terms.bias.dtype
    over_v = k[:, :, terms.start : terms.end]  # every row sees all of V: no causal mask here
    if over_v.dtype != dtype:  # half precision: a rounded score would shift the whole of V
        packed, over_v = packed.to(dtype), over_v.to(dtype)
    scores = torch.matmul(packed * scale, over_v.transpose(-1, -2))  # [B, Hk, G·n, |V|]
    if not terms.gapless:
        scores = scores.masked_fill(terms.visual == 0, float("-inf"))
    p = scores.softmax(-1)
    if terms.exp.shape[:2] == (1, 1):
        return torch.matmul(p, terms.exp[0].transpose(0, 1)).log()
    return (p * _spread(terms.exp.unsqueeze(0), n)).sum(-1, keepdim=True).log()


def _causal(n: int, keys: int, like: Tensor) -> Tensor:
    """−inf above the diagonal that ends in the last row's last key, 0 below: [n, keys]."""
    return like.new_full((n, keys), float("-inf")).triu_(keys - n + 1)
