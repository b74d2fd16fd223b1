"""Steered attention of one row a sequence (decoding) in Triton: split-KV, any group of query heads, any law."""

from __future__ import annotations

import contextlib
import functools

import torch
from torch import Tensor

from ...fields import KeyField
from .common import GAIN_KINDS, LAW_CODES, WEIGHT_ONE
from .decode_merge import MAX_SPLITS, NUM_GROUPS, NUM_SUMS, merge_kernel
from .decode_split import decode_kernel

HEAD_SIZES = (64, 80, 96, 128)
MAX_GROUP = 16
_ROWS = 8  # query heads of one program; a larger group is cut up
_E4M3_UNIT = 256.0  # common.e4m3_over_256


def config(kind: str, head_size: int, law: str, arch: int, *, item_size: int = 2) -> dict[str, int]:
    """Tile and launch sizes of a kernel of this file. kind: "decode" | "merge"; arch: 90, 120, …; item_size: bytes
    of q's dtype.

    The law plays no part in the tiles, on purpose: steered and unsteered rows go through the same ones, so a row that
    the law does not hold for comes out bit for bit the same. Two tiles of 64 keys are under way while one is worked
    on: 64 KiB for head size 128, within an sm_120 block's 99 KiB.
    """
    if kind == "merge":
        return {"BLOCK_V": 32, "CHUNK": 64, "num_warps": 4, "num_stages": 1}
    sizes = {"BLOCK_M": 2 * _ROWS, "BLOCK_N": 64 if item_size <= 2 else 16, "num_warps": 4, "num_stages": 3}
    if item_size > 2:  # float32 is there for checking, not for speed; more keys, or fewer warps, spill
        sizes["num_warps"] = 8
    # Unasked, ptxas aims at as few registers as let one more program in, and spills (168 on sm_90, 80 on sm_120), or
    # pays for them in instructions. With 168, registers admit three programs, as shared memory does at head size 128.
    if LAW_CODES[law] >= LAW_CODES["conserving"]:
        sizes["maxnreg"] = 224
    elif head_size > 64:
        sizes["maxnreg"] = 168
    return sizes


