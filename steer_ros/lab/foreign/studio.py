"""Style studio: glossy plastic on a mirror-like table under rim lights."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from .solids import cast, solid, walled
from .sprites import Frame, Sprite, lay, smooth, tone
from .tabletop import Placed, as_sprite, cast_shadow, graduations, print_on, put, strip, unit


def draw_studio(frame: Frame) -> tuple[np.ndarray, list[Sprite]]:
    """Models before a dark backdrop: the image ``[height, width, 3]`` and a sprite for each object, in their order."""
    rng, h, w = frame.rng, frame.height, frame.width
    pitch, side = np.radians(rng.uniform(15, 22)), float(rng.choice([-1, 1]))
    hue, sat = rng.random(), rng.choice([rng.uniform(0.0, 0.15), rng.uniform(0.3, 0.6)])
    shade = [
        np.float32(colorsys.hsv_to_rgb(hue + d, sat, v))
        for d, v in ((0, rng.uniform(0.05, 0.12)), (0.08, rng.uniform(0.2, 0.42)), (0.03, rng.uniform(0.1, 0.24)))
    ]
    y, x = np.linspace(0, 1, h, dtype=np.float32)[:, None], np.linspace(0, 1, w, dtype=np.float32)[None]
    turn = rng.uniform(0.12, 0.3)  # where the backdrop bends into the table
    wall, floor = smooth(-0.25, turn, y + 0 * x)[..., None], smooth(turn - 0.06, 1.1, y + 0 * x)[..., None]
    canvas = (shade[0] * (1 - wall) + shade[1] * wall) * (1 - floor) + shade[2] * floor
    pool = np.exp(-(((x - rng.uniform(0.3, 0.7)) / 0.4) ** 2) - ((y - rng.uniform(0.4, 0.7)) / 0.3) ** 2)
    canvas = np.float32(canvas * (0.75 + 0.7 * pool[..., None]))
    key = unit(side * 0.55, 0.75, 0.75)
    rims = [(unit(-side * 0.95, 0.35, -0.35), rng.uniform(0.8, 1.2)), (unit(side, 0.2, -0.5), rng.uniform(0.3, 0.8))]
    glow = np.float32(colorsys.hsv_to_rgb(hue + rng.uniform(-0.1, 0.1), rng.uniform(0, 0.25), 1.0))
    mirror, sprites = rng.uniform(0.28, 0.5), []
    for obj in frame.objects:
        placed = put(frame, obj, walled(solid(obj.shape, rng)), pitch)
        paint, cap = tone(rng, obj.colour, "studio"), int(rng.integers(3))
        sprites.append(plastic(placed, paint, cap, pitch, key, rims, glow))
        cast_shadow(canvas, sprites[-1], placed, -side * 0.6, 0.25, np.float32(0.12))
        reflect(canvas, placed, plastic(placed, paint, cap, -pitch, key, rims, glow), mirror)
    for sprite in sprites:
        lay(canvas, sprite)
    bloom = cv2.GaussianBlur(np.clip(canvas - 0.75, 0, 1), (0, 0), 0.02 * min(h, w))
    return canvas + 0.7 * bloom, sprites


def plastic(
    placed: Placed,
    paint: np.ndarray,
    cap: int,
    pitch: float,
    key: np.ndarray,
    rims: list[tuple[np.ndarray, float]],
    glow: np.ndarray,
) -> Sprite:
    """A glossy opaque solid, dim but for its rims and highlights.

    Args:
        paint, glow: RGB ``[3]``, 0-1, of the solid and of the rims' light.
        cap: which of three colours a cap has, 0-2.
        pitch: radians; below 0: as the table mirrors it.
        key, rims: unit vectors to the lamps; a rim's with its power.
    """
    body, view = placed.body, unit(0, np.sin(pitch), np.cos(pitch))
    near, _ = cast(body, body.profile, placed.u, placed.v, pitch)
    n, cover = near.normal, np.float32(near.hit)
    edge = np.clip(1 - n @ view, 0, 1)
    colour = np.broadcast_to(paint, n.shape).copy()
    y, radial = near.point[..., 1], (n * near.point)[..., [0, 2]].sum(-1)
    lumen = 0.36 + 0.62 * np.clip(n @ key, 0, 1) + 0.1 * n[..., 1]
    hollow = (radial < -1e-3) & near.hit & (body.profile is not None)
    lumen = np.where(hollow, 0.3 + 0.35 * np.clip(y / body.height, 0, 1) ** 2, lumen)
    pond = (n[..., 1] > 0.95) & (np.abs(y - body.level) < 0.02) & (body.level > 0)
    lumen = np.where(pond, 0.8, lumen)
    if body.marks:
        colour[graduations(body, near)] = print_on(paint)
    if np.isfinite(body.cap):
        colour[y > body.cap] = [(0.07, 0.07, 0.08), (0.62, 0.62, 0.64), paint * 0.35][cap]
    rgb = colour * lumen[..., None]
    for light, power in rims:
        rim = smooth(0.4, 0.95, edge) * np.clip(0.35 + 1.1 * (n @ light), 0, 1) * power * ~hollow
        rgb = rgb + (0.55 * colour + 0.6 * glow) * rim[..., None]
    shine = 0.75 * strip(n, view, key, 0.2, 0.3) + 0.18 * strip(n, view, key * np.float32([-1, 1, 1]), 0.12, 0.9)
    rgb = rgb + (shine * ~hollow * np.where(pond, 0.2, 1.0 if body.profile is not None else 0.35))[..., None]
    return as_sprite(placed, rgb * cover[..., None], cover, cover)


def reflect(canvas: np.ndarray, placed: Placed, below: Sprite, strength: float) -> None:
    """Lay what is seen from below the table onto it in place, upside down about the foot, fading from strength 0-1."""
    n = below.cover.shape[0]
    foot = placed.foot - below.y0
    move = np.float32([[1, 0, 0], [0, -1, 2 * foot]])
    rgb, cover = (cv2.warpAffine(np.float32(m), move, (n, 2 * n)) for m in (below.rgb, below.cover))
    rgb, cover = cv2.GaussianBlur(rgb, (0, 0), 1.2), cv2.GaussianBlur(cover, (0, 0), 1.2)
    away = np.maximum(np.arange(2 * n, dtype=np.float32)[:, None] - foot, 0) / n
    fade = strength * np.exp(-away / 0.28) + 0 * cover
    lay(canvas, Sprite(below.x0, below.y0, rgb, cover, cover), fade)
