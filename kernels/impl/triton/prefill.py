"""Prefill in Triton: causal attention of many rows, FlashAttention-2 style, in which text rows are steered.

A program takes BLOCK_M rows of one query head. Rows that no law holds for (those of V, those before the first
frame, those gated off) take their keys in order, at the cost and to the bits of law none. So does additive: its
bias is one fused multiply-add, on tiles that hold V, in blocks that hold a row to steer. The other laws need sums
over all of V before V can join the rest, so the rows that they hold for take V first; then the law is what its
groups weigh, and the text joins. That way conserving needs one accumulator and share and target two, and nothing
is computed twice. A block that holds rows of both kinds does both: blocks begin anew behind the last span, so
that only a row gate, or text between two frames, makes such blocks.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...fields import KeyField
from .common import ADDITIVE, CONSERVING, GAIN_KINDS, LAW_CODES, LOG2E, NONE, has_effect, head_gain, row_gain
from .prefill_passes import in_order, load_rows, visual_first

WIDEST = tl.constexpr(64.0)  # how far apart biases may lie for one maximum to hold them all in float32


class TileConfig(NamedTuple):
    """How rows are cut: rows of a program, keys of a tile, warps of a program, tiles of K and V in flight."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def config(head_size: int, law: str, arch: int, *, item_bytes: int = 2) -> tuple[TileConfig, TileConfig]:
    """The configurations for a head size, a law and a card (arch 90 is sm_90): of rows whose keys are taken in order,
    and of those that take V first. The law does not change the first, so that a row that is not steered is the same,
    to the bit, under every law. They share a launch unless they differ in more than the keys of a tile.

    item_bytes: of q, k and v; 4 is there for checking, not for speed.
    """
    if item_bytes == 4:
        return TileConfig(32, 32, 8, 1), TileConfig(32, 32, 8, 1)
    if arch in (80, 90, 100, 103):  # 164 KB of shared memory and more
        return TileConfig(128, 64, 8, 3), TileConfig(128, 32, 8, 3)
    in_order = TileConfig(128, 64 if head_size > 64 else 32, 8, 2)  # 99 KB; the scores' operands take registers too
    if law in ("share", "target") and head_size > 64:  # two groups of 128 × 128 would not fit the registers
        return in_order, TileConfig(64, 32, 8, 2)
    return in_order, TileConfig(128, 32, 8, 2)


