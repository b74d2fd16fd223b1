"""Solids that rays are cast at: bodies of revolution and a box, in units of their own, standing at the origin.

x is right, y up from the table, z towards the viewer. The projection is a parallel one, from above the table by a
pitch in radians.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .polygons import rounded

WALL = 0.06  # thickness


@dataclass(frozen=True)
class Solid:
    """A body of revolution, or a box when it has no profile.

    Attributes:
        profile: float ``[points, 2]``, (radius, height), from the bottom's middle on.
        level: the height of what is in it.
        cap: from this height on it is cap; infinite where there is none.
        half: the box's half sides. yaw: its turn about the vertical, radians.
        spout: -1 on the left, 1 on the right, 0 none.
        marks: heights of the lines printed on it.
    """

    profile: np.ndarray | None
    height: float
    level: float = 0.0
    cap: float = np.inf
    half: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    spout: float = 0.0
    marks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Hits:
    """What rays meet.

    Attributes:
        hit: bool ``[rows, columns]``, whether a ray meets anything; what follows holds only there.
        normal, point: ``[rows, columns, 3]``, the outward unit normal there and the place.
    """

    hit: np.ndarray
    normal: np.ndarray
    point: np.ndarray


def solid(shape: str, rng: np.random.Generator) -> Solid:
    """A shape's solid, its proportions drawn; whatever is none of the vessels is a box."""
    if shape == "beaker":
        r, top = rng.uniform(0.5, 0.58), rng.uniform(1.3, 1.5)
        outer = [(0, 0), (r, 0), (r, top - 0.1), (r + 0.07, top)]
        marks = tuple(np.arange(0.3, 0.8, 0.14) * top)
        return Solid(
            rounded(outer, 0.1, False), top, rng.uniform(0.45, 0.7) * top, spout=rng.choice([-1.0, 1.0]), marks=marks
        )
    if shape == "flask":
        r, neck, top = rng.uniform(0.72, 0.8), rng.uniform(0.17, 0.21), rng.uniform(1.6, 1.75)
        outer = [(0, 0), (r, 0), (neck, top * 0.62), (neck, top - 0.07), (neck + 0.08, top - 0.05), (neck + 0.08, top)]
        return Solid(rounded(outer, 0.12, False), top, rng.uniform(0.28, 0.42) * top)
    if shape == "vial":
        r, top = rng.uniform(0.25, 0.29), 1.9
        cap = top - rng.uniform(0.34, 0.42)
        outer = [
            (0, 0),
            (r, 0),
            (r, cap - 0.12),
            (r * 0.75, cap - 0.02),
            (r * 0.75, cap),
            (r * 1.08, cap),
            (r * 1.08, top),
            (0, top),
        ]
        return Solid(rounded(outer, 0.07, False), top, rng.uniform(0.55, 0.8) * cap, cap)
    if shape == "dish":
        top = rng.uniform(0.28, 0.38)
        return Solid(rounded([(0, 0), (0.97, 0), (1.0, top)], 0.06, False), top, rng.uniform(0.3, 0.45) * top)
    side = rng.uniform(0.55, 0.6)
    return Solid(None, 2 * side, half=(side, side, side), yaw=np.radians(rng.uniform(18, 72)))


def walled(body: Solid) -> Solid:
    """The body as a thick-walled open vessel that is filled up to its level; closed and boxy ones stay as they are."""
    if body.profile is None or np.isfinite(body.cap):
        return body
    inner = np.maximum(body.profile[1:] - (WALL, 0), 0)[::-1]
    inner = inner[inner[:, 1] > body.level]
    at = float(np.interp(body.level, body.profile[1:, 1], body.profile[1:, 0])) - WALL
    profile = np.concatenate([body.profile, inner, [(at, body.level), (0, body.level)]])
    return Solid(profile, body.height, body.level, spout=body.spout, marks=body.marks)


