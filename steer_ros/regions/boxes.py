"""Boxes in frame pixels: what a valid one is, clipping, overlap."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in frame pixels, half-open: x0 <= x < x1, y0 <= y < y1. y grows downwards."""


def check_frame_size(frame_size: Sequence[int], name: str = "frame_size") -> tuple[int, int]:
    """Return (width, height) in pixels as two positive ints, or raise ValueError."""
    try:
        width, height = (operator.index(side) for side in frame_size)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: got {frame_size!r}, accepted: (width, height), two whole numbers") from None
    if width < 1 or height < 1:
        raise ValueError(f"{name}: got {width}x{height}, accepted: width and height of at least 1 pixel")
    return width, height


def check_box(box: Sequence[float], name: str = "box") -> Box:
    """Return the box as four floats. ValueError unless they are finite with x0 < x1 and y0 < y1."""
    try:
        x0, y0, x1, y1 = (float(value) for value in box)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}: got {box!r}, accepted: (x0, y0, x1, y1), four numbers") from None
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError(f"{name}: got {(x0, y0, x1, y1)}, accepted: finite numbers")
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"{name}: got {(x0, y0, x1, y1)}, accepted: x0 < x1 and y0 < y1")
    return x0, y0, x1, y1


def clip_box(box: Box, frame_size: tuple[int, int]) -> Box | None:
    """The part of the box inside the frame (width, height); None when there is none."""
    width, height = frame_size
    x0, y0 = max(box[0], 0.0), max(box[1], 0.0)
    x1, y1 = min(box[2], float(width)), min(box[3], float(height))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def area(box: Box) -> float:
    """Area in px²."""
    return (box[2] - box[0]) * (box[3] - box[1])


def center(box: Box) -> tuple[float, float]:
    """Centre (x, y) in px."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two valid boxes, 0 to 1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (area(a) + area(b) - shared)
