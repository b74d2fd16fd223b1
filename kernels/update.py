"""New weights for a field, in place: several regions, of one frame or more, merged into one INT8 vector.

Written on the current stream, so that a captured graph of the decoder, which reads the field's buffers, steers by
the new weights from the next token on. The merge rule is regions.union's, after each region's
signed strength.
"""

from __future__ import annotations

import contextlib
import importlib.util

import torch
from torch import Tensor

from .fields import KeyField

IMPLS = ("auto", "torch", "triton")
BLOCK = 1024


def update_field(
    field: KeyField, parts: Tensor, strengths: Tensor | None = None, *, impl: str = "auto", arch: int | None = None
) -> None:
    """Write the union of `parts` into field.weights, and what follows from it into field.weight_extrema.

    A key's weight is the largest positive part plus the most negative one: where signs agree the larger magnitude
    wins, where they conflict they cancel. Before that a part is multiplied by its signed strength (in float32),
    rounded half to even and held within ±127. Keys off V get 0.

    Args:
        field: its weights and weight_extrema are overwritten; visual stays. Contiguous tensors, as make_key_field
            gives.
        parts: int8 [regions, n], or [B, regions, n] for a field of [B, n], by the field's key positions; no region
            is weights of 0.
        strengths: the regions' signed strengths, float32 [regions] (or [B, regions]) on the field's device; None is 1
            for each.
        impl: "torch", "triton", or "auto": Triton on CUDA where it is installed.
        arch: for inspection; this kernel is the same on all.

    On the CPU −128 and strengths that are not finite raise; on CUDA, where reading them would wait for the device,
    they count as −127 and, NaN, as 0. Raises ValueError naming the argument, RuntimeError if Triton is named and
    is not there.
    """
    parts, strengths = _checked(field, parts, strengths)
    if impl not in IMPLS:
        raise ValueError(f"impl: {impl!r}; accepted are {', '.join(IMPLS)}")
    there = importlib.util.find_spec("triton") is not None
    if impl == "triton" and not there:
        raise RuntimeError("impl: triton is not installed; accepted are auto, torch")
    if impl == "triton" or (impl == "auto" and there and parts.is_cuda):
        _by_triton(field, parts, strengths)
    else:
        _by_torch(field, parts, strengths)


def _by_torch(field: KeyField, parts: Tensor, strengths: Tensor | None) -> None:
    scaled = parts.float()
    if strengths is not None:
        scaled = (scaled * strengths.unsqueeze(-1)).nan_to_num(0.0, 127.0, -127.0)
    scaled = scaled.clamp(-127, 127).round()
    if parts.shape[-2] == 0:
        merged = torch.zeros_like(field.weights)
    else:
        merged = (scaled.amax(-2).clamp_min(0) + scaled.amin(-2).clamp_max(0)).to(torch.int8)
    merged = torch.where(field.visual, merged, torch.zeros_like(merged))
    low = torch.where(field.visual, merged, torch.full_like(merged, 127)).cummin(-1).values
    high = torch.where(field.visual, merged, torch.full_like(merged, -127)).cummax(-1).values
    field.weights.copy_(merged)
    field.weight_extrema.copy_(torch.stack([low, high], dim=-1))


def _by_triton(field: KeyField, parts: Tensor, strengths: Tensor | None) -> None:
    from .impl.triton.field_update import update_kernel

    batch, n = (parts.shape[0] if parts.ndim == 3 else 1), parts.shape[-1]
    with torch.cuda.device(parts.device) if parts.is_cuda else contextlib.nullcontext():
        update_kernel[(batch,)](
            parts,
            parts if strengths is None else strengths,
            field.visual.view(torch.uint8),
            field.weights,
            field.weight_extrema,
            n,
            parts.shape[-2],
            parts.stride(0) if parts.ndim == 3 else 0,
            parts.stride(-2),
            strengths.stride(0) if strengths is not None and strengths.ndim == 2 else 0,
            BLOCK=BLOCK,
            HAS_STRENGTHS=strengths is not None,
            num_warps=4,
            enable_fp_fusion=False,  # w · strength is rounded before it is made whole
        )


def _checked(field: KeyField, parts: Tensor, strengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The arguments, contiguous in the last dimension."""
    shape = tuple(field.weights.shape)
    lead, n = shape[:-1], shape[-1]
    device = field.weights.device
    if not (field.weights.is_contiguous() and field.visual.is_contiguous() and field.weight_extrema.is_contiguous()):
        raise ValueError("field: not contiguous; accepted is one as make_key_field gives it")
    if parts.dtype != torch.int8 or parts.ndim != len(lead) + 2 or (*parts.shape[:-2], parts.shape[-1]) != shape:
        want = ", ".join([*map(str, lead), "regions", str(n)])
        raise ValueError(f"parts: {parts.dtype} {list(parts.shape)}; accepted is int8, [{want}]")
    if parts.device != device:
        raise ValueError(f"parts: on {parts.device}; accepted is the field's device, {device}")
    if not parts.is_cuda and bool((parts == -128).any()):
        raise ValueError("parts: -128; accepted are -127 to 127")
    if strengths is not None:
        wanted = ((parts.shape[-2],), tuple(parts.shape[:-1]))
        if strengths.dtype != torch.float32 or tuple(strengths.shape) not in wanted:
            raise ValueError(
                f"strengths: {strengths.dtype} {list(strengths.shape)}; accepted is float32, [{parts.shape[-2]}]"
            )
        if strengths.device != device:
            raise ValueError(f"strengths: on {strengths.device}; accepted is the field's device, {device}")
        if not strengths.is_cuda and not bool(torch.isfinite(strengths).all()):
            raise ValueError("strengths: not finite; accepted are finite numbers")
        strengths = strengths.contiguous()
    return parts if parts.stride(-1) == 1 else parts.contiguous(), strengths
