"""Style photo: tinted glass and painted blocks on a bench, as a camera sees them."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from .solids import cast, solid
from .sprites import Frame, Sprite, clouds, deep, lay, tone
from .tabletop import Placed, as_sprite, cast_shadow, graduations, print_on, put, strip, unit


def draw_photo(frame: Frame) -> tuple[np.ndarray, list[Sprite]]:
    """A photograph: the image ``[height, width, 3]`` and a sprite for each object, in their order."""
    rng, h, w = frame.rng, frame.height, frame.width
    canvas = bench(rng, h, w)
    pitch, side = np.radians(rng.uniform(24, 36)), float(rng.choice([-1, 1]))
    view, light = unit(0, np.sin(pitch), np.cos(pitch)), unit(side * rng.uniform(0.5, 0.9), 0.9, 0.55)
    sprites = []
    for obj in frame.objects:
        placed = put(frame, obj, solid(obj.shape, rng), pitch)
        sprites.append(glass(placed, tone(rng, obj.colour, "photo"), pitch, view, light, rng))
        tint = 0.25 + 0.35 * tone(rng, obj.colour, "photo") * (obj.shape != "cube")
        cast_shadow(canvas, sprites[-1], placed, -side * 0.75, 0.3, tint)
    for sprite in sprites:
        lay(canvas, sprite)
    return camera(canvas, rng), sprites


def glass(
    placed: Placed, tint: np.ndarray, pitch: float, view: np.ndarray, light: np.ndarray, rng: np.random.Generator
) -> Sprite:
    """A vessel of tinted glass with coloured content, or a painted block.

    Args:
        tint: RGB ``[3]``, 0-1. pitch: radians, as for `cast`.
        view, light: unit vectors to the viewer and to the lamp.
    """
    body = placed.body
    near, far = cast(body, body.profile, placed.u, placed.v, pitch)
    lit = 0.5 + 0.5 * near.normal @ light
    cover = np.float32(near.hit)
    shine = strip(near.normal, view, light, 0.14, 0.5) + 0.35 * strip(near.normal, view, light * (-1, 1, 1), 0.07, 0.4)
    if body.profile is None:
        wear = 1 + 0.015 * clouds(rng, *cover.shape, 6, 6) + 0.04 * clouds(rng, *cover.shape, 60, 60)
        rgb = tint * ((0.3 + 0.85 * lit**1.5) * wear)[..., None] + 0.25 * (shine * (lit > 0.5))[..., None]
        return as_sprite(placed, rgb * cover[..., None], cover, cover)
    edge = 1 - np.abs(near.normal @ view)
    back = 1 - np.abs(far.normal @ view)
    rgb, a = np.zeros((*cover.shape, 3), np.float32), np.zeros_like(cover)
    rgb, a = over(rgb, a, tint * 0.85, cover * (0.42 + 0.4 * back**2))
    inner = np.maximum(body.profile - (0.045, 0), 0) + (0, 0.03)
    inner = np.concatenate(
        [inner[inner[:, 1] < body.level], [(np.interp(body.level, *inner.T[::-1]), body.level), (0, body.level)]]
    )
    liquid, _ = cast(body, inner, placed.u, placed.v, pitch)
    glow = 0.62 + 0.3 * (0.5 + 0.5 * liquid.normal @ light) + 0.3 * np.clip(-liquid.normal[..., 0] * light[0], 0, 1)
    glow = np.where(liquid.normal[..., 1] > 0.9, 1.08, glow) - 0.25 * (1 - np.abs(liquid.normal @ view)) ** 3
    rgb, a = over(rgb, a, tint * glow[..., None], 0.94 * liquid.hit * cover)
    rgb, a = over(rgb, a, deep(tint, 0.45), cover * np.clip(0.06 + 0.75 * edge**3, 0, 0.85))
    outside = cover * ((near.normal * near.point)[..., [0, 2]].sum(-1) >= -1e-3)
    if body.marks:
        rgb, a = over(rgb, a, print_on(tint), 0.75 * np.float32(graduations(body, near)))
    rim = np.maximum(*(np.exp(-(((x.point[..., 1] - body.height) / 0.035) ** 2)) for x in (near, far))) * cover
    rgb, a = over(rgb, a, 0.45 * tint + 0.5, 0.65 * rim * (not np.isfinite(body.cap)))
    if np.isfinite(body.cap):
        lid = [np.float32([0.16] * 3), np.float32([0.9, 0.9, 0.88]), tint * 0.6][rng.integers(3)]
        phi = np.arctan2(near.point[..., 0], near.point[..., 2])
        ribs = 1 + 0.12 * np.sign(np.sin(26 * phi)) * (near.normal[..., 1] < 0.5)
        on = np.float32(near.point[..., 1] > body.cap) * cover
        rgb, a = over(rgb, a, lid * ((0.35 + 0.75 * lit) * ribs)[..., None], on)
        shine = shine * (1 - 0.7 * on)
    rgb, a = over(rgb, a, np.float32([1.0, 1.0, 0.98]), np.clip(0.85 * shine * outside, 0, 1))
    return as_sprite(placed, rgb, a, cover)


def over(rgb: np.ndarray, a: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put a layer ``[..., 3]`` of that alpha on top of premultiplied RGB ``[..., 3]`` and its opacity; all 0-1."""
    return rgb * (1 - alpha[..., None]) + colour * alpha[..., None], a * (1 - alpha) + alpha


