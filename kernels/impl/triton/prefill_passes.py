"""The two ways in which a block of prefill's rows walks over its keys: in their order, and V first.

Each takes tiles of BLOCK_N keys whose borders do not depend on the rows, and gives the rows' finished output. `first`
is the key position of the block's first row, position [M] that of each row, tiles how many tiles of keys the last
row sees; k, v point at the key head, k_stride and v_stride step from key to key. That a loop runs at least once is
told to the compiler, or it would make each of Hopper's matrix multiplications wait for the one before.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import (
    ADDITIVE,
    CONSERVING,
    FLOOR,
    INTERPRETED,
    SHARE,
    TARGET,
    online_region_update,
    online_softmax_update,
    online_sum_update,
    product,
    rescale,
)

# Triton 3.6 fails to compile for Hopper a loop that it pipelines and whose products lie behind an `if`.
ONE_STAGE = tl.constexpr(tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 7))


@triton.jit
def load_rows(base, first, at, columns, stride, limit, HEAD: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows first + at of q, k or v: [M, BLOCK_D]; 0 from `limit` on, where NaN may lie, and beyond the head size."""
    here = (first + at < limit)[:, None]
    if BLOCK_D > HEAD:
        here = here & (columns < HEAD)[None, :]
    return tl.load(base + first.to(tl.int64) * stride + (at[:, None] * stride + columns[None, :]), here, other=0.0)


@triton.jit
def load_field(table, first, at, start, n):
    """The bytes of keys first + at in a field's table as float32, [N]; 0 outside the field's keys, [start, start + n).

    Few bytes for many threads: the compiler would have each thread load what it needs of them, byte by byte with
    its bounds, dozens of instructions. An instruction that it must not repeat makes it load each byte once, and
    hand them round through shared memory. (Triton 3.6 repeats it all the same.)
    """
    index = first - start + at
    loaded = tl.load(table + index, mask=index.to(tl.uint32) < n.to(tl.uint32), other=0).to(tl.float32)
    if not INTERPRETED:
        loaded = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [loaded], tl.float32, is_pure=False, pack=1)
    return loaded


@triton.jit
def load_weights(table, first, at, start, n):
    """`load_field` by a sum over nothing, which no compiler repeats: fewer instructions, but in the passes over V so
    many more registers that conserving with focus spills. The load has no mask, which would make a branch."""
    index = (first - start + at).to(tl.uint32)[:, None]
    loaded = tl.load(table + tl.minimum(index, (n - 1).to(tl.uint32)))
    return tl.sum(tl.where(index < n.to(tl.uint32), loaded.to(tl.float32), 0.0), 1)


@triton.jit
def causal(z, key, at, position, first, BLOCK_N: tl.constexpr):
    """Raw scores with −inf at keys behind the row; untouched where the first row sees the whole tile."""
    if key + BLOCK_N > first + 1:
        z = tl.where((key + at)[None, :] <= position[:, None], z, float("-inf"))
    return z


@triton.jit
def empty_group(BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):
    """A group of no keys: its maximum [M], its sum [M], its weighted values [M, D]."""
    m = tl.full([BLOCK_M], FLOOR, tl.float32)
    return m, tl.zeros([BLOCK_M], tl.float32), tl.zeros([BLOCK_M, BLOCK_D], tl.float32)


