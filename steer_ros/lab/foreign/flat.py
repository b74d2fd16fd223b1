"""Style flat: vector icons in two flat tones each."""

from __future__ import annotations

import colorsys

import numpy as np

from .polygons import SS, Polygon, bar, bow, fill, rounded, turned
from .sprites import Frame, Sprite, deep, lay, shrink, tone, window


def flat_parts(shape: str, rng: np.random.Generator) -> list[tuple[Polygon, int]]:
    """Polygons of an icon, 0: in its colour, 1: in its accent; all together, of whatever tone, are the silhouette."""
    side = float(rng.choice([-1, 1]))
    flip = np.array([side, 1.0])
    liquid = rng.random() < 0.5
    if shape == "beaker":
        body = rounded([(-0.56, -0.72), (-0.56, 0.84), (0.56, 0.84), (0.56, -0.72)], 0.2, closed=False)
        spout = rounded([(-0.78, -0.84), (-0.4, -0.84), (-0.4, -0.3), (-0.56, -0.46)], 0.04)
        rows = (-0.42, -0.2) if liquid else (-0.4, -0.12, 0.16, 0.44)
        ticks = [bar(0.56 - (0.5 if i % 2 else 0.36), y, 0.56, y + 0.09) for i, y in enumerate(rows)]
        parts = [(body, 0), (spout, 0)] + [(t, 1) for t in ticks] + [(bar(-0.78, -0.84, 0.66, -0.7, 0.06), 1)]
        if liquid:
            parts.append((bar(-0.46, 0.06, 0.46, 0.74, 0.12), 1))
    elif shape == "flask":
        neck = rng.uniform(0.19, 0.25)
        body = rounded([(-neck, -0.84), (neck, -0.84), (neck, -0.3), (0.86, 0.94), (-0.86, 0.94), (-neck, -0.3)], 0.22)
        parts = [(body, 0), (bar(-neck, -0.9, neck, -0.3), 0), (bar(-neck - 0.1, -0.94, neck + 0.1, -0.8, 0.06), 1)]
        if liquid:
            parts.append((rounded([(-0.38, 0.22), (0.38, 0.22), (0.72, 0.84), (-0.72, 0.84)], 0.12), 1))
            parts += [(bow(x, y, r, r), 0) for x, y, r in ((-0.2, 0.56, 0.1), (0.16, 0.42, 0.07), (0.24, 0.68, 0.07))]
        else:
            parts += [(bar(-0.5 + 0.1 * i, 0.62 - 0.26 * i, -0.1, 0.7 - 0.26 * i), 1) for i in range(3)]
    elif shape == "vial":
        parts = [(bar(-0.27, -0.7, 0.27, 1.0, 0.12 if liquid else 0.4), 0), (bar(-0.33, -1.0, 0.33, -0.62, 0.07), 1)]
        parts.append((bar(-0.27, -0.1, 0.27, 0.42), 1) if liquid else (bar(-0.17, 0.16, 0.17, 0.86, 0.2), 1))
    elif shape == "dish":
        wall = rng.uniform(0.14, 0.2)
        hull = np.concatenate([bow(0, -wall, 1, 0.3, 180, 360), bow(0, wall, 1, 0.3, 0, 180)])
        parts = [
            (hull, 1),
            (bow(0, -wall, 1.0, 0.3), 0),
            (bow(0, -wall + 0.02, 0.88, 0.23), 1),
            (bow(0, -wall + 0.05, 0.86, 0.2), 0),
        ]
        if liquid:
            spots = ((-0.4, 0.0, 0.1), (-0.08, 0.06, 0.14), (0.3, 0.01, 0.11), (0.08, -0.06, 0.07))
            parts += [(bow(x, y - wall + 0.04, r, 0.4 * r), 1) for x, y, r in spots]
    else:
        w, k = 0.78, rng.uniform(0.3, 0.4)
        a, b, c, d = (0.0, -0.86), (w, -0.86 + k), (0.0, -0.86 + 2 * k), (-w, -0.86 + k)
        low = 0.86 - 2 * k
        hull = [a, b, (w, low + k), (0, low + 2 * k), (-w, low + k), d]
        left = [(-w, d[1] + 0.07), (-0.03, c[1] + 0.06), (-0.03, low + 2 * k - 0.02), (-w, low + k)]
        parts = [(rounded(hull, 0.06), 1), (rounded([a, b, c, d], 0.05), 0), (rounded(left, 0.05), 0)]
    return [(p * flip, t) for p, t in parts]


def draw_flat(frame: Frame) -> tuple[np.ndarray, list[Sprite]]:
    """Icons on white or a pastel: the image ``[height, width, 3]`` and a sprite for each object, in their order."""
    rng = frame.rng
    paper = np.float32(colorsys.hsv_to_rgb(rng.random(), rng.choice([0.0, rng.uniform(0.04, 0.16)]), 1.0))
    canvas = np.tile(paper, (frame.height, frame.width, 1))
    sprites = []
    for obj in frame.objects:
        cx, cy, size = frame.place(obj)
        x0, y0, n = window(cx, cy, 1.3 * size)
        base = tone(rng, obj.colour, "flat")
        colours = (base, deep(base, rng.uniform(0.6, 0.74)))
        rgb, cover = np.zeros((n * SS, n * SS, 3), np.float32), np.zeros((n * SS, n * SS), bool)
        for polygon, index in flat_parts(obj.shape, rng):
            inside = fill(cover.shape, turned(polygon, obj, n, (cx - x0, cy - y0), size))
            rgb[inside] = colours[index]
            cover |= inside
        sprites.append(Sprite(x0, y0, shrink(rgb, SS), shrink(cover, SS), shrink(cover, SS)))
        lay(canvas, sprites[-1])
    return canvas, sprites
