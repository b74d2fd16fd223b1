"""The second half of decoding in Triton: the splits' sums of a row become one, the law is applied, out is written."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import ADDITIVE, CONSERVING, FLOOR, NONE, TARGET, focus_of, group_weights, rescale

MAX_SPLITS = tl.constexpr(128)
# What a split leaves of each row, besides the accumulators: m and l of each group (text; V, or background and
# region), then of V without the bias, then the region's part of the sum without the bias and with it.
NUM_SUMS = {"none": 6, "additive": 6, "conserving": 8, "share": 10, "target": 10}
NUM_GROUPS = {"none": 1, "additive": 1, "conserving": 2, "share": 3, "target": 3}


@triton.jit
def keys_per_split(length, splits, BLOCK_N: tl.constexpr):
    """How many keys a split takes: the same for all, whole tiles. The last splits may have none."""
    return tl.cdiv(tl.cdiv(length, BLOCK_N), splits) * BLOCK_N


@triton.jit
def valid_length(length, capacity, LENGTH_ON_DEVICE: tl.constexpr):
    """The number of keys that are real: a number, or read from the device; never beyond the cache."""
    if LENGTH_ON_DEVICE:
        length = tl.load(length).to(tl.int32)
    return tl.minimum(length, capacity)


@triton.jit
def _gather(sums, slot, step, used):
    """A group's maximum over all splits, and sum at that maximum. sums: the row's; slots are step apart."""
    at = tl.arange(0, MAX_SPLITS)
    here = at < used
    m = tl.load(sums + slot * step + at, mask=here, other=FLOOR)
    top = tl.max(m, 0)
    part = tl.load(sums + (slot + 1) * step + at, mask=here, other=0.0)
    return top, tl.sum(part * tl.exp2(m - top), 0)


@triton.jit
def _gather_part(sums, slot, part_slot, step, used, top):
    """A part of a group's sum (the region's) at the group's maximum `top`, over all splits."""
    at = tl.arange(0, MAX_SPLITS)
    here = at < used
    m = tl.load(sums + slot * step + at, mask=here, other=FLOOR)
    part = tl.load(sums + part_slot * step + at, mask=here, other=0.0)
    return tl.sum(part * tl.exp2(m - top), 0)


@triton.jit
def _values(accs, sums, group, step, at, here, v_cols, HEAD_V: tl.constexpr):
    """A group's accumulators [CHUNK, BLOCK_V] and maxima [CHUNK] of the splits `at`."""
    values = tl.load(
        accs + group * step * HEAD_V + at[:, None] * HEAD_V + v_cols[None, :],
        mask=here[:, None] & (v_cols < HEAD_V)[None, :],
        other=0.0,
    )
    return values, tl.load(sums + 2 * group * step + at, mask=here, other=FLOOR)


@triton.jit(do_not_specialize=["length", "capacity", "splits"])
def merge_kernel(
    accs,  # float32 [groups, B·Hq, splits, HEAD_V]
    sums,  # float32 [sums, B·Hq, splits]
    setpoint,  # float32 [1]: ρ or ψ
    alpha,  # float32 [1]
    length,
    out,  # [B·Hq, HEAD_V] in q's dtype
    focus,  # float32 [B·Hq, 2]
    capacity,
    splits,
    v_unit,  # of the FP8 cache's values
    LAW: tl.constexpr,
    FOCUS: tl.constexpr,
    HEAD_V: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    CHUNK: tl.constexpr,
    LENGTH_ON_DEVICE: tl.constexpr,
    FP8_CACHE: tl.constexpr,
    KEEPS: tl.constexpr,  # of share: out holds law none's rows, and those that the law does not change stay
):
    """One program for BLOCK_V values of a row of out: grid (B·Hq, ⌈HEAD_V / BLOCK_V⌉)."""
    row = tl.program_id(0)
    step = tl.num_programs(0) * splits
    keys = valid_length(length, capacity, LENGTH_ON_DEVICE)
    used = tl.cdiv(keys, tl.maximum(keys_per_split(keys, splits, BLOCK_N), 1))
    sums += row * splits
    accs += row * splits * HEAD_V
    v_cols = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)

    m_t, l_t = _gather(sums, 0, step, used)
    m_b, l_b, m_r, l_r, m_v, l_v = m_t, l_t, m_t, l_t, m_t, l_t
    V_SLOT: tl.constexpr = 2 if LAW < CONSERVING else (4 if LAW == CONSERVING else 6)
    if LAW >= CONSERVING:
        m_b, l_b = _gather(sums, 2, step, used)
    if LAW > CONSERVING:
        m_r, l_r = _gather(sums, 4, step, used)
    if (LAW >= CONSERVING and LAW != TARGET) or (FOCUS and LAW != NONE):
        m_v, l_v = _gather(sums, V_SLOT, step, used)
    text = tl.zeros([BLOCK_V], dtype=tl.float32)
    back, region = text, text
    for first in range(0, used, CHUNK):  # every group's loads before the first sum waits for its own
        at = first + tl.arange(0, CHUNK)
        here = at < used
        of_t, top_t = _values(accs, sums, 0, step, at, here, v_cols, HEAD_V)
        if LAW >= CONSERVING:
            of_b, top_b = _values(accs, sums, 1, step, at, here, v_cols, HEAD_V)
        if LAW > CONSERVING:
            of_r, top_r = _values(accs, sums, 2, step, at, here, v_cols, HEAD_V)
        text += tl.sum(of_t * tl.exp2(top_t - m_t)[:, None], 0)
        if LAW >= CONSERVING:
            back += tl.sum(of_b * tl.exp2(top_b - m_b)[:, None], 0)
        if LAW > CONSERVING:
            region += tl.sum(of_r * tl.exp2(top_r - m_r)[:, None], 0)

    value = rescale(text, l_t)
    if LAW >= CONSERVING:
        a_t, a_b, a_r, kept = group_weights(m_t, l_t, m_b, l_b, m_r, l_r, m_v, l_v, tl.load(setpoint), LAW)
        value = value * a_t + rescale(back, l_b) * a_b
        if LAW > CONSERVING:
            value += rescale(region, l_r) * a_r
    if FOCUS:
        if LAW == NONE:
            before = rescale(_gather_part(sums, 0, 5, step, used, m_t), l_t)
            after = before
        else:
            r_v = _gather_part(sums, V_SLOT, V_SLOT + 2, step, used, m_v)
            if LAW == ADDITIVE:
                before = rescale(r_v, l_v)
                after = rescale(_gather_part(sums, 0, 5, step, used, m_t), l_t)
            else:
                r_b = l_b
                if LAW == CONSERVING:
                    r_b = _gather_part(sums, 2, 7, step, used, m_b)
                before, after = focus_of(m_t, l_t, l_b, r_b, l_r, a_b, a_r, m_v, l_v, r_v, LAW)
    if FP8_CACHE:
        value = value * v_unit
    columns = HEAD_V
    if KEEPS:
        columns = tl.where(kept & (tl.load(alpha) == 0), 0, HEAD_V)
    tl.store(out + row * HEAD_V + v_cols, value.to(out.dtype.element_ty), mask=v_cols < columns)
    if FOCUS and tl.program_id(1) == 0:
        tl.store(focus + row * 2, before)
        tl.store(focus + row * 2 + 1, after)
