"""Outlines of the five shapes, drawn at random within what a person still calls by the name; for `styles`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .render import ellipse
from .scene import EXTENTS

Polygon = np.ndarray  # [n, 2], object units
# The silhouette; and the parts on it, from back to front, with brightness gains in units of a look's spread.
Outline = tuple[Polygon, list[tuple[Polygon, float]]]


def maybe(rng: np.random.Generator, chance: float, low: float, high: float, otherwise: float = 0.0) -> float:
    """With that chance a number from low to high, else the last."""
    value = float(rng.uniform(low, high))
    return value if rng.random() < chance else otherwise


def _box(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _beaker(rng: np.random.Generator) -> Outline:
    wall, taper, corner = rng.uniform(0.5, 0.64), rng.uniform(-0.06, 0.06), rng.uniform(0.02, 0.2)
    top = maybe(rng, 0.5, 0.04, 0.16)  # half height of an opening seen from above
    lip = rng.uniform(0.0, 0.14)
    bottom = np.concatenate(
        [
            ellipse(wall + taper - corner, 0.84 - corner, corner, corner, 0, 90),
            ellipse(-wall - taper + corner, 0.84 - corner, corner, corner, 90, 180),
        ]
    )
    left = [(-wall, -0.84 + top + 0.16), (-wall - lip * float(rng.random() < 0.7), -0.84 + top)]
    right = [(wall + lip * float(rng.random() < 0.7), -0.84 + top), (wall, -0.84 + top + 0.16)]
    over = ellipse(0, -0.84 + top, wall, top, 180, 360) if top else np.empty((0, 2))
    outline = np.concatenate([bottom, np.array(left), over, np.array(right)])
    parts = []
    level = rng.uniform(-0.55, 0.5)
    if rng.random() < 0.75:
        parts.append((_box(-wall * 0.92, level, wall * 0.92, 0.78), rng.normal()))
    if top:
        parts.append((ellipse(0, -0.84 + top, wall * 0.95, top * 0.9), rng.normal()))
    if rng.random() < 0.6:
        thick, x0 = rng.uniform(0.03, 0.09), rng.choice([-0.5, -0.2, 0.1])
        for y in np.linspace(-0.5, 0.55, int(rng.integers(2, 7))):
            parts.append((_box(x0, y, x0 + rng.uniform(0.2, 0.5), y + thick), -1.6))
    return outline, parts


def _flask(rng: np.random.Generator) -> Outline:
    neck, shoulder, corner = rng.uniform(0.15, 0.28), rng.uniform(-0.55, -0.1), rng.uniform(0.03, 0.22)
    lip = neck + rng.uniform(0.0, 0.12)
    parts: list[tuple[Polygon, float]] = []
    if rng.random() < 0.85:
        right = [(lip, -0.94), (lip, -0.86), (neck, -0.82), (neck, shoulder)]
        base = [(0.84 - corner * 0.3, 0.94 - corner), (0.84 - corner, 0.94)]
        half = np.array([*right, *base])
    else:  # round below
        middle = rng.uniform(0.1, 0.3)
        half = np.concatenate(
            [np.array([(lip, -0.94), (lip, -0.86), (neck, -0.82)]), ellipse(0, middle, 0.8, 0.94 - middle, -75, 90)]
        )
    outline = np.concatenate([half, half[::-1] * (-1.0, 1.0)])
    if rng.random() < 0.8:
        level = rng.uniform(-0.1, 0.55)
        wide = np.interp(level, half[:, 1], half[:, 0]) * 0.9
        parts.append((np.array([(-wide, level), (wide, level), (0.72, 0.86), (-0.72, 0.86)]), rng.normal()))
    if rng.random() < 0.6:
        parts.append((_box(-lip, -0.94, lip, -0.94 + rng.uniform(0.06, 0.2)), rng.normal() - 0.8))
    return outline, parts


def _vial(rng: np.random.Generator) -> Outline:
    wide, cap, high = rng.uniform(0.26, 0.34), rng.uniform(0.2, 0.34), rng.uniform(0.2, 0.44)
    end = rng.uniform(0.02, 0.32)
    neck = rng.uniform(0.6, 1.0) * wide
    body = np.concatenate(
        [
            np.array([(-wide, -1 + high + 0.12), (-neck, -1 + high), (neck, -1 + high), (wide, -1 + high + 0.12)]),
            ellipse(0, 1 - end, wide, end, 0, 180),
        ]
    )
    outline = np.concatenate(
        [np.array([(-cap, -1 + high), (-cap, -1.0), (cap, -1.0), (cap, -1 + high)]), body[2:], body[:2]]
    )
    parts = [(_box(-cap, -1.0, cap, -1 + high), float(rng.choice([-2.0, -1.2, -0.6, 0.8])))]
    if rng.random() < 0.4:
        parts.append((_box(-wide * 0.9, rng.uniform(-0.4, 0.4), wide * 0.9, 0.95 - end), rng.normal()))
    return outline, parts


def _dish(rng: np.random.Generator) -> Outline:
    wall = maybe(rng, 0.6, 0.05, 0.22)
    flat = (0.92 - wall) / 2 * rng.uniform(0.8, 1.0)
    upper = -wall / 2
    outline = np.concatenate([ellipse(0, upper, 1.0, flat, 180, 360), ellipse(0, upper + wall, 1.0, flat, 0, 180)])
    inner = rng.uniform(0.7, 0.95)
    parts = [(ellipse(0, upper, inner, flat * inner), rng.normal())]
    if rng.random() < 0.6:
        deep = inner * rng.uniform(0.6, 0.9)
        parts.append((ellipse(0, upper + rng.uniform(0, 0.05), deep, flat * deep), rng.normal()))
    return outline, parts


def _cube(rng: np.random.Generator) -> Outline:
    depth, rise = rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.6)
    kind = rng.random()
    if kind < 0.75:
        a, b = 0.8 - depth, -0.8 + rise
        front, top = _box(-0.8, b, a, 0.8), np.array([(-0.8, b), (-0.8 + depth, -0.8), (0.8, -0.8), (a, b)])
        side = np.array([(a, b), (0.8, -0.8), (0.8, 0.8 - rise), (a, 0.8)])
        outline = np.array([(-0.8, b), (-0.8 + depth, -0.8), (0.8, -0.8), (0.8, 0.8 - rise), (a, 0.8), (-0.8, 0.8)])
    else:  # a corner towards the camera
        front = np.array([(-0.8, -0.8 + rise / 2), (0, -0.8 + rise), (0, 0.8), (-0.8, 0.8 - rise / 2)])
        side = np.array([(0.8, -0.8 + rise / 2), (0, -0.8 + rise), (0, 0.8), (0.8, 0.8 - rise / 2)])
        top = np.array([(-0.8, -0.8 + rise / 2), (0, -0.8), (0.8, -0.8 + rise / 2), (0, -0.8 + rise)])
        outline = np.array(
            [
                (-0.8, -0.8 + rise / 2),
                (0, -0.8),
                (0.8, -0.8 + rise / 2),
                (0.8, 0.8 - rise / 2),
                (0, 0.8),
                (-0.8, 0.8 - rise / 2),
            ]
        )
    gains = rng.permutation([-1.1, 0.0, 1.0]) if rng.random() < 0.5 else np.array([0.0, 1.0, -1.1])
    return outline, [(front, gains[0]), (top, gains[1]), (side, gains[2])]


_SHAPES: dict[str, Callable] = {"beaker": _beaker, "flask": _flask, "vial": _vial, "dish": _dish, "cube": _cube}


def draw_outline(shape: str, rng: np.random.Generator) -> Outline:
    """An outline and parts (with gains in units of the look's spread), about as large as on the plain bench."""
    outline, parts = _SHAPES[shape](rng)
    if rng.random() < 0.5:
        outline, parts = outline * (-1.0, 1.0), [(p * (-1.0, 1.0), g) for p, g in parts]
    low, high = outline.min(0), outline.max(0)
    scale = 2 * np.array(EXTENTS[shape]) / (high - low) * rng.uniform(0.9, 1.1, 2)
    return (outline - (low + high) / 2) * scale, [((p - (low + high) / 2) * scale, g) for p, g in parts]
