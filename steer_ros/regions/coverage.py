"""How much of each patch a shape covers: float64 [rows, cols], 0 to 1, exact up to float64 rounding.

A shape is given in frame pixels and the grid is laid over the whole frame, so that a patch may cover a
fraction of a pixel or many pixels, and its cells need not be square in frame pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .boxes import check_box, check_frame_size
from .grid import PatchGrid

MAX_POINTS = 2048  # of a polygon; a contour with more comes as a pixel mask
MAX_COORDINATE = 1e7  # px of a polygon's point; farther out, float64 would blur the edge inside the frame


def box_coverage(grid: PatchGrid, frame_size: tuple[int, int], box: Sequence[float]) -> npt.NDArray[np.float64]:
    """Covered fraction of each patch. The box, in frame px, is clipped to the frame; 0 when outside."""
    width, height = check_frame_size(frame_size)
    x0, y0, x1, y1 = check_box(box)
    across = _overlap(grid.cols, x0 / width * grid.cols, x1 / width * grid.cols)
    down = _overlap(grid.rows, y0 / height * grid.rows, y1 / height * grid.rows)
    return down[:, None] * across


def _overlap(cells: int, start: float, stop: float) -> npt.NDArray[np.float64]:
    """Length of [start, stop] in each of the cells [0, 1], [1, 2], …"""
    left = np.arange(cells, dtype=np.float64)
    return np.clip(np.minimum(left + 1, stop) - np.maximum(left, start), 0.0, 1.0)


def pixel_coverage(grid: PatchGrid, mask: npt.NDArray) -> npt.NDArray[np.float64]:
    """Covered fraction of each patch by a pixel mask [height, width] of the frame.

    Of bools and integers every value but 0 is inside; floats are fractions of a pixel, 0 to 1.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"mask: got shape {mask.shape}, accepted: [height, width], at least 1x1")
    if mask.dtype.kind == "f":
        if not (mask.min() >= 0 and mask.max() <= 1):  # NaN fails both
            raise ValueError(f"mask: got {mask.min()} to {mask.max()}, accepted: fractions from 0 to 1")
    elif mask.dtype.kind in "bui":
        mask = mask != 0
    else:
        raise ValueError(f"mask: got {mask.dtype}, accepted: bool, integer or floating point")
    height, width = mask.shape
    edges = np.arange(grid.cols + 1) * width / grid.cols
    across = np.stack([_overlap(width, *span) for span in pairwise(edges)], axis=1)  # [width, cols]
    down = np.empty((grid.rows, width))
    for row in range(grid.rows):  # row by row: an 8K mask is never copied whole as floats
        start, stop = row * height / grid.rows, (row + 1) * height / grid.rows
        first, last = int(start), min(int(np.ceil(stop)), height)
        share = _overlap(last - first, start - first, stop - first)
        down[row] = share @ mask[first:last].astype(np.float64)
    return np.clip(down @ across * (grid.rows * grid.cols / (height * width)), 0.0, 1.0)


def polygon_coverage(
    grid: PatchGrid, frame_size: tuple[int, int], points: Sequence[Sequence[float]]
) -> npt.NDArray[np.float64]:
    """Covered fraction of each patch by a simple polygon, convex or not, closed by itself.

    points [N, 2] in frame px, either direction, 3 to 2048 of them; what lies outside the frame is cut off.
    ValueError for a polygon that crosses itself: its inside is undefined.
    """
    width, height = check_frame_size(frame_size)
    corners = _check_points(points)
    scaled = corners * (grid.cols / width, grid.rows / height)
    start, stop = scaled, np.roll(scaled, -1, axis=0)
    # The origin moves to a corner first: far from it the terms would be large and cancel.
    near, far = start - start[0], stop - start[0]
    signed_area = float(np.sum(near[:, 0] * far[:, 1] - far[:, 0] * near[:, 1])) / 2
    crossing = _first_crossing(near, far)
    if crossing is not None:
        raise ValueError(f"points: edges {crossing[0]} and {crossing[1]} cross, accepted: a simple polygon")
    if signed_area == 0.0:
        raise ValueError("points: all on one line, accepted: a polygon with an area")

    covered = np.cumsum(_edge_area(grid, start, stop), axis=1)[:, : grid.cols] * np.copysign(1, signed_area)
    if covered.min() < -1e-6 or covered.max() > 1 + 1e-6:
        raise ValueError("points: the outline crosses or covers itself, accepted: a simple polygon")
    covered[np.abs(covered) < 1e-12] = 0.0  # left over where edges cancel
    return np.clip(covered, 0.0, 1.0)