def split_count(capacity: int, streams: int, processors: int, block_n: int) -> int:
    """How many splits the keys are cut into, by the cache's capacity: the valid length may be the device's secret.

    streams: programs that a split makes, batch · key heads · parts of a group. Enough programs for one on each
    multiprocessor, not more splits than tiles. What a split takes follows from the valid length, on the device, so a
    short context in a long cache spreads out too.
    """
    return max(1, min(-(-capacity // block_n), -(-processors // streams), MAX_SPLITS.value))


def workspace_bytes(batch: int, query_heads: int, head_size: int, splits: int, law: str) -> int:
    """Bytes of device memory that one call takes besides its inputs and out."""
    return 4 * batch * query_heads * splits * (NUM_GROUPS[law] * head_size + NUM_SUMS[law])


def decode(
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
    length: int | Tensor,
    focus: bool,
    kv_scales: tuple[float, float] | None = None,
    splits: int | None = None,
    arch: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attention of the last row of each sequence, at key position length − 1. Arguments are taken as checked.

    Args:
        q: [B, Hq, 1, D] float16, bfloat16 or float32, D of HEAD_SIZES, last stride 1.
        k, v: [B, Hk, K, D] and [B, Hk, K, Dv] of q's dtype, Hq / Hk ≤ MAX_GROUP, last stride 1; other strides are
            free, 0 too. With kv_scales float8_e4m3fn, without NaN.
        field: None is law "none", with a focus of 0.
        law: a key of common.LAW_CODES. alpha, setpoint: float32 [1] on q's device; NaN gives NaN.
        rows: bool [1] or None, whether the law may hold for the row.
        scale: finite and positive.
        length: how many keys are real, 1 to K; a tensor int32 or int64 [1] is read on the device (above K it
            counts as K; 0 gives zeros). What lies beyond is never used, be it NaN.
        focus: whether to measure it.
        kv_scales: what the values of an FP8 cache k, v are to be multiplied by.
        splits, arch: for tests and inspection; None chooses by K and the device.

    Returns out [B, Hq, 1, Dv] in q's dtype, and the mass of R before and after, float32 [B, Hq, 1, 2], or None.
    """
    batch, q_heads, _, head = q.shape
    k_heads, capacity, head_v = k.shape[1], k.shape[2], v.shape[3]
    group = q_heads // k_heads
    streams = batch * k_heads * -(-group // _ROWS)
    law = law if field is not None else "none"
    measure = focus and field is not None
    arch = _arch(q.device) if arch is None else arch
    sizes = config("decode", head, law, arch, item_size=q.element_size())
    merge_sizes = config("merge", head_v, law, arch)
    if splits is None:
        splits = split_count(capacity, streams, _processors(q.device), sizes["BLOCK_N"])
    made = {"dtype": torch.float32, "device": q.device}
    sums = torch.empty(NUM_SUMS[law], batch * q_heads, splits, **made)
    accs = torch.empty(NUM_GROUPS[law], batch * q_heads, splits, head_v, **made)
    keeps = law == "share" and q.dtype == torch.float32
    if keeps:  # what the law does not change: summed by groups, in another order, float32 would show it
        plain = dict(rows=None, scale=scale, length=length, focus=False, kv_scales=kv_scales, splits=splits, arch=arch)
        out, _ = decode(q, k, v, None, "none", alpha, setpoint, **plain)
    else:
        out = torch.empty(batch, q_heads, 1, head_v, dtype=q.dtype, device=q.device)
    masses = torch.zeros(batch, q_heads, 1, 2, **made) if focus else None
    on_device = isinstance(length, Tensor)
    k_unit, v_unit = 1.0, 1.0
    if kv_scales is not None:
        k, v = k.view(torch.uint8), v.view(torch.uint8)
        k_unit, v_unit = (_E4M3_UNIT * scale_ for scale_ in kv_scales)
    weights, visual, weight_extrema, gains, kind, start, end, stride = _unpack(field, q, arch)
    with torch.cuda.device(q.device) if q.is_cuda else contextlib.nullcontext():
        decode_kernel[(splits, streams)](
            q,
            k,
            v,
            weights,
            visual,
            weight_extrema,
            gains,
            weights if rows is None else rows.view(torch.uint8),
            alpha,
            length,
            accs,
            sums,
            q.stride(0),
            q.stride(1),
            *k.stride()[:3],
            *v.stride()[:3],
            capacity,
            start,
            end,
            stride,
            scale * k_unit,
            1.0 / (WEIGHT_ONE.value * scale * k_unit),
            k_heads,
            LAW=LAW_CODES[law],
            FOCUS=measure,
            GROUP=group,
            HEAD=head,
            HEAD_V=head_v,
            BLOCK_D=_padded(head),
            BLOCK_V=_padded(head_v),
            GAIN_KIND=kind,
            BATCHED=field is not None and field.weights.ndim == 2,
            HAS_ROWS=rows is not None,
            LENGTH_ON_DEVICE=on_device,
            FP8_CACHE=kv_scales is not None,
            enable_fp_fusion=False,
            **sizes,
        )
        merge_kernel[(batch * q_heads, -(-head_v // merge_sizes["BLOCK_V"]))](
            accs,
            sums,
            setpoint,
            alpha,
            length,
            out,
            masses if measure else sums,
            capacity,
            splits,
            v_unit,
            LAW=LAW_CODES[law],
            FOCUS=measure,
            HEAD_V=head_v,
            BLOCK_N=sizes["BLOCK_N"],
            LENGTH_ON_DEVICE=on_device,
            FP8_CACHE=kv_scales is not None,
            KEEPS=keeps,
            enable_fp_fusion=False,
            **merge_sizes,
        )
    return out, masses


def _unpack(field: KeyField | None, q: Tensor, arch: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int, int, int, int]:
    """The field as the kernel takes it; q stands in for tables that law none never reads."""
    if field is None:
        return q, q, q, q, GAIN_KINDS["one"], 0, 0, 0
    gains, kind = field.gain_table(arch)
    stride = field.weights.stride(0) if field.weights.ndim == 2 else 0
    visual = field.visual.view(torch.uint8)
    return field.weights, visual, field.weight_extrema, gains, GAIN_KINDS[kind], field.start, field.end, stride


def _padded(head_size: int) -> int:
    return 1 << (head_size - 1).bit_length()


@functools.lru_cache
def _arch(device: torch.device) -> int:
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@functools.lru_cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132
