"""The field as attention reads it: per-key INT8 weights, which keys are visual, and the gains of the heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class KeyField:
    """One layer's steering field over the key positions [start, start + n). All tensors on one device.

    Made by `make_key_field`, which checks it; kernels/update.py writes new weights into one in place.

    weights: int8 [n] or [B, n], −127…127 for −1…1; 0 off V.
    visual: bool, same shape, which of these keys are in V (False in the gaps between frames). The first and the
        last key are.
    weight_extrema: int8 [n, 2] or [B, n, 2], the smallest and largest weight over V up to and with that key; gaps
        carry them on. A row at position p has what it sees at index min(p, end − 1) − start; none below 0.
    gains: float32 or float8_e4m3fn [Hq], or None for 1 everywhere. They multiply alpha; a head with gain 0 is off.
    start: the first key's position.
    has_gaps: whether any of the keys is not in V. True is always right; False spares kernels the search.
    """

    weights: Tensor
    visual: Tensor
    weight_extrema: Tensor
    gains: Tensor | None
    start: int
    has_gaps: bool = True

    @property
    def end(self) -> int:
        """One past the last key position that the field covers."""
        return self.start + self.weights.shape[-1]

    @property
    def memory_bytes(self) -> int:
        """Bytes of device memory that the field takes."""
        tensors = (self.weights, self.visual, self.weight_extrema, self.gains)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)

    def gain_table(self, arch: int) -> tuple[Tensor, str]:
        """The gains as the kernels read them on a card (arch 90 is sm_90), and their kind (GAIN_KINDS of
        impl/triton/common.py). Without gains the weights stand in, which are not read."""
        if self.gains is None:
            return self.weights, "one"
        if self.gains.dtype != torch.float8_e4m3fn:
            return self.gains, "fp32"
        return self.gains.view(torch.uint8), "fp8" if arch >= 89 else "fp8_bits"  # in hardware from sm_89 on

    def contiguous(self) -> KeyField:
        """The field with tables as the Triton kernels read them; itself where they are so."""
        tables = {name: getattr(self, name) for name in ("weights", "visual", "weight_extrema", "gains")}
        if all(table is None or table.is_contiguous() for table in tables.values()):
            return self
        return replace(self, **{name: None if t is None else t.contiguous() for name, t in tables.items()})

    def truncated(self, length: int) -> KeyField | None:
        """The field of a context of `length` keys, a view of this one; None if it has no key of V yet."""
        n = min(length, self.end) - self.start
        if n <= 0:
            return None
        if n == self.weights.shape[-1]:
            return self
        return replace(
            self,
            weights=self.weights[..., :n],
            visual=self.visual[..., :n],
            weight_extrema=self.weight_extrema[..., :n, :],
        )


def make_key_field(
    weights: Tensor | np.ndarray,
    spans: Sequence[tuple[int, int]],
    *,
    gains: Tensor | np.ndarray | Sequence[float] | None = None,
    device: torch.device | str | None = None,
) -> KeyField:
    """A field from weights by key position.

    Args:
        weights: int8 [K] or [B, K], −127…127 for −1…1; 0 outside the spans.
        spans: (start, length) of each frame's (or region's words') keys, in any order; they must not overlap.
        gains: [Hq] finite floats, or None for 1 everywhere. A float8_e4m3fn tensor is kept as it is, others
            become float32.
        device: where the field lives; None is the weights' own (the CPU for an array).

    The weights are checked on the CPU: on a GPU this waits for the device. Raises ValueError naming the
    argument, its value and what is accepted.
    """
    if not isinstance(weights, (Tensor, np.ndarray)):
        raise ValueError(f"weights: {type(weights).__name__}; accepted is an int8 tensor or array, [K] or [B, K]")
    if device is None:
        device = weights.device if isinstance(weights, Tensor) else "cpu"
    dense = weights.detach().cpu().numpy() if isinstance(weights, Tensor) else weights
    if dense.dtype != np.int8 or dense.ndim not in (1, 2) or 0 in dense.shape:
        raise ValueError(f"weights: {dense.dtype} {list(dense.shape)}; accepted is int8, [K] or [B, K], not empty")
    if (dense == -128).any():
        raise ValueError("weights: -128; accepted are -127 to 127")
    visual = _visual(spans, dense.shape[-1])
    if dense[..., ~visual].any():
        key = int((~visual & (dense != 0).reshape(-1, dense.shape[-1]).any(0)).nonzero()[0][0])
        raise ValueError(f"weights: not 0 at key {key}, outside every span; accepted there is 0")
    start = min(first for first, _ in spans)
    end = max(first + length for first, length in spans)
    inside = np.ascontiguousarray(dense[..., start:end])
    mask = np.ascontiguousarray(np.broadcast_to(visual[start:end], inside.shape))
    # Carried through the gaps: the first key is in V, so the extremes that stand in for a gap never win.
    low = np.minimum.accumulate(np.where(mask, inside, np.int8(127)), axis=-1)
    high = np.maximum.accumulate(np.where(mask, inside, np.int8(-127)), axis=-1)
    weight_extrema = np.stack([low, high], axis=-1)
    return KeyField(
        weights=torch.tensor(inside, device=device),
        visual=torch.tensor(mask, device=device),
        weight_extrema=torch.tensor(weight_extrema, device=device),
        gains=_gains(gains, device),
        start=start,
        has_gaps=not bool(visual[start:end].all()),
    )


def _visual(spans: Sequence[tuple[int, int]], keys: int) -> np.ndarray:
    """Which of the keys are in V: bool [keys]."""
    if len(spans) == 0:
        raise ValueError("spans: none; accepted is at least one (start, length)")
    visual = np.zeros(keys, dtype=bool)
    for span in spans:
        try:
            first, length = (index(number) for number in span)
        except (TypeError, ValueError):
            raise ValueError(f"spans: {span!r}; accepted is (start, length), whole numbers") from None
        if first < 0 or length < 1 or first + length > keys:
            raise ValueError(f"spans: ({first}, {length}); accepted are at least one key, within 0 to {keys}")
        if visual[first : first + length].any():
            raise ValueError(f"spans: ({first}, {length}) overlaps another; accepted are spans that do not")
        visual[first : first + length] = True
    return visual


def _gains(gains: Tensor | np.ndarray | Sequence[float] | None, device: torch.device | str) -> Tensor | None:
    if gains is None:
        return None
    table = gains if isinstance(gains, Tensor) else torch.as_tensor(gains, dtype=torch.float32)
    if table.dtype != torch.float8_e4m3fn:
        table = table.to(torch.float32)
    if table.ndim != 1 or table.numel() == 0 or not bool(torch.isfinite(table.float()).all()):
        raise ValueError(f"gains: shape {list(table.shape)}; accepted are finite numbers, one for each query head")
    return table.detach().to(device)
