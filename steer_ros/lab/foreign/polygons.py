"""Polygons of the drawn styles, in units of the object's size: y down, the object's centre at (0, 0)."""

from __future__ import annotations

import cv2
import numpy as np

from ..scenes.scene import SceneObject

SS = 4  # samples per pixel and axis
Polygon = np.ndarray  # float64 [points, 2], (x, y)


def rounded(points: list[tuple[float, float]], radius: float, closed: bool = True) -> Polygon:
    """A polygon, or a polyline where not closed, with its corners rounded as far as the sides' lengths allow."""
    p, n = np.array(points, float), len(points)
    out: list[np.ndarray] = []
    for i in range(n):
        if not closed and i in (0, n - 1):
            out.append(p[i])
            continue
        a, b, c = p[i - 1], p[i], p[(i + 1) % n]
        la, lc = np.linalg.norm(a - b), np.linalg.norm(c - b)
        cut = min(radius, 0.48 * la, 0.48 * lc)
        start, stop = b + (a - b) / la * cut, b + (c - b) / lc * cut
        out += [(1 - t) ** 2 * start + 2 * t * (1 - t) * b + t * t * stop for t in np.linspace(0, 1, 6)]
    return np.array(out)


def bow(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> Polygon:
    """49 points of an ellipse's arc; start and stop in degrees, clockwise from the right."""
    t = np.radians(np.linspace(start, stop, 49))
    return np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], 1)


def bar(x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> Polygon:
    """A rectangle with rounded corners."""
    return rounded([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], max(radius, 1e-3))


def turned(points: Polygon, obj: SceneObject, side: int, centre: tuple[float, float], size: float) -> np.ndarray:
    """Turn points by the object's angle and scale them to a sprite's samples.

    Args:
        side: the sprite's, px. What lies a side or more outside is moved there: fixed point has its limits.
        centre, size: the object's, px of the sprite.
    Returns:
        int32 ``[points, 2]``, sixteenths of a sample, as OpenCV's drawing wants them.
    """
    a = np.radians(obj.angle)
    xy = points @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) * size + centre
    return np.round((np.clip(xy, -side, 2 * side) * SS - 0.5) * 16).astype(np.int32)


def fill(shape: tuple[int, int], polygon: np.ndarray) -> np.ndarray:
    """The samples inside a polygon of `turned`, bool ``[rows, columns]``."""
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [polygon], 1, cv2.LINE_8, 4)
    return mask > 0
