"""The first half of decoding in Triton: a split of the keys, read once for all query heads of a key head.

A split keeps what the law needs of each row: one accumulator (none, additive), two (conserving: text, V) or three
(share, target: text, background, region), each with its maximum and sum, and V's sum without the bias.
decode_merge.py joins the splits and applies the law. A row that the law does not hold for counts all its keys as
text, so its result is the plain one bit for bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import (
    ADDITIVE,
    CONSERVING,
    FLOOR,
    LOG2E,
    NONE,
    add_bias,
    e4m3_over_256,
    gain_codes,
    gain_of,
    has_effect,
    online_region_update,
    online_softmax_update,
    online_sum_update,
    product,
    row_gain,
)
from .decode_merge import keys_per_split, valid_length


@triton.jit
def _of_field(table, behind, size):
    """Weights or visual at `behind` the field's start, a tensor or scalar; 0 outside the field."""
    at = behind.to(tl.uint32, bitcast=True)  # before the start: beyond any size
    return tl.load(table + at, mask=at < size.to(tl.uint32, bitcast=True), other=0)


@triton.jit
def _steerable(visual, weight_extrema, rows, behind, size, LAW: tl.constexpr, HAS_ROWS: tl.constexpr):
    """Whether the law may hold for the row at `behind` the field's start, by all but its head's gain. A scalar."""
    ok = _of_field(visual, behind, size) == 0
    if HAS_ROWS:
        ok = ok & (tl.load(rows) != 0)
    if LAW != ADDITIVE:
        low = tl.load(weight_extrema + 2 * tl.minimum(behind, size - 1), mask=behind >= 0, other=0)
        high = tl.load(weight_extrema + 2 * tl.minimum(behind, size - 1) + 1, mask=behind >= 0, other=0)
        ok = ok & has_effect(low, high, LAW)
    return ok


@triton.jit
def _keep(sums, slot, step, m, total, mask):
    """Store one group's maximum and sum."""
    tl.store(sums + slot * step, m, mask=mask)
    tl.store(sums + (slot + 1) * step, total, mask=mask)


