"""Masks: INT8 weights on the patch grid, −127…127 for −1…1; negative suppresses.

Shapes become weights by exact coverage: a patch that lies half in the region gets half the strength.
A region smaller than 1/254 of every patch it touches rounds to no weight at all; `Mask.empty` tells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .boxes import Box, check_box, check_frame_size, clip_box
from .coverage import box_coverage, pixel_coverage, polygon_coverage
from .grid import PatchGrid

FULL = 127  # the weight of strength 1; −128 has no mirror image and is not a weight
SOURCES = ("grounding", "saliency", "phrase", "roi", "track")

Weights = npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Mask:
    """A region's weights on the patch grid, and what is known about the region.

    weights: int8 [rows, cols], strength already in them; kept as a read-only copy, so that masks can be
    handed between threads (`torch.tensor(mask.weights)` copies it without a warning).
    score: 0 to 1. strength: −1 to 1. source: one of SOURCES. box: frame px, if the region has one.
    """

    weights: Weights
    label: str = ""
    track_id: str = ""
    score: float = 1.0
    strength: float = 1.0
    source: str = "roi"
    box: Box | None = None

    def __post_init__(self) -> None:
        weights = _check_values(self.weights, "weights").copy()
        if weights.ndim != 2 or 0 in weights.shape:
            raise ValueError(f"weights: got shape {weights.shape}, accepted: [rows, cols]")
        weights.setflags(write=False)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "score", _check_number("score", self.score, 0.0, 1.0))
        object.__setattr__(self, "strength", check_strength(self.strength))
        if self.source not in SOURCES:
            raise ValueError(f"source: got {self.source!r}, accepted: {', '.join(SOURCES)}")
        if self.box is not None:
            object.__setattr__(self, "box", check_box(self.box))

    @property
    def empty(self) -> bool:
        """True when no patch has a weight: there is nothing to steer with."""
        return not self.weights.any()


def box_weights(
    grid: PatchGrid,
    frame_size: tuple[int, int],
    box: Sequence[float],
    strength: float = 1.0,
    coverage: str = "partial",
) -> Weights:
    """Weights int8 [rows, cols] of a box in px of a frame of frame_size (width, height).

    coverage: "partial" weighs a patch by the part of it that is covered; "complete" counts only patches
    that are covered whole. The box is clipped to the frame. ValueError for a box that is no box
    (see check_box) or lies outside the frame, and for a strength outside −1…1.
    """
    strength = check_strength(strength)
    if coverage not in ("partial", "complete"):
        raise ValueError(f"coverage: got {coverage!r}, accepted: partial, complete")
    box = check_box(box)
    width, height = check_frame_size(frame_size)
    if clip_box(box, (width, height)) is None:
        raise ValueError(f"box: got {box}, accepted: one that overlaps the frame, {width}x{height} px")
    covered = box_coverage(grid, (width, height), box)
    if coverage == "complete":
        covered = np.where(covered >= 1 - 1e-9, 1.0, 0.0)
    return _to_weights(covered, strength)


def polygon_weights(
    grid: PatchGrid,
    frame_size: tuple[int, int],
    points: Sequence[Sequence[float]],
    strength: float = 1.0,
) -> Weights:
    """Weights int8 [rows, cols] of a simple polygon, points [N, 2] in frame px, by exact coverage.

    ValueError for fewer than 3 or more than 2048 points, points that are not finite, a polygon without
    area, one that crosses itself, and one outside the frame.
    """
    strength = check_strength(strength)
    covered = polygon_coverage(grid, frame_size, points)
    if not covered.any():
        raise ValueError(
            f"points: the polygon lies outside the frame, {frame_size[0]}x{frame_size[1]} px, "
            "accepted: one that overlaps it"
        )
    return _to_weights(covered, strength)


def pixel_weights(grid: PatchGrid, mask: npt.NDArray, strength: float = 1.0) -> Weights:
    """Weights int8 [rows, cols] of a pixel mask [height, width] that spans the frame, by exact coverage.

    bool or integers: every value but 0 is inside; floats: the fraction of the pixel, 0 to 1.
    A mask without a pixel gives weights of zero.
    """
    return _to_weights(pixel_coverage(grid, mask), check_strength(strength))


def union(weights: Sequence[npt.ArrayLike]) -> Weights:
    """Merge weights of one shape: for each patch the largest positive plus the most negative one.

    So where signs agree the weight of largest magnitude wins, and where they conflict they cancel as far as
    they go. The order never matters; of three or more with conflicting signs merge all at once, as unions
    of unions differ. The sum of one positive and one negative weight cannot overflow.
    """
    parts = [_check_values(part, f"weights[{i}]") for i, part in enumerate(weights)]
    if not parts:
        raise ValueError("weights: got none, accepted: at least one")
    for i, part in enumerate(parts):
        if part.shape != parts[0].shape:
            raise ValueError(f"weights[{i}]: got shape {part.shape}, accepted: that of weights[0], {parts[0].shape}")
    stacked = np.stack(parts)
    return np.maximum(stacked.max(0), 0) + np.minimum(stacked.min(0), 0)


def pool_to_tokens(weights: npt.ArrayLike, merge: int = 2) -> Weights:
    """Token weights int8 [rows / merge, cols / merge]: the mean of each token's patches, half to even."""
    weights = _check_values(weights, "weights")
    if weights.ndim != 2 or 0 in weights.shape or merge < 1 or any(side % merge for side in weights.shape):
        raise ValueError(
            f"weights: got shape {weights.shape}, accepted: [rows, cols], both multiples of merge = {merge}"
        )
    rows, cols = weights.shape
    blocks = weights.reshape(rows // merge, merge, cols // merge, merge)
    return np.rint(blocks.sum(axis=(1, 3), dtype=np.int64) / merge**2).astype(np.int8)


def check_weights(grid: PatchGrid, weights: npt.ArrayLike) -> Weights:
    """Return weights from outside as int8 [rows, cols], or raise a ValueError that names what is wrong.

    Accepts [rows, cols] or the flat rows * cols values of a message, any integer type, −127…127.
    """
    values = _check_values(weights, "weights")
    if values.shape not in ((grid.rows, grid.cols), (grid.num_patches,)):
        got = f"{values.size} values" if values.ndim == 1 else f"shape {values.shape}"
        raise ValueError(
            f"weights: got {got}, accepted: [{grid.rows}, {grid.cols}] or {grid.num_patches} values ({grid})"
        )
    return values.reshape(grid.rows, grid.cols)


def check_strength(strength: float, name: str = "strength") -> float:
    """Return a region's strength as a float; ValueError unless it is a number from −1 to 1."""
    return _check_number(name, strength, -1.0, 1.0)


def _check_number(name: str, value: float, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:  # NaN fails
        raise ValueError(f"{name}: got {value!r}, accepted: a number from {low:g} to {high:g}")
    return number


def _check_values(weights: npt.ArrayLike, name: str) -> Weights:
    try:
        values = np.asarray(weights)
    except ValueError:
        raise ValueError(f"{name}: rows of different lengths, accepted: [rows, cols]") from None
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name}: got {values.dtype}, accepted: whole numbers from -{FULL} to {FULL} (int8)")
    if values.size and (values.min() < -FULL or values.max() > FULL):
        raise ValueError(f"{name}: got {values.min()} to {values.max()}, accepted: -{FULL} to {FULL}")
    return values.astype(np.int8)


def _to_weights(covered: npt.NDArray[np.float64], strength: float) -> Weights:
    return np.rint(covered * (strength * FULL)).astype(np.int8)
