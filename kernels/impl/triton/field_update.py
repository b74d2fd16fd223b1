"""The Triton half of kernels/update.py."""

from __future__ import annotations

import triton
import triton.language as tl

_HALF_EVEN = tl.constexpr(12582912.0)  # 1.5 · 2^23: a float32 below 2^22 plus this has no bits for a fraction


@triton.jit
def _least(a, b):
    return tl.minimum(a, b)


@triton.jit
def _most(a, b):
    return tl.maximum(a, b)


@triton.jit(do_not_specialize=["n", "regions", "batch_stride", "region_stride", "strength_stride"])
def update_kernel(
    parts,  # int8 [regions, n] or [B, regions, n]
    strengths,  # float32 [regions] or [B, regions], with HAS_STRENGTHS
    visual,  # uint8 [n] or [B, n]
    weights,  # int8, same shape, written
    weight_extrema,  # int8 [n, 2] or [B, n, 2], written
    n,
    regions,
    batch_stride,  # of parts; those of the field are n and 2·n
    region_stride,
    strength_stride,  # from one sequence's strengths to the next
    BLOCK: tl.constexpr,
    HAS_STRENGTHS: tl.constexpr,
):
    """One program for each sequence: grid (B,)."""
    batch = tl.program_id(0)
    parts += batch.to(tl.int64) * batch_stride
    strengths += batch * strength_stride
    visual += batch * n
    weights += batch * n
    weight_extrema += batch * n * 2
    lowest = tl.full([], 127, tl.int32)
    highest = tl.full([], -127, tl.int32)
    for first in range(0, n, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < n
        on_v = tl.load(visual + at, mask=inside, other=0) != 0
        up = tl.zeros([BLOCK], tl.float32)
        down = tl.zeros([BLOCK], tl.float32)
        for region in range(regions):
            w = tl.load(parts + region * region_stride + at, mask=inside, other=0).to(tl.float32)
            if HAS_STRENGTHS:
                w = w * tl.load(strengths + region)
                w = tl.where(w == w, w, 0.0)
            w = tl.minimum(tl.maximum(w, -127.0), 127.0)
            w = (w + _HALF_EVEN) - _HALF_EVEN
            up, down = tl.maximum(up, w), tl.minimum(down, w)
        merged = tl.where(on_v, up + down, 0.0).to(tl.int32)
        tl.store(weights + at, merged.to(tl.int8), mask=inside)
        low = tl.minimum(tl.associative_scan(tl.where(on_v, merged, 127), 0, _least), lowest)
        high = tl.maximum(tl.associative_scan(tl.where(on_v, merged, -127), 0, _most), highest)
        tl.store(weight_extrema + 2 * at, low.to(tl.int8), mask=inside)
        tl.store(weight_extrema + 2 * at + 1, high.to(tl.int8), mask=inside)
        lowest, highest = tl.min(low, 0), tl.max(high, 0)