@triton.jit(do_not_specialize=["length", "capacity", "field_start", "field_end", "field_stride"])
def decode_kernel(
    q,  # [B, Hq, 1, HEAD]
    k,  # [B, Hk, capacity, HEAD], or its e4m3 codes as uint8
    v,  # [B, Hk, capacity, HEAD_V], likewise
    weights,  # int8 [n] or [B, n], n = field_end − field_start
    visual,  # uint8, same shape
    weight_extrema,  # int8 [n, 2] or [B, n, 2]
    gains,  # uint8 (e4m3) or float32 [Hq], by GAIN_KIND
    rows,  # uint8 [1], with HAS_ROWS
    alpha,  # float32 [1]
    length,  # a number, or int [1] with LENGTH_ON_DEVICE
    accs,  # float32 [groups, B·Hq, splits, HEAD_V]
    sums,  # float32 [sums, B·Hq, splits]
    q_stride_b,
    q_stride_h,
    k_stride_b,
    k_stride_h,
    k_stride_n,
    v_stride_b,
    v_stride_h,
    v_stride_n,
    capacity,
    field_start,
    field_end,
    field_stride,  # from one sequence's weights to the next, with BATCHED
    scale,  # of the raw scores, positive
    bias_unit,  # 1 / (127 · scale)
    k_heads,
    LAW: tl.constexpr,
    FOCUS: tl.constexpr,
    GROUP: tl.constexpr,  # query heads of a key head
    HEAD: tl.constexpr,
    HEAD_V: tl.constexpr,
    BLOCK_M: tl.constexpr,  # twice the group's room: the upper half repeats the rows, for the region's sums
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    GAIN_KIND: tl.constexpr,
    BATCHED: tl.constexpr,  # a field for each sequence
    HAS_ROWS: tl.constexpr,
    LENGTH_ON_DEVICE: tl.constexpr,
    FP8_CACHE: tl.constexpr,
):
    """One program for a split of one key head: grid (splits, B·Hk·PARTS)."""
    HALF: tl.constexpr = BLOCK_M // 2
    PARTS: tl.constexpr = (GROUP + HALF - 1) // HALF  # a large group is cut up, its keys read by each part
    GROUPED: tl.constexpr = LAW >= CONSERVING
    USES_W: tl.constexpr = LAW != NONE or FOCUS
    split, splits = tl.program_id(0), tl.num_programs(0)
    stream = tl.program_id(1) // PARTS  # the sequence's key head
    batch, k_head = stream // k_heads, stream % k_heads
    keys = valid_length(length, capacity, LENGTH_ON_DEVICE)
    per_split = keys_per_split(keys, splits, BLOCK_N)
    low, high = split * per_split, tl.minimum(split * per_split + per_split, keys)
    if low >= high:
        return

    at_m, at_n = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    at_d, at_v = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
    member, upper = at_m, at_m >= HALF
    if GROUPED:
        member = at_m % HALF  # the upper rows are the lower ones again, for other groups of keys
    if PARTS > 1:
        member += tl.program_id(1) % PARTS * HALF
    heads = k_head * GROUP + member
    in_group = at_m < (BLOCK_M if GROUPED else HALF)
    if GROUP % HALF != 0:
        in_group = in_group & (member < GROUP)
    q += batch.to(tl.int64) * q_stride_b
    k += batch.to(tl.int64) * k_stride_b + k_head.to(tl.int64) * k_stride_h + low.to(tl.int64) * k_stride_n
    v += batch.to(tl.int64) * v_stride_b + k_head.to(tl.int64) * v_stride_h + low.to(tl.int64) * v_stride_n
    rows_q = tl.load(
        q + heads[:, None] * q_stride_h + at_d[None, :], mask=in_group[:, None] & (at_d < HEAD)[None, :], other=0.0
    )  # [BLOCK_M, BLOCK_D]
    if USES_W:
        size = field_end - field_start
        if BATCHED:
            weights += batch * field_stride
            visual += batch * field_stride
            weight_extrema += batch * field_stride * 2
    if LAW != NONE:
        can = _steerable(visual, weight_extrema, rows, keys - 1 - field_start, size, LAW, HAS_ROWS)
        codes, alpha_value = gain_codes(gains, heads, in_group, GAIN_KIND), tl.load(alpha)
        if GROUPED:
            active = (gain_of(codes, GAIN_KIND) != 0) & can
            if LAW == CONSERVING:
                active = active & (gain_of(codes, GAIN_KIND) * alpha_value != 0)  # (true for NaN, which so comes out)

    m_t = tl.full([BLOCK_M], FLOOR, tl.float32)
    l_t = tl.zeros([BLOCK_M], tl.float32)
    acc_t = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    if GROUPED:
        m_g, l_g, acc_g = m_t, l_t, acc_t
        passive = ~(active | upper)
    m_v, l_v, r_v, r_g = m_t, l_t, l_t, l_t
    for first in range(low, high, BLOCK_N):
        ok = first + at_n < high
        at = (first - low) + at_n
        if USES_W:  # asked for before K is waited for
            behind = first - field_start
            if FOCUS or GROUPED:
                w = _of_field(weights, behind + at_n, size)
            else:  # summed over nothing, so that each byte is loaded by one thread and not by all that need it
                w = tl.sum(_of_field(weights, (behind + at_n)[:, None], size).to(tl.float32), 1)
            if GROUPED:
                on_v = _of_field(visual, behind + at_n, size)
            meets = (behind < size) & (behind > -BLOCK_N)
        tile_k = tl.load(
            k + at[:, None] * k_stride_n + at_d[None, :],
            mask=ok[:, None] & (at_d < HEAD)[None, :],
            other=0,
        )  # [BLOCK_N, BLOCK_D]
        tile_v = tl.load(
            v + at[:, None] * v_stride_n + at_v[None, :],
            mask=ok[:, None] & (at_v < HEAD_V)[None, :],
            other=0,
        )  # [BLOCK_N, BLOCK_V]
        if FP8_CACHE:
            tile_k, tile_v = e4m3_over_256(tile_k).to(rows_q.dtype), e4m3_over_256(tile_v).to(rows_q.dtype)
        z = product(rows_q, tl.trans(tile_k))  # [BLOCK_M, BLOCK_N]
        z = tl.where(ok[None, :], z, float("-inf"))
        if GROUPED:
            # Lower rows: text, or all keys of a row that the law does not hold for. Upper rows: V without the bias.
            rest = tl.where(upper[:, None], float("-inf"), z)
            if meets:
                is_v, is_r = (on_v != 0)[None, :], (w > 0)[None, :]
                rest = tl.where((upper[:, None] == is_v) | passive[:, None], z, float("-inf"))
                # Lower rows: the background (conserving: all of V) with the bias. Upper rows: the region with it.
                steered = is_v & active[:, None]
                if LAW != CONSERVING:
                    steered = steered & (upper[:, None] == is_r)
                gain = row_gain(alpha_value, gain_of(codes, GAIN_KIND), bias_unit)
                z = tl.where(steered, add_bias(z, w, gain), float("-inf"))
                p, shrink, m_g, l_g, acc_g = online_softmax_update(z, tile_v, m_g, l_g, acc_g, scale * LOG2E)
                if LAW == CONSERVING and FOCUS:
                    r_g = online_region_update(p, is_r, r_g, shrink)
            p, shrink, m_t, l_t, acc_t = online_softmax_update(rest, tile_v, m_t, l_t, acc_t, scale * LOG2E)
            if FOCUS:
                r_v = online_region_update(p, (w > 0)[None, :], r_v, shrink)
        else:
            if LAW == ADDITIVE:
                if FOCUS:
                    p, shrink, m_v, l_v = online_sum_update(z, m_v, l_v, scale * LOG2E)
                    r_v = online_region_update(p, (w > 0)[None, :], r_v, shrink)
                if can:
                    z = add_bias(z, w, row_gain(alpha_value, gain_of(codes, GAIN_KIND), bias_unit))
            p, shrink, m_t, l_t, acc_t = online_softmax_update(z, tile_v, m_t, l_t, acc_t, scale * LOG2E)
            if FOCUS:
                r_g = online_region_update(p, (w > 0)[None, :], r_g, shrink)

    rows_out = tl.num_programs(1) // PARTS * GROUP
    row = stream * GROUP + member
    step = rows_out * splits
    at = row * splits + split
    lower = in_group & (at_m < HALF)
    sums += at
    accs += at[:, None] * HEAD_V + at_v[None, :]
    v_ok = (at_v < HEAD_V)[None, :]
    _keep(sums, 0, step, m_t, l_t, lower)
    tl.store(accs, acc_t, mask=lower[:, None] & v_ok)
    if GROUPED:
        if LAW == CONSERVING:
            V_SLOT: tl.constexpr = 4
            group, mine = tl.full([BLOCK_M], 1, tl.int32), lower
        else:
            V_SLOT: tl.constexpr = 6
            group, mine = tl.where(upper, 2, 1), in_group
        _keep(sums, 2 * group, step, m_g, l_g, mine)
        tl.store(accs + (group * step * HEAD_V)[:, None], acc_g, mask=mine[:, None] & v_ok)
        of_v = in_group & upper
        _keep(sums, V_SLOT, step, m_t, tl.where(active, l_t, 0.0), of_v)
        if FOCUS:
            tl.store(sums + (V_SLOT + 2) * step, r_v, mask=of_v)
            tl.store(sums + (V_SLOT + 3) * step, r_g, mask=lower)
    elif FOCUS:
        _keep(sums, 2, step, m_v, l_v, lower)
        _keep(sums, 4, step, r_v, r_g, lower)