def bench(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Wood, brushed steel or laminate: float32 RGB ``[h, w, 3]``, about 0-1."""
    kind = rng.integers(3)
    if kind == 0:
        base = np.float32(colorsys.hsv_to_rgb(rng.uniform(0.06, 0.1), rng.uniform(0.25, 0.5), rng.uniform(0.4, 0.8)))
        plank = h / rng.integers(2, 6)
        rows = np.arange(h) + rng.uniform(0, plank)
        index = (rows // plank).astype(int)
        warp = clouds(rng, h, w, h / 9, w / 2) * 9 + np.arange(h, dtype=np.float32)[:, None] * rng.uniform(0.15, 0.3)
        grain = 0.05 * np.sin(warp + index[:, None] * 7) + 0.05 * clouds(rng, h, w, 1.6, 60)
        shade = 1 + grain + rng.normal(0, 0.06, index.max() + 1)[index][:, None]
        shade -= 0.35 * (rows % plank < 1.3)[:, None]
        return np.float32(base * shade[..., None])
    if kind == 1:
        layers = ((0.035, 1, 90), (0.03, 3, 300), (0.05, 90, 200))
        streaks = sum(gain * clouds(rng, h, w, tall, wide) for gain, tall, wide in layers)
        return np.float32(rng.uniform(0.42, 0.68) * np.float32([0.98, 1.0, 1.03]) * (1 + streaks[..., None]))
    base = np.float32(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.02, 0.14), rng.uniform(0.45, 0.88)))
    specks = np.clip(clouds(rng, h, w, 1.3, 1.3) - 1.2, 0, 1) * rng.choice([-0.3, 0.2])
    return np.float32(base * (1 + specks + 0.02 * clouds(rng, h, w, 60, 60))[..., None])


def camera(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a camera does to an RGB image: uneven light, vignette, white balance, slight defocus and sensor noise."""
    h, w = image.shape[:2]
    y, x = np.linspace(0, 1, h, dtype=np.float32)[:, None], np.linspace(0, 1, w, dtype=np.float32)[None]
    px, py = rng.uniform(0, 1, 2)
    gain = rng.uniform(0.78, 0.95) + rng.uniform(0.2, 0.45) * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 0.3)
    gain = gain * (1 - rng.uniform(0.25, 0.55) * ((x - 0.5) ** 2 + (y - 0.5) ** 2))
    image = image * gain[..., None] * np.float32(1 + rng.normal(0, 0.03, 3))
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.45, 0.85) * min(h, w) / 336)
    noise = rng.standard_normal(image.shape, dtype=np.float32) + 0.7 * rng.standard_normal((h, w, 1), dtype=np.float32)
    return image + noise * rng.uniform(0.006, 0.018) * np.sqrt(np.clip(image, 0.05, 1))
