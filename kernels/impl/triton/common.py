"""What the Triton kernels share: codes of the laws, row gains, the sums of a group of keys, the law at the merge.

Units. A raw score is z = q·k, before the scale; s2 = z · scale · log2 e is the score in log2 units, so that e^s
is exp2(s2). The bias is added to z, `row_gain` is in its units: one fused multiply-add, exact at gain 0, and the
multiply by the scale stays fused with the subtraction of the running maximum, with and without steering alike.
The scale must be positive: the maximum is taken of z.

A group of keys (text, V, background, region) keeps its own running maximum m (log2 units), its sum l = Σ
2^(s2 − m) and Σ 2^(s2 − m)·v. Groups do not share a maximum: a bias of 64 would flush a group to 0 that the law
scales back later. An empty group has m = FLOOR, l = 0. Laws are applied to pairs (m, l), not to m + log2 l, which
would lose the last bits of l.
"""

from __future__ import annotations

import triton
import triton.language as tl

LAW_CODES = {"none": 0, "additive": 1, "conserving": 2, "share": 3, "target": 4}
NONE = tl.constexpr(0)
ADDITIVE = tl.constexpr(1)
CONSERVING = tl.constexpr(2)
SHARE = tl.constexpr(3)
TARGET = tl.constexpr(4)

# No table; e4m3 read as uint8, made float32 in hardware or bit by bit (KeyField.gain_table); float32.
GAIN_KINDS = {"one": 0, "fp8": 1, "fp8_bits": 2, "fp32": 3}
GAIN_ONE = tl.constexpr(0)
GAIN_FP8 = tl.constexpr(1)
GAIN_BITS = tl.constexpr(2)

LOG2E = tl.constexpr(1.4426950408889634)
WEIGHT_ONE = tl.constexpr(127.0)
FLOOR = tl.constexpr(-1.0e38)  # a running maximum of nothing: finite, so that FLOOR − FLOOR is 0 and not NaN
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def product(a, b, acc=None):
    """The matrix product a · b in float32, added to acc. Triton's interpreter keeps bfloat16 as 16 bits of a whole
    number, and multiplies those: it is given what they stand for."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def e4m3_over_256(code):
    """float8_e4m3fn, read as uint8, as float16 divided by 256: exact, subnormals too.

    The formats differ by the exponent's bias alone, 15 − 7 = 8, so moving the bits is the whole conversion.
    NaN's code gives 480 / 256; tables and caches are checked to be finite where they are made.
    """
    bits = code.to(tl.int16)
    return (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True)


@triton.jit
def e4m3(code):
    """float8_e4m3fn, read as int8, as float32, on cards that can't: exact. NaN's code gives 480."""
    bits = (code.to(tl.int32) << 20) & -0x78100000  # the sign extended to bit 31, magnitude from bit 20 on
    return bits.to(tl.float32, bitcast=True) * 1.329227995784916e36  # 2^120, the difference of the exponents' biases


@triton.jit
def gain_codes(gains, heads, mask, GAIN_KIND: tl.constexpr):
    """What the table holds for `heads` (an int32 tensor or scalar); 0 where mask is False. No table: all 1."""
    if GAIN_KIND == GAIN_ONE:
        codes = tl.where(mask, 1.0, 0.0)
    else:
        codes = tl.load(gains + heads, mask=mask, other=0)
    return codes


@triton.jit
def gain_of(codes, GAIN_KIND: tl.constexpr):
    """Gains as float32, from what `gain_codes` gives."""
    if GAIN_KIND == GAIN_FP8:
        codes = codes.to(tl.float8e4nv, bitcast=True).to(tl.float32)
    elif GAIN_KIND == GAIN_BITS:
        codes = e4m3(codes.to(tl.int8, bitcast=True))
    return codes


@triton.jit
def head_gain(gains, heads, mask, GAIN_KIND: tl.constexpr):
    """The gains of `heads` as float32; 0 where mask is False."""
    return gain_of(gain_codes(gains, heads, mask, GAIN_KIND), GAIN_KIND)


@triton.jit
def row_gain(alpha, gain, bias_unit):
    """What one unit of INT8 weight adds to a raw score: α · gain · bias_unit, which is 1 / (127 · scale)."""
    return gain * (alpha * bias_unit)


@triton.jit
def add_bias(z, weights, gain):
    """Raw scores with the bias. z [M, N] float32, weights [N] int8, gain [M] of `row_gain`; gain 0 gives z."""
    w = tl.broadcast_to(weights.to(tl.float32)[None, :], z.shape)
    return tl.fma(w, tl.broadcast_to(gain[:, None], z.shape), z)


@triton.jit
def has_effect(low, high, LAW: tl.constexpr):
    """Whether weights from low to high on the visible part of V give the law something to do. Any shape, bool.

    (Additive and none say True: weights of 0 change nothing, bit for bit.)
    """
    low, high = low.to(tl.int32), high.to(tl.int32)
    if LAW == CONSERVING:
        can = low < high
    elif LAW == SHARE:
        can = (low <= 0) & (high > 0)
    elif LAW == TARGET:
        can = high > 0
    else:
        can = low <= high
    return can


@triton.jit
def online_softmax_update(z, v, m, total, acc, scale2):
    """A tile joins a group. z [M, N] float32: raw scores, −inf for keys outside the group; v [N, D] of q's dtype;
    m and total (the l above) [M], acc [M, D] float32; scale2 = scale · log2 e. Gives p [M, N] = 2^(s2 − m), what
    older sums shrank by, m, total, acc."""
    p, shrink, m, total = online_sum_update(z, m, total, scale2)
    acc = product(p.to(v.dtype), v, acc * shrink[:, None])
    return p, shrink, m, total, acc


@triton.jit
def online_sum_update(z, m, total, scale2):
    """`online_softmax_update` where the group's sum alone is wanted. Gives p, what older sums shrank by, m, total."""
    m_new = tl.maximum(m, tl.max(z, 1) * scale2)
    p = tl.exp2(tl.fma(z, tl.zeros_like(z) + scale2, tl.broadcast_to(-m_new[:, None], z.shape)))
    shrink = tl.exp2(m - m_new)
    return p, shrink, m_new, tl.fma(total, shrink, tl.sum(p, 1))