@triton.jit(do_not_specialize=["rows_total", "rows_first", "blocks_first", "length", "q_start", "start", "n"])
def _prefill_kernel(
    q, k, v, out, focus, weights, visual, weight_extrema, gains, alpha, setpoint, gate,
    q_batch, q_head, q_row, k_batch, k_head, k_key, v_batch, v_head, v_key,
    q_heads, group, rows_total, rows_first, blocks_first, length, q_start, start, n, scale, bias_unit,
    LAW: tl.constexpr, FOCUS: tl.constexpr, HAS_GAPS: tl.constexpr, GATED: tl.constexpr, BATCHED: tl.constexpr,
    GAIN_KIND: tl.constexpr, WGMMA: tl.constexpr, IN_ORDER: tl.constexpr, V_FIRST: tl.constexpr, KEEPS: tl.constexpr,
    HEAD: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Grid [B · Hq, blocks of rows]. Blocks cut rows [0, rows_first) and then [rows_first, rows_total); the last,
    which see the most keys, go first. HAS_GAPS, GATED: a block may hold rows of both kinds. WGMMA: whether a thread
    holds scores of two rows, and not of four or more. IN_ORDER, V_FIRST: which kind of rows this launch does.
    KEEPS, of share: out holds law none's rows, and those that the law does not change stay."""
    MIXED: tl.constexpr = HAS_GAPS or GATED
    head = tl.program_id(0) % q_heads
    batch = tl.program_id(0) // q_heads
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    row = block * BLOCK_M
    stop = rows_first
    if block >= blocks_first:
        row = rows_first + (block - blocks_first) * BLOCK_M
        stop = rows_total
    count = tl.minimum(stop - row, BLOCK_M)
    first = q_start + row
    last = first + count - 1
    at_m, at_n, columns = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    here = at_m < count
    position = first + tl.minimum(at_m, count - 1)
    tiles = (last.to(tl.uint32) // BLOCK_N).to(tl.int32) + 1
    scale2 = scale * LOG2E

    q += batch.to(tl.int64) * q_batch + head.to(tl.int64) * q_head
    k += batch.to(tl.int64) * k_batch + (head // group).to(tl.int64) * k_head
    v += batch.to(tl.int64) * v_batch + (head // group).to(tl.int64) * v_head
    if BATCHED:
        weights += batch * n
        visual += batch * n
        weight_extrema += batch * n * 2
        if LAW == ADDITIVE and HAS_GAPS and GATED:
            gate += batch * rows_total
    out_rows = (batch * q_heads + head).to(tl.int64) * rows_total + row
    out += out_rows * HEAD
    focus += out_rows * 2
    q_tile = load_rows(q, row, at_m, columns, q_row, stop, HEAD, BLOCK_D)

    # Which of the rows the law holds for. (Under additive that may be more: weights of 0 change nothing.)
    active = here & (last < 0)
    steered, gain, setpoint_value, has_bias = 0, 0.0, 0.0, False
    if LAW != NONE:
        setpoint_value = tl.load(setpoint)
        on = head_gain(gains, head, head >= 0, GAIN_KIND)
        gain = row_gain(tl.load(alpha), on, bias_unit)
        if LAW == CONSERVING:
            on = gain
        if LAW == ADDITIVE:
            gain_rows = tl.zeros([BLOCK_M], tl.float32) + gain
            if MIXED:
                at_row = at_m if WGMMA else at_m[None, :]
                if GATED:  # with gaps too: `_off_visual`
                    may = tl.load(gate + row + at_row, mask=at_row < count, other=0) != 0
                else:
                    key = first - start
                    inside = (key + at_row).to(tl.uint32) < n.to(tl.uint32)
                    may = tl.load(visual + key + at_row, mask=inside, other=0) == 0
                gain_rows = tl.where(may, gain, 0.0)
                if not WGMMA:  # summed over nothing, so that it is loaded once, as in load_weights
                    gain_rows = tl.sum(gain_rows, 0)
            has_bias = gain != 0.0  # with gaps in every block: to look for text rows first costs more than it spares
            if not HAS_GAPS:
                has_bias = has_bias & (first >= start + n)
        elif MIXED:
            at_row = at_m[None, :]
            index = first - start + at_row
            may = (at_row < count) & (index >= 0)
            text = tl.load(visual + index, mask=may & (index < n), other=0) == 0
            index = tl.minimum(index, n - 1)
            low = tl.load(weight_extrema + index * 2, mask=may, other=0)
            high = tl.load(weight_extrema + index * 2 + 1, mask=may, other=0)
            may = may & text & has_effect(low, high, LAW)
            if GATED:
                may = may & (tl.load(gate + row + at_row, mask=at_row < count, other=0) != 0)
            # Summed over nothing, as in load_weights, so that it is found once and not for each layout.
            active = tl.sum(may.to(tl.int32), 0) != 0
            steered = tl.where(on == 0.0, 0, tl.sum(active.to(tl.int32), 0))
            gain_rows = tl.where(active, gain, 0.0)
        else:  # a block of rows lies before the one span's end, or behind it
            steered = tl.where((first >= start + n) & (on != 0.0), count, 0)
            low, high = tl.load(weight_extrema + n * 2 - 2), tl.load(weight_extrema + n * 2 - 1)
            steered = tl.where(has_effect(low, high, LAW), steered, 0)
            gain_rows = tl.zeros([BLOCK_M], tl.float32) + gain
            active = here
        active = active & (at_m < tl.where(steered > 0, BLOCK_M, 0))
    else:
        gain_rows = tl.zeros([BLOCK_M], tl.float32)

    if (LAW == NONE) | (LAW == ADDITIVE):
        o, before, after = in_order(
            q_tile, k, v, weights, at_n, columns, position, first, tiles, k_key, v_key, length, start, n,
            gain_rows, has_bias, scale2, LAW, FOCUS, WGMMA, HEAD, BLOCK_N,
        )  # fmt: skip
        _store(out, focus, o, before, after, at_m, columns, here, here, FOCUS, HEAD, BLOCK_D)
    else:
        if IN_ORDER:  # noqa: SIM102 (decided by the compiler, and on the card)
            if steered < count:
                o, before, after = in_order(
                    q_tile, k, v, weights, at_n, columns, position, first, tiles, k_key, v_key, length, start, n,
                    gain_rows, False, scale2, NONE, FOCUS, WGMMA, HEAD, BLOCK_N,
                )  # fmt: skip
                rest = here & ~active
                _store(out, focus, o, before, after, at_m, columns, rest, rest, FOCUS, HEAD, BLOCK_D)
        if V_FIRST:  # noqa: SIM102
            if steered > 0:
                wide = tl.abs(gain) * scale * 254.0 > WIDEST
                tiles = (last.to(tl.uint32) // BLOCK_V).to(tl.int32) + 1
                o, before, after, kept = visual_first(
                    q_tile, k, v, weights, visual, tl.arange(0, BLOCK_V), columns, position, first, tiles, k_key,
                    v_key, length, start, n, gain, wide, setpoint_value, scale2, LAW, FOCUS, MIXED, HEAD, BLOCK_V,
                )  # fmt: skip
                changed = active
                if KEEPS:
                    changed = active & ~(kept & (at_m < tl.where(tl.load(alpha) == 0, BLOCK_M, 0)))
                _store(out, focus, o, before, after, at_m, columns, changed, active, FOCUS, HEAD, BLOCK_D)


@triton.jit
def _store(
    out, focus, o, before, after, at, columns, rows, measured, FOCUS: tl.constexpr, HEAD: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Write the finished rows of a block, and the focus of those that are `measured`."""
    here = rows[:, None]
    if BLOCK_D > HEAD:
        here = here & (columns < HEAD)[None, :]
    tl.store(out + at[:, None] * HEAD + columns[None, :], o.to(out.dtype.element_ty), mask=here)
    if FOCUS:
        tl.store(focus + at * 2, before, mask=measured)
        tl.store(focus + at * 2 + 1, after, mask=measured)


def _off_visual(rows: Tensor, field: KeyField, q_start: int) -> Tensor:
    """The row gate with V's rows closed: bool [S], or [B, S] where each sequence has a field. So the additive kernel
    looks a row up in one table, not in two. Where no row lies between V's first key and its last, nothing is done."""
    gate = rows.expand(*field.visual.shape[:-1], -1)
    first, end = max(field.start, q_start), min(field.end, q_start + rows.shape[0])
    if first < end:
        gate = gate.clone(memory_format=torch.contiguous_format)
        gate[..., first - q_start : end - q_start] &= ~field.visual[..., first - field.start : end - field.start]
    return gate.contiguous()


@cache
def _arch(index: int) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    field: KeyField | None,
    law: str,
    alpha: Tensor,
    setpoint: Tensor,
    *,
    rows: Tensor | None,
    scale: float,
    q_start: int,
    length: int,
    focus: bool,
    arch: int | None = None,
    cut: tuple[TileConfig, TileConfig] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Steered causal attention of rows [q_start, q_start + S), each of which sees the keys up to its own position.

    Called by api.py, which has checked the arguments.

    Args:
        q: [B, Hq, S, D], any strides; D one of 64, 80, 96, 128. k, v: [B, Hk, K, D] with a last stride of 1.
        field: the weights by key position, or None. law: a name of LAW_CODES.
        alpha, setpoint: float32 [1] on the device.
        rows: bool [S], which rows the law may hold for, or None for all.
        scale: of the scores, above 0.
        length: how many keys are real; at least q_start + S. What lies beyond is not read.
        focus: whether to give the focus.
        arch: the card to choose the configuration for; None is q's own. cut: configurations in their place.

    Returns:
        out [B, Hq, S, D] of q's dtype, contiguous; focus float32 [B, Hq, S, 2] (before, after), or None.
    """
    if not scale > 0:
        raise ValueError(f"scale: {scale}; accepted by the Triton kernels is a number above 0")
    batch, q_heads, n_rows, head_size = q.shape
    if arch is None:
        arch = _arch(q.get_device()) if q.is_cuda else 90
    in_order, v_first = cut or config(head_size, law, arch, item_bytes=q.element_size())
    if q.stride(3) != 1:
        q = q.contiguous()
    keeps = law == "share" and field is not None and q.dtype == torch.float32
    if keeps:  # what the law does not change: summed in another order, V first, float32 would show it
        plain = dict(rows=None, scale=scale, q_start=q_start, length=length, focus=False, arch=arch, cut=cut)
        out, _ = prefill(q, k, v, None, "none", alpha, setpoint, **plain)
    else:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    masses = torch.zeros(batch, q_heads, n_rows, 2, dtype=torch.float32, device=q.device) if focus else None
    start, n, rows_first, batched, has_gaps, gain_kind = 0, 0, n_rows, False, False, "one"
    weights = visual = weight_extrema = gains = gate = q  # not read where there is no field, table or gate
    if field is None:
        law, focus, rows = "none", False, None
    else:
        weights, visual, weight_extrema = field.weights, field.visual.view(torch.int8), field.weight_extrema
        start, n, batched = field.start, weights.shape[-1], weights.ndim == 2
        has_gaps = field.has_gaps
        rows_first = min(max(field.end - q_start, 0), n_rows)
        gains, gain_kind = field.gain_table(arch)
    if rows is not None:
        gate = (_off_visual(rows, field, q_start) if law == "additive" and has_gaps else rows).view(torch.int8)
    one_launch = law in ("none", "additive") or in_order == v_first._replace(block_n=in_order.block_n)
    # Unasked, ptxas aims at fewer registers for this one, and pays for them in instructions.
    registers = {"maxnreg": 216} if law == "additive" and head_size == 64 else {}
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        for cut in (in_order,) if one_launch else (in_order, v_first):
            blocks_first = triton.cdiv(rows_first, cut.block_m)
            blocks = blocks_first + triton.cdiv(n_rows - rows_first, cut.block_m)
            _prefill_kernel[(batch * q_heads, blocks)](
                q, k, v, out, out if masses is None else masses, weights, visual, weight_extrema, gains, alpha,
                setpoint, gate, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
                q_heads, q_heads // k.shape[1], n_rows, rows_first, blocks_first, length, q_start, start, n,
                scale, 1.0 / (127.0 * scale),
                LAW=LAW_CODES[law], FOCUS=focus, HAS_GAPS=has_gaps, GATED=rows is not None, BATCHED=batched,
                GAIN_KIND=GAIN_KINDS[gain_kind], WGMMA=arch in (90, 100, 103), IN_ORDER=cut is in_order,
                V_FIRST=one_launch or cut is v_first, KEEPS=keeps, HEAD=head_size,
                BLOCK_D=triton.next_power_of_2(head_size), BLOCK_M=cut.block_m, BLOCK_N=cut.block_n,
                BLOCK_V=v_first.block_n, num_warps=cut.num_warps, num_stages=cut.num_stages, enable_fp_fusion=False,
                **registers,
            )  # fmt: skip
    return out, masses