@triton.jit
def in_order(
    q, k, v, weights, at, columns, position, first, tiles, k_stride, v_stride, length, start, n, gain, has_bias,
    scale2, LAW: tl.constexpr, FOCUS: tl.constexpr, WGMMA: tl.constexpr, HEAD: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """All keys in their order, under additive with the bias of `gain` [M] if `has_bias`. Gives out [M, D] and the
    focus before and after [M], float32."""
    m, total, acc = empty_group(q.shape[0], q.shape[1])
    r_sum, m_base, base, r_base = total, m, total, total
    gain = tl.broadcast_to(gain[:, None], [q.shape[0], BLOCK_N])  # here, not in the loop: it changes layout once
    v_keys = tl.where(has_bias, n + (BLOCK_N - 1), 0)  # where a tile that meets the field may begin
    # Without wgmma, Triton 3.6 writes the sums out twice, for tiles with a bias and without, unless the mask follows.
    MASK_FIRST: tl.constexpr = FOCUS or WGMMA or LAW != ADDITIVE
    tl.assume(tiles > 0)
    for tile in range(0, tiles):
        key = tile * BLOCK_N
        k_tile = load_rows(k, key, at, columns, k_stride, length, HEAD, q.shape[1])
        z = product(q, tl.trans(k_tile))
        if MASK_FIRST:
            z = causal(z, key, at, position, first, BLOCK_N)
        if FOCUS:
            weight = load_weights(weights, key, at, start, n)
            region = (weight > 0)[None, :]
            if LAW == ADDITIVE:
                p, shrink, m_base, base = online_sum_update(z, m_base, base, scale2)
                r_base = online_region_update(p, region, r_base, shrink)
        if LAW == ADDITIVE:  # noqa: SIM102 (decided by the compiler, and on the card)
            if (key - start + (BLOCK_N - 1)).to(tl.uint32) < v_keys.to(tl.uint32):
                if not FOCUS:
                    weight = load_weights(weights, key, at, start, n)
                z = tl.fma(tl.broadcast_to(weight[None, :], z.shape), gain, z)
        if not MASK_FIRST:
            z = causal(z, key, at, position, first, BLOCK_N)
        p, shrink, m, total = online_sum_update(z, m, total, scale2)
        # Asked for here, V's tile takes no registers while the scores, and with focus both sums of them, take theirs.
        v_tile = load_rows(v, key, at, columns, v_stride, length, HEAD, q.shape[1])
        acc = product(p.to(v_tile.dtype), v_tile, acc * shrink[:, None])
        if FOCUS:
            r_sum = online_region_update(p, region, r_sum, shrink)
    after = r_sum / total
    before = after
    if FOCUS and LAW == ADDITIVE:
        before = r_base / base
    return acc * (1.0 / total)[:, None], before, after


@triton.jit
def _sum_visual(
    q, k, v, weights, visual, at, columns, position, first, tiles, k_stride, v_stride, length, start, n, gain, wide,
    scale2, LAW: tl.constexpr, FOCUS: tl.constexpr, MIXED: tl.constexpr, HEAD: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The groups of V, with the bias: (m, total, acc) is V under conserving, else B; (m_r, total_r, acc_r) is R.

    Also, where they are wanted: base and r_base, the same groups' sums without the bias (r_base is the part of R
    under conserving, r_sum that of total), and how many keys between the spans came by. The sums without the bias
    keep the groups' own maxima, Σ p · e^−bias, which takes no exponential more; a `wide` bias would flush these, so
    there V's has a maximum of its own, m_base. (The biases of R, and of B, lie within 64 of each other.)
    """
    m, total, acc = empty_group(q.shape[0], q.shape[1])
    m_r, total_r, acc_r = m, total, acc
    m_base, base, r_base, r_sum = m, total, total, total
    gap_count = 0
    if LAW == CONSERVING:
        gap_count = tl.zeros([BLOCK_N], tl.int32)
    tile_first = start // BLOCK_N
    tile_end = tl.minimum(tiles, tl.cdiv(start + n, BLOCK_N))
    STAGES: tl.constexpr = 1 if ONE_STAGE and LAW != CONSERVING else None  # None: the launch's
    tl.assume(tile_end > tile_first)
    for tile in tl.range(tile_first, tile_end, num_stages=STAGES):
        key = tile * BLOCK_N
        k_tile = load_rows(k, key, at, columns, k_stride, length, HEAD, q.shape[1])
        weight = load_field(weights, key, at, start, n).to(tl.float32)
        on_v = load_field(visual, key, at, start, n) != 0
        region = weight > 0
        bias = weight * gain
        undo = tl.exp2(-bias * scale2)[None, :]
        if MIXED:
            between = (key + at >= start) & (key + at < start + n) & ~on_v
            if LAW == CONSERVING:
                gap_count += tl.where(between, 1, 0)
        z = product(q, tl.trans(k_tile))
        if MIXED:  # (else the rows lie behind V)
            z = causal(z, key, at, position, first, BLOCK_N)
        if LAW == CONSERVING:
            if wide:
                t = z + tl.where(on_v, 0.0, float("-inf"))[None, :]
                p, shrink, m_base, base = online_sum_update(t, m_base, base, scale2)
                if FOCUS:
                    r_base = online_region_update(p, region[None, :], r_base, shrink)
            t = z + tl.where(on_v, bias, float("-inf"))[None, :]
            v_tile = load_rows(v, key, at, columns, v_stride, length, HEAD, q.shape[1])
            p, shrink, m, total, acc = online_softmax_update(t, v_tile, m, total, acc, scale2)
            if FOCUS:
                r_sum = online_region_update(p, region[None, :], r_sum, shrink)
            if not wide:
                m_base, base = m, tl.fma(base, shrink, tl.sum(p * undo, 1))
                if FOCUS:
                    r_base = online_region_update(p * undo, region[None, :], r_base, shrink)
        else:
            count = tl.where(region, 1, tl.where(on_v, BLOCK_N * 2, 0))  # of R, of B and of the gaps, in one sum
            if MIXED:
                count = tl.where(between, BLOCK_N * BLOCK_N * 4, count)
            both = tl.sum(count, 0)
            if MIXED:
                gap_count += both // (BLOCK_N * BLOCK_N * 4)
                both = both % (BLOCK_N * BLOCK_N * 4)
            v_tile = load_rows(v, key, at, columns, v_stride, length, HEAD, q.shape[1])
            if both >= BLOCK_N * 2:
                t = z + tl.where(on_v & (weight <= 0), bias, float("-inf"))[None, :]
                p, shrink, m, total, acc = online_softmax_update(t, v_tile, m, total, acc, scale2)
                if FOCUS or LAW == SHARE:
                    base = tl.fma(base, shrink, tl.sum(p * undo, 1))
            if both % (BLOCK_N * 2) != 0:
                t = z + tl.where(region, bias, float("-inf"))[None, :]
                p, shrink, m_r, total_r, acc_r = online_softmax_update(t, v_tile, m_r, total_r, acc_r, scale2)
                if FOCUS or LAW == SHARE:
                    r_base = tl.fma(r_base, shrink, tl.sum(p * undo, 1))
    if LAW == CONSERVING:
        gap_count = tl.sum(gap_count, 0)
    return m, total, acc, m_r, total_r, acc_r, m_base, base, r_base, r_sum, gap_count


@triton.jit
def _top(m, total):
    """The logarithm (base 2) of a group's sum; m for an empty group."""
    return m + tl.log2(tl.where(total > 0, total, 1.0))


@triton.jit
def _conserve(m, total, acc, m_base, base, r_base, r_sum):
    """V at its sum without the bias: (m, total, acc), and of total what R had, and has."""
    top = _top(m_base, base)
    unit = tl.exp2(m_base - top)
    whole = base * unit
    share = rescale(whole, total)
    return top, whole, acc * share[:, None], r_base * unit, r_sum * share


@triton.jit
def _give_share(m, total, acc, m_r, total_r, acc_r, base, r_base, setpoint):
    """B and R together at V's sum without the bias, R at its share of it or at setpoint: what `_conserve` gives, and
    whether it is R's own share."""
    top = tl.maximum(_top(m, base), _top(m_r, r_base))
    r_base = r_base * tl.exp2(m_r - top)
    whole = r_base + base * tl.exp2(m - top)
    common = tl.maximum(m, m_r)
    back, share = total * tl.exp2(m - common), total_r * tl.exp2(m_r - common)
    both = back + share
    enough = setpoint <= rescale(share, both)  # false for NaN, which so comes out
    r_sum = whole * tl.where(enough, rescale(share, both), setpoint)
    rest = whole * tl.where(enough, rescale(back, both), 1.0 - setpoint)
    acc = acc * rescale(rest, total)[:, None] + acc_r * rescale(r_sum, total_r)[:, None]
    return top, whole, acc, r_base, r_sum, enough


@triton.jit
def _add_text(
    q, k, v, visual, key, at, columns, position, first, k_stride, v_stride, length, start, n, m, total, acc, had, has,
    scale2, LAW: tl.constexpr, FOCUS: tl.constexpr, HEAD: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The text keys of one tile join the group (m, total, acc). had, has: sums in its units; under target, had is
    the group's sum without the bias."""
    k_tile = load_rows(k, key, at, columns, k_stride, length, HEAD, q.shape[1])
    z = product(q, tl.trans(k_tile))
    if (key + BLOCK_N > first + 1) | ((key + BLOCK_N > start) & (key < start + n)):
        text = load_field(visual, key, at, start, n) == 0
        z = tl.where(text[None, :] & ((key + at)[None, :] <= position[:, None]), z, float("-inf"))
    v_tile = load_rows(v, key, at, columns, v_stride, length, HEAD, q.shape[1])
    p, shrink, m, total, acc = online_softmax_update(z, v_tile, m, total, acc, scale2)
    if FOCUS:
        had, has = had * shrink, has * shrink
        if LAW == TARGET:
            had += tl.sum(p, 1)
    return m, total, acc, had, has


@triton.jit
def visual_first(
    q, k, v, weights, visual, at, columns, position, first, tiles, k_stride, v_stride, length, start, n, gain, wide,
    setpoint, scale2, LAW: tl.constexpr, FOCUS: tl.constexpr, MIXED: tl.constexpr, HEAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """V, then the law, then the text: conserving, share and target. Rows that see nothing to steer get anything.

    gain: of one unit of weight, for all rows. wide: whether the biases of V may lie more than 64 apart. Gives out
    [M, D] and the focus before and after [M], float32; and of share whether it raises nothing [M].
    """
    m, total, acc, m_r, total_r, acc_r, m_base, base, r_base, r_sum, gap_count = _sum_visual(
        q, k, v, weights, visual, at, columns, position, first, tiles, k_stride, v_stride, length, start, n, gain,
        wide, scale2, LAW, FOCUS, MIXED, HEAD, BLOCK_N,
    )  # fmt: skip
    had, has = base, r_sum
    kept = total < 0
    if LAW == CONSERVING:
        m, total, acc, had, has = _conserve(m, total, acc, m_base, base, r_base, r_sum)
    elif LAW == SHARE:
        m, total, acc, had, has, kept = _give_share(m, total, acc, m_r, total_r, acc_r, base, r_base, setpoint)
    else:
        acc_r = acc_r * rescale(setpoint, total_r)[:, None]

    before_v = tl.cdiv(start, BLOCK_N)  # tiles [0, before_v) hold the text before V, [behind_v, tiles) that behind it
    behind_v = tl.maximum(before_v, tl.minimum((start + n) // BLOCK_N, tiles - 1))
    tl.assume(before_v + tiles - behind_v > 0)
    for index in range(0, before_v + tiles - behind_v):
        key = (index + tl.where(index < before_v, 0, behind_v - before_v)) * BLOCK_N
        m, total, acc, had, has = _add_text(
            q, k, v, visual, key, at, columns, position, first, k_stride, v_stride, length, start, n, m, total, acc,
            had, has, scale2, LAW, FOCUS, HEAD, BLOCK_N,
        )  # fmt: skip
    if MIXED:  # noqa: SIM102
        if gap_count > 0:
            for tile in range(before_v, behind_v):
                key = tile * BLOCK_N
                if tl.min(load_field(visual, key, at, start, n), 0) == 0:
                    m, total, acc, had, has = _add_text(
                        q, k, v, visual, key, at, columns, position, first, k_stride, v_stride, length, start, n, m,
                        total, acc, had, has, scale2, LAW, FOCUS, HEAD, BLOCK_N,
                    )  # fmt: skip
    if LAW == TARGET:
        out = acc * rescale(1.0 - setpoint, total)[:, None] + acc_r
        top = tl.maximum(_top(m, had), _top(m_r, r_base))
        had, has = r_base * tl.exp2(m_r - top), had * tl.exp2(m - top)
        return out, rescale(had, had + has), tl.zeros_like(had) + setpoint, kept
    else:
        return acc * rescale(1.0, total)[:, None], rescale(had, total), rescale(has, total), kept