@triton.jit
def online_region_update(p, region, r, shrink):
    """R's part of a group's sum, after a tile joined: p and shrink as either update gives them, region [N] or [M, N]
    bool, r [M]."""
    return tl.fma(r, shrink, tl.sum(tl.where(region, p, 0.0), 1))


@triton.jit
def rescale(x, y):
    """x rescaled: x / y, and 0 where y is 0, the sum of an empty group. (Not `y > 0`: NaN must stay NaN.)"""
    return tl.where(y != 0, x / tl.where(y != 0, y, 1.0), 0.0)


@triton.jit
def group_weights(m_t, l_t, m_b, l_b, m_r, l_r, m_v, l_v, setpoint, LAW: tl.constexpr):
    """What part of the row each group gets under the law: (text, background, region), of sum 1. And whether share
    raises nothing: the region has its setpoint with the bias alone.

    Pairs m, l of: t text; b the background with the bias (conserving: all of V with it); r the region with the
    bias (conserving: unused); v V without it (target: unused). setpoint: ρ or ψ. A row that the law does not hold
    for has all its keys in text (l_b = l_r = l_v = 0), and gets exactly (1, 0, 0). All of one shape, float32.
    """
    kept = False
    if LAW == TARGET:
        top = tl.maximum(m_t, m_b)
        text, back = l_t * tl.exp2(m_t - top), l_b * tl.exp2(m_b - top)
        rest = rescale(1.0 - setpoint, text + back)
        active = l_r != 0
        a_t = tl.where(active, text * rest, 1.0)
        a_b = tl.where(active, back * rest, 0.0)
        a_r = tl.where(active, setpoint, 0.0)
    else:
        top = tl.maximum(m_t, m_v)
        text, all_v = l_t * tl.exp2(m_t - top), l_v * tl.exp2(m_v - top)
        active = l_v != 0
        v_part = rescale(all_v, text + all_v)
        a_t = tl.where(active, rescale(text, text + all_v), 1.0)
        if LAW == SHARE:
            top_v = tl.maximum(m_b, m_r)
            back, region = l_b * tl.exp2(m_b - top_v), l_r * tl.exp2(m_r - top_v)
            share = rescale(region, back + region)
            kept = setpoint <= share  # false for NaN, which so comes out
            a_b = tl.where(active, v_part * tl.where(kept, rescale(back, back + region), 1.0 - setpoint), 0.0)
            a_r = tl.where(active, v_part * tl.where(kept, share, setpoint), 0.0)
        else:
            a_b = tl.where(active, v_part, 0.0)
            a_r = 0.0
    return a_t, a_b, a_r, kept


@triton.jit
def focus_of(m_t, l_t, l_b, r_b, l_r, a_b, a_r, m_v, l_v, r_v, LAW: tl.constexpr):
    """The mass of R of a row before and after the law, for conserving, share and target.

    Arguments as for `group_weights`, and r_b: the part of l_b that R has (conserving), r_v: the part of V's base sum,
    at maximum m_v, that R has; of every row, while l_v is 0 for rows that the law does not hold for.
    """
    top = tl.maximum(m_t, m_v)
    unit_v = tl.exp2(m_v - top)
    before = rescale(r_v * unit_v, l_t * tl.exp2(m_t - top) + l_v * unit_v)
    if LAW == CONSERVING:
        after = tl.where(l_b != 0, a_b * rescale(r_b, l_b), before)
    else:
        after = tl.where(l_r != 0, a_r, before)
    return before, after
