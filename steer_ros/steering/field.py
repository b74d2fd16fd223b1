"""The steering field: the per-key weights that attention reads, and their atomic update during decoding."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .laws import SETPOINT_LAWS, Law

MAX_GAIN = 448.0  # the largest number of e4m3, in which gains are kept


@dataclass(frozen=True)
class Span:
    """The key positions [start, start + length) that one frame's tokens, or one region's words, take in the
    context."""

    start: int
    length: int

    def __post_init__(self) -> None:
        for name, value, least in (("span start", self.start, 0), ("span length", self.length, 1)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"{name}: {value!r}; accepted are whole numbers from {least}")
            object.__setattr__(self, name.split()[1], int(value))

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, eq=False)
class FieldSnapshot:
    """One version of the weights, never changed once made: all layers of one token read the same.

    weights: int8 [end − start] on the field's device, by key position from the first span's start to the last
        one's end; 0 in the gaps. visual: bool, same shape, which of these positions are in V.
    weight_extrema: int8 [end − start, 2], the smallest and largest weight over V up to and with each position.
    low, high: the smallest and largest weight over the first j + 1 spans, in order of position: a row between
        spans sees only the spans before it.
    """

    version: int
    weights: Tensor
    visual: Tensor
    weight_extrema: Tensor
    low: tuple[int, ...]
    high: tuple[int, ...]


class SteeringField:
    """Per-key INT8 weights over the visual spans of a context, and the gains of layers and heads.

    Args:
        spans: where V is; they must not overlap. Their order is the caller's, and `weights` follows it. No
            span at all is a field with nothing to steer with.
        weights: one int8 array (NumPy or torch, any shape with as many items as the span has keys) for each
            span; −127…127 for −1…1. For one span the bare array will do.
        gain: [layers, heads] floats within ±448 that multiply alpha, or None for 1 everywhere; 0 is a
            closed gate. Rounded here, once, to e4m3 (3 mantissa bits: 0.9 becomes 0.875, and below 2^-10 it is 0),
            which is what the GPU's kernels read, so that every implementation steers alike. Checked against the
            model when the field is used.
        device: where the weights live; the model's.

    `update` may be called from any thread while the model decodes. The new weights count from the next token
    on. Raises ValueError naming the argument, its value and what is accepted: while share or target steers with
    this field, that is weights of at least 0.
    """

    def __init__(
        self,
        spans: Sequence[Span],
        weights: Sequence[Tensor | np.ndarray] | Tensor | np.ndarray,
        gain: Tensor | np.ndarray | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.spans = tuple(s if isinstance(s, Span) else Span(*s) for s in spans)
        self.device = torch.device(device)
        self.ordered = tuple(sorted(self.spans, key=lambda s: s.start))  # by key position
        for left, right in zip(self.ordered, self.ordered[1:], strict=False):
            if left.end > right.start:
                raise ValueError(f"spans: {left} and {right} overlap; accepted are spans that do not")
        self.start = self.ordered[0].start if self.ordered else 0
        self.end = self.ordered[-1].end if self.ordered else 0
        self.has_gaps = sum(s.length for s in self.spans) < self.end - self.start
        self.gain = None if gain is None else _rounded(torch.as_tensor(gain, dtype=torch.float32).cpu())
        visual = np.zeros(self.end - self.start, dtype=bool)
        for span in self.spans:
            visual[span.start - self.start : span.end - self.start] = True
        self._visual_host = visual
        self._visual = torch.tensor(visual, device=self.device)
        self._lock = threading.Lock()  # orders concurrent updates; readers take the snapshot without it
        self._laws: Counter[str] = Counter()  # those in force that take no weight below 0
        self._snapshot = self._build(weights, version=0)

    @property
    def num_keys(self) -> int:
        """How many keys are in V."""
        return sum(s.length for s in self.spans)

    @property
    def version(self) -> int:
        """Counts the updates; 0 is the field as it was made."""
        return self._snapshot.version

    def snapshot(self) -> FieldSnapshot:
        """The newest weights, as one immutable object."""
        return self._snapshot

    def update(self, weights: Sequence[Tensor | np.ndarray] | Tensor | np.ndarray) -> int:
        """Set new weights, in the order of `spans` (see the class). Returns the new version.

        Atomic: a token being decoded goes on with the weights it began with, in all its layers.
        """
        with self._lock:
            self._snapshot = self._build(weights, self._snapshot.version + 1)
            return self._snapshot.version

    @contextmanager
    def used_by(self, law: Law) -> Iterator[None]:
        """While a law steers with this field, `update` refuses what the law can't take. So does entering."""
        name = law.name
        if name not in SETPOINT_LAWS:
            yield
            return
        with self._lock:
            low = min(self._snapshot.low, default=0)
            if low < 0:
                raise ValueError(f"weights: {low} with law {name}; accepted are 0 to 127")
            self._laws[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._laws[name] -= 1

    def dense(self, length: int) -> tuple[Tensor, Tensor]:
        """Weights int8 [length] and visual bool [length] by key position, as the reference takes them."""
        if length < self.end:
            raise ValueError(f"length: {length}; accepted is at least {self.end}, the end of the last span")
        snapshot = self._snapshot
        weights = torch.zeros(length, dtype=torch.int8, device=self.device)
        visual = torch.zeros(length, dtype=torch.bool, device=self.device)
        weights[self.start : self.end] = snapshot.weights
        visual[self.start : self.end] = snapshot.visual
        return weights, visual

    def _build(self, weights: Sequence[Tensor | np.ndarray] | Tensor | np.ndarray, version: int) -> FieldSnapshot:
        if isinstance(weights, (Tensor, np.ndarray)) and len(self.spans) == 1:
            weights = [weights]
        if len(weights) != len(self.spans):
            raise ValueError(f"weights: {len(weights)} arrays; accepted is one for each of {len(self.spans)} spans")
        dense = np.zeros(self.end - self.start, dtype=np.int8)
        for index, (span, array) in enumerate(zip(self.spans, weights, strict=True)):
            dense[span.start - self.start : span.end - self.start] = _checked(index, array, span.length)
        # Running extremes over V. The first position is in V, so what stands in for a gap never wins.
        inside = self._visual_host
        smallest = np.minimum.accumulate(np.where(inside, dense, np.int8(127)))
        largest = np.maximum.accumulate(np.where(inside, dense, np.int8(-127)))
        law = next((name for name, count in self._laws.items() if count), None)
        if law is not None and smallest.size and smallest[-1] < 0:
            raise ValueError(f"weights: {smallest[-1]} with law {law}; accepted are 0 to 127")
        ends = [span.end - self.start - 1 for span in self.ordered]
        return FieldSnapshot(
            version=version,
            weights=torch.from_numpy(dense).to(self.device),
            visual=self._visual,
            weight_extrema=torch.from_numpy(np.stack([smallest, largest], axis=-1)).to(self.device),
            low=tuple(int(smallest[j]) for j in ends),
            high=tuple(int(largest[j]) for j in ends),
        )


def _rounded(gain: Tensor) -> Tensor:
    """The gains as e4m3 has them, in float32."""
    if gain.ndim != 2 or not bool(torch.isfinite(gain).all()) or bool((gain.abs() > MAX_GAIN).any()):
        raise ValueError(
            f"gain: shape {tuple(gain.shape)}; accepted are finite numbers within ±{MAX_GAIN:g} [layers, heads]"
        )
    return gain.to(torch.float8_e4m3fn).float()


def _checked(index: int, array: Tensor | np.ndarray, length: int) -> np.ndarray:
    """One span's weights as int8 [length] on the CPU."""
    array = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
    if array.dtype != np.int8:
        raise ValueError(f"weights[{index}]: dtype {array.dtype}; accepted is int8, -127 to 127")
    if array.size != length:
        raise ValueError(f"weights[{index}]: {array.size} values, shape {array.shape}; the span has {length} keys")
    if (array == -128).any():
        raise ValueError(f"weights[{index}]: -128; accepted are -127 to 127")
    return array.reshape(-1)