def _check_points(points: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    try:
        corners = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("points: not numbers, accepted: [N, 2] of x, y in frame px") from None
    if corners.ndim != 2 or corners.shape[1] != 2 or not 3 <= len(corners) <= MAX_POINTS:
        raise ValueError(f"points: got shape {corners.shape}, accepted: [N, 2] with 3 <= N <= {MAX_POINTS}")
    if not np.all(np.abs(corners) <= MAX_COORDINATE):  # NaN fails too
        raise ValueError(f"points: not finite or too far, accepted: within ±{MAX_COORDINATE:.0e} px")
    return corners


def _edge_area(grid: PatchGrid, start: npt.NDArray, stop: npt.NDArray) -> npt.NDArray[np.float64]:
    """[rows, cols + 1]: summed along a row, the signed area between the edges and each cell's right side.

    Each edge is cut at every grid line, so that a piece lies in one cell. A piece of height dy covers its
    own cell to the right of itself, and dy of every cell farther right: that is the running sum's work.
    """
    step = stop - start  # [N, 2]
    cuts = [np.zeros((len(start), 1)), np.ones((len(start), 1))]
    for axis, cells in ((0, grid.cols), (1, grid.rows)):
        run = step[:, axis, None]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            cut = (np.arange(cells + 1) - start[:, axis, None]) / run
        cuts.append(np.clip(np.where(run == 0, 0.0, cut), 0.0, 1.0))
    at = np.sort(np.concatenate(cuts, axis=1), axis=1)  # [N, pieces + 1], 0 to 1 along the edge
    x = start[:, 0, None] + at * step[:, 0, None]
    y = start[:, 1, None] + at * step[:, 1, None]
    x, dy, y = (x[:, :-1] + x[:, 1:]) / 2, np.diff(y, axis=1), (y[:, :-1] + y[:, 1:]) / 2

    inside = (y > 0) & (y < grid.rows) & (x < grid.cols) & (dy != 0)
    x, y, dy = np.maximum(x[inside], 0.0), y[inside], dy[inside]  # left of the frame counts from its edge
    row, col = y.astype(int), x.astype(int)
    pieces = np.zeros((grid.rows, grid.cols + 1))
    np.add.at(pieces, (row, col), -dy * (col + 1 - x))
    np.add.at(pieces, (row, col + 1), -dy * (x - col))
    return pieces


def _first_crossing(start: npt.NDArray, stop: npt.NDArray) -> tuple[int, int] | None:
    """The first two edges that properly cross; edges that only touch do not count."""
    step = stop - start
    slack = 1e-12 * float(np.max(np.abs(start))) ** 2
    for i in range(len(start) - 2):
        others = slice(i + 2, len(start) - (i == 0))  # neighbours share a corner
        a, b = start[others], stop[others]
        side_a = step[i, 0] * (a[:, 1] - start[i, 1]) - step[i, 1] * (a[:, 0] - start[i, 0])
        side_b = step[i, 0] * (b[:, 1] - start[i, 1]) - step[i, 1] * (b[:, 0] - start[i, 0])
        own = step[others]
        side_s = own[:, 0] * (start[i, 1] - a[:, 1]) - own[:, 1] * (start[i, 0] - a[:, 0])
        side_e = own[:, 0] * (stop[i, 1] - a[:, 1]) - own[:, 1] * (stop[i, 0] - a[:, 0])
        apart = (np.minimum(side_a, side_b) < -slack) & (np.maximum(side_a, side_b) > slack)
        apart &= (np.minimum(side_s, side_e) < -slack) & (np.maximum(side_s, side_e) > slack)
        if apart.any():
            return i, i + 2 + int(np.argmax(apart))
    return None