def cast(body: Solid, profile: np.ndarray | None, u: np.ndarray, v: np.ndarray, pitch: float) -> tuple[Hits, Hits]:
    """The nearest and the farthest surface along parallel rays.

    A ray is (u, -v cos pitch + t sin pitch, v sin pitch + t cos pitch), so that a larger t is nearer.

    Args:
        profile: the body's own or one inside it, as `Solid.profile`; None: the box.
        u, v: float32 ``[rows, columns]``, right and down in the image plane, in the solid's units.
        pitch: radians, not 0; below 0 the camera looks from under the table.
    """
    s, c = np.float32(np.sin(pitch)), np.float32(np.cos(pitch))
    y0, z0 = -v * c, v * s
    if profile is None:
        return _cast_box(body, u, y0, z0, s, c)
    best = [np.full(u.shape, -np.inf, np.float32), np.full(u.shape, -np.inf, np.float32)]
    normals = [np.zeros((*u.shape, 3), np.float32) for _ in best]
    for (r0, h0), (r1, h1) in pairwise(np.float32(profile)):
        found = []
        if abs(h1 - h0) < 1e-5:
            t = (h0 - y0) / s
            rho = np.hypot(u, z0 + t * c)
            found.append((t, (rho >= min(r0, r1)) & (rho <= max(r0, r1)), 0 * u, np.sign(r0 - r1) + 0 * u, 0 * u))
        else:
            k = (r1 - r0) / (h1 - h0)
            a = r0 + k * (y0 - h0)
            qa, qb, qc = c * c - k * k * s * s, z0 * c - a * k * s, u * u + z0 * z0 - a * a
            qa = qa if abs(qa) > 1e-5 else np.float32(1e-5)
            inside = qb * qb - qa * qc
            root = np.sqrt(np.maximum(inside, 0))
            for t in ((-qb + root) / qa, (-qb - root) / qa):
                y, radius = y0 + t * s, a + k * s * t
                ok = (inside >= 0) & (y >= min(h0, h1)) & (y <= max(h0, h1)) & (radius >= 0)
                out = np.sign(h1 - h0)
                found.append((t, ok, out * u, -out * k * radius, out * (z0 + t * c)))
        for t, ok, nx, ny, nz in found:
            for i, sign in enumerate((1, -1)):
                better = ok & (sign * t > best[i])
                best[i][better] = sign * t[better]
                normals[i][better] = np.stack([nx[better], ny[better], nz[better]], -1)
    hits = []
    for i, sign in enumerate((1, -1)):
        hit = np.isfinite(best[i])
        t = np.where(hit, sign * best[i], 0)
        unit = normals[i] / np.maximum(np.linalg.norm(normals[i], axis=-1, keepdims=True), 1e-6)
        hits.append(Hits(hit, unit, np.stack([u, y0 + t * s, z0 + t * c], -1)))
    return hits[0], hits[1]


def _cast_box(body: Solid, u: np.ndarray, y0: np.ndarray, z0: np.ndarray, s: float, c: float) -> tuple[Hits, Hits]:
    cy, sy = np.cos(body.yaw), np.sin(body.yaw)
    turn = np.float32([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])  # world to box
    origin, half = np.stack([u, y0 - body.half[1], z0], -1) @ turn.T, np.float32(body.half)
    ray = turn @ np.float32([0, s, c])
    ray = np.where(np.abs(ray) < 1e-4, np.float32(1e-4), ray)
    ends = np.stack([(-half - origin) / ray, (half - origin) / ray])
    near, far = ends.max(0).min(-1), ends.min(0).max(-1)
    point = origin + near[..., None] * ray
    bevel = point - np.clip(point, -half * 0.93, half * 0.93)
    normal = bevel / np.maximum(np.linalg.norm(bevel, axis=-1, keepdims=True), 1e-6)
    hits = Hits(near >= far, np.float32(normal @ turn), np.float32(point @ turn) + np.float32([0, body.half[1], 0]))
    return hits, hits
