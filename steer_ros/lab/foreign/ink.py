"""Style ink: pen and water-colour sketches on rough paper."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from ..scenes.scene import EXTENTS
from .polygons import SS, Polygon, bow, fill, turned
from .sprites import Frame, Sprite, clouds, lay, shrink, tone, window


def ink_parts(shape: str, rng: np.random.Generator) -> tuple[list[tuple[Polygon, float]], list[tuple[Polygon, float]]]:
    """A sketch: washes (polygon, strength of the colour), which together are the silhouette, and pen strokes.

    A stroke is a polyline and the weight of its line, 1 being the sketch's usual one.
    """
    e = rng.uniform(0.2, 0.3)  # how oblique
    if shape == "beaker":
        r, top, low = rng.uniform(0.56, 0.64), -0.84 + e * 0.6, 0.84 - e * 0.6
        rim = bow(0, top, r + 0.05, e * r)
        nose = np.array([(-r * 0.8, top - e * 0.42), (-r - 0.2, top - 0.06), (-r, top + 0.16)])
        hull = np.concatenate([bow(0, top, r, e * r, 180, 360), bow(0, low, r, e * r, 0, 180)])
        level = rng.uniform(-0.25, 0.1)
        liquid = np.concatenate([bow(0, level, r, e * r, 180, 360), bow(0, low, r, e * r, 0, 180)])
        ticks = [np.array([(r * 0.25, y), (r * 0.72, y - 0.05)]) for y in np.arange(level + 0.3, low, 0.2)]
        pens = [
            (rim, 1.0),
            (nose, 1.0),
            (np.array([(-r, top + 0.1), (-r, low)]), 1.3),
            (np.array([(r, top), (r, low)]), 1.5),
            (bow(0, low, r, e * r, 0, 180), 1.5),
            (bow(0, level, r, e * r), 0.6),
        ]
        return [(hull, 0.45), (rim, 0.4), (nose, 0.45), (liquid, 1.0)], pens + [(t, 0.7) for t in ticks]
    if shape == "flask":
        neck, e = rng.uniform(0.17, 0.22), e * 0.8
        low, level = 0.94 - e * 0.84, rng.uniform(0.05, 0.3)
        right = np.array([(neck, -0.86), (neck, -0.36), (neck + 0.05, -0.22), (0.8, low - 0.12), (0.82, low)])
        left, wide = right * (-1, 1), neck + 0.04 + (level + 0.22) / (low + 0.1) * (0.78 - neck)
        base, lip = bow(0, low, 0.82, e * 0.82, 0, 180), bow(0, -0.87, neck + 0.08, 0.07)
        hull = np.concatenate([left[::-1], right, base])
        liquid = np.concatenate([[(-0.82, low), (-wide, level)], bow(0, level, wide, e * wide, 180, 360), base])
        pens = [(left, 1.3), (right, 1.5), (base, 1.6), (lip, 1.0), (bow(0, level, wide, e * wide), 0.6)]
        return [(hull, 0.45), (lip, 0.5), (liquid, 1.0)], pens
    if shape == "vial":
        r, cap = 0.26, rng.uniform(-0.62, -0.5)
        tube = np.concatenate([[(-r, cap), (r, cap)], bow(0, 0.82, r, rng.uniform(0.08, 0.18), 0, 180)])
        level = rng.uniform(-0.3, 0.1)
        liquid = np.concatenate([bow(0, level, r, 0.07, 180, 360), tube[2:]])
        lid = np.concatenate([bow(0, -0.92, 0.32, 0.08, 180, 360), bow(0, cap, 0.32, 0.08, 0, 180)])
        pens = [
            (tube[1:], 1.3),
            (tube[[-1, 0]], 1.2),
            (np.concatenate([lid, lid[:1]]), 1.3),
            (bow(0, -0.92, 0.32, 0.08, 0, 180), 0.8),
            (bow(0, level, r, 0.07), 0.6),
        ]
        ribs = [(np.array([(x, -0.8), (x, cap + 0.05)]), 0.5) for x in (-0.18, -0.06, 0.06, 0.18)]
        return [(tube, 0.5), (liquid, 1.0), (lid, 1.7)], pens + ribs
    if shape == "dish":
        e, wall = rng.uniform(0.28, 0.36), rng.uniform(0.1, 0.16)
        hull = np.concatenate([bow(0, -wall, 1, e, 180, 360), bow(0, wall, 1, e, 0, 180)])
        pens = [
            (bow(0, -wall, 1, e), 1.1),
            (bow(0, -wall + 0.02, 0.91, e * 0.86), 0.7),
            (np.concatenate([[(1.0, -wall)], bow(0, wall, 1, e, 0, 180), [(-1.0, -wall)]]), 1.5),
            (bow(0, wall * 0.4, 0.86, e * 0.8, 20, 160), 0.5),
        ]
        return [(hull, 1.25), (bow(0, -wall, 1, e), 0.5), (bow(0, -wall + 0.04, 0.88, e * 0.8), 0.85)], pens
    lean, k = rng.uniform(-0.35, 0.35), 0.3  # a box seen over one edge
    a, b = np.array((-0.78, -0.5 + 0.1 * lean)), np.array((0.78, -0.5 - 0.1 * lean))
    c, t, drop = np.array((lean, -0.5 + k)), np.array((-lean, -0.5 - k)), np.array((0, 1.02))
    pens = [
        (np.array([a, t, b]), 1.2),
        (np.array([a, c, b]), 1.0),
        (np.array([c, c + drop]), 1.0),
        (np.array([a, a + drop * 0.96, c + drop]), 1.4),
        (np.array([b, b + drop * 0.96, c + drop]), 1.6),
    ]
    left, right = np.array([a, c, c + drop, a + drop * 0.96]), np.array([b, c, c + drop, b + drop * 0.96])
    return [(np.array([a, t, b, c]), 0.6), (left, 1.0), (right, 1.5)], pens


def pen(mask: np.ndarray, points: np.ndarray, width: float, rng: np.random.Generator) -> None:
    """Draw a wobbly line of varying width in place: points ``[n, 2]`` and width in samples, mask uint8."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(steps)])
    n = max(4, int(along[-1] / 4))
    at = np.linspace(-0.01, 1.0, n) * along[-1]
    path = np.stack([np.interp(at, along, points[:, i]) for i in (0, 1)], 1)
    path += np.stack([clouds(rng, 1, n, 1, 14)[0] for _ in "xy"], 1) * 0.28 * SS
    widths = width * np.clip(1 + 0.4 * clouds(rng, 1, n, 1, 20)[0], 0.45, 1.8)
    for (x0, y0), (x1, y1), w in zip(path[:-1], path[1:], widths, strict=False):
        ends = [(round(float(x) * 16), round(float(y) * 16)) for x, y in ((x0, y0), (x1, y1))]
        cv2.line(mask, *ends, 1, max(1, round(float(w))), cv2.LINE_8, 4)


def draw_ink(frame: Frame) -> tuple[np.ndarray, list[Sprite]]:
    """Sketches with hatched shadows: the image ``[height, width, 3]`` and a sprite for each object, in their order."""
    rng, h, w = frame.rng, frame.height, frame.width
    paper = np.float32(
        [(0.97, 0.95, 0.90), (0.98, 0.98, 0.97), (0.95, 0.90, 0.82), (0.91, 0.93, 0.94)][rng.integers(4)]
    )
    grain = 0.014 * clouds(rng, h, w, 1.5, 1.5) + 0.012 * clouds(rng, h, w, 4, 9) + 0.015 * clouds(rng, h, w, 90, 90)
    canvas = np.clip(paper * (1 + grain[..., None]), 0, 1).astype(np.float32)
    stain = np.clip(0.5 + clouds(rng, h, w, 60, 80), 0, 1)[..., None] * rng.uniform(0, 0.16)
    canvas *= 1 - stain * (1 - np.float32(colorsys.hsv_to_rgb(rng.random(), 0.25, 0.9)))
    ink = np.float32([(0.09, 0.08, 0.10), (0.16, 0.10, 0.07), (0.08, 0.10, 0.20)][rng.integers(3)])
    clean, sprites = canvas.copy(), []
    width = rng.uniform(1.1, 1.7) * min(h, w) / 336 * SS
    for obj in frame.objects:
        cx, cy, size = frame.place(obj)
        x0, y0, n = window(cx, cy, 1.45 * size)
        flip, middle = np.array([rng.choice([-1.0, 1.0]), 1.0]), (cx - x0, cy - y0)
        washes, lines = ink_parts(obj.shape, rng)
        strength, cover = np.zeros((n * SS, n * SS), np.float32), np.zeros((n * SS, n * SS), np.uint8)
        for polygon, amount in washes:
            inside = fill(cover.shape, turned(polygon * flip, obj, n, middle, size))
            strength[inside] = amount * (0.8 if obj.colour in ("cyan", "yellow") else 1.0)
            cover[inside] = 1
        for polygon, weight in lines:
            marks = np.zeros_like(cover)
            pen(marks, turned(polygon * flip, obj, n, middle, size) / 16, width * weight, rng)
            strength[marks > 0] = -1
            cover |= marks
        ex, ey = EXTENTS[obj.shape]
        hatch = np.zeros_like(cover)  # beside the foot of the object
        for x in np.arange(-0.5, 1.0, 0.15) * ex:
            foot = ey - 0.12 * rng.random()
            line = np.array([(x + 0.3, foot + 0.1), (x + 0.55, foot - 0.18)])
            pen(hatch, turned(line, obj, n, middle, size) / 16, width * 0.55, rng)
        away = cv2.distanceTransform(cover, cv2.DIST_L2, 3) / SS
        blot = 1 + 0.2 * clouds(rng, *cover.shape, size * 1.2, size * 1.2) + 0.07 * clouds(rng, *cover.shape, 9, 9)
        density = np.maximum(strength, 0) * np.clip(blot, 0.5, 1.6) * (1 + 0.45 * np.exp(-away / 2.0))
        rows, cols = np.clip(np.arange(y0, y0 + n), 0, h - 1), np.clip(np.arange(x0, x0 + n), 0, w - 1)
        ground = np.repeat(np.repeat(clean[rows][:, cols], SS, 0), SS, 1)
        rgb = ground * tone(rng, obj.colour, "ink") ** density[..., None]
        rgb[strength < 0] = ink
        part = np.float32(cover)
        lay(canvas, Sprite(x0, y0, shrink(hatch, SS)[..., None] * ink, shrink(hatch, SS), shrink(hatch, SS)), 0.75)
        sprites.append(Sprite(x0, y0, shrink(rgb * part[..., None], SS), shrink(part, SS), shrink(part, SS)))
    for sprite in sprites:
        lay(canvas, sprite)
    return canvas, sprites
