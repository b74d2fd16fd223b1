"""How solids stand on a table and what light does there: placing, order, reflections of lamps, shadows, print."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from ..scenes.scene import EXTENTS, SceneObject
from .solids import Hits, Solid
from .sprites import Frame, Sprite, clip, shrink, smooth, window

SS_RAY = 3  # samples per pixel and axis; a ray costs more than a polygon's sample


@dataclass(frozen=True)
class Placed:
    """A solid in a sprite.

    Attributes:
        x0, y0: the sprite's left upper corner, px of the image.
        u, v: float32 ``[rows, columns]``, the ray of each sample as `cast` wants it.
        foot: how far down the middle of what stands on the table is, px of the image.
    """

    body: Solid
    x0: int
    y0: int
    u: np.ndarray
    v: np.ndarray
    foot: float


def put(frame: Frame, obj: SceneObject, body: Solid, pitch: float) -> Placed:
    """Scale a solid to the object's extent in the frame and centre it there; pitch in radians, as for `cast`."""
    s, c = np.sin(pitch), np.cos(pitch)
    if body.profile is None:
        spread = body.half[0] * (abs(np.cos(body.yaw)) + abs(np.sin(body.yaw)))
        outline = np.array([(spread, 0.0), (spread, body.height)])
    else:
        outline = body.profile
    top, low = (-outline[:, 1] * c - outline[:, 0] * s).min(), (-outline[:, 1] * c + outline[:, 0] * s).max()
    ex, ey = EXTENTS[obj.shape]
    fit = min(ex * 1.05 / outline[:, 0].max(), ey * (1.25 if obj.shape == "dish" else 1.05) * 2 / (low - top))
    cx, cy, size = frame.place(obj)
    scale, middle = size * fit, (top + low) / 2
    x0, y0, n = window(cx, cy, 1.3 * size)
    grid = (np.arange(n * SS_RAY, dtype=np.float32) + 0.5) / SS_RAY
    u, v = np.meshgrid((grid + (x0 - cx)) / scale, (grid + (y0 - cy)) / scale + middle)
    if body.spout:
        pull = 1 + 0.24 * np.exp(-(((v + body.height * c) / 0.11) ** 2)) * smooth(0, 0.5, u * body.spout)
        u = u / pull
    return Placed(body, x0, y0, np.float32(u), np.float32(v), cy - middle * scale)


def back_to_front(objects: Iterable[SceneObject]) -> tuple[SceneObject, ...]:
    """The objects as they stand on a table: what stands further down in the image is in front."""
    return tuple(sorted(objects, key=lambda o: o.y + EXTENTS[o.shape][1] * o.size))


def unit(*xyz: float) -> np.ndarray:
    """The direction of (x, y, z), not all 0, as a unit vector, float32 ``[3]``."""
    return np.float32(xyz) / np.float32(np.linalg.norm(xyz))


def strip(normal: np.ndarray, view: np.ndarray, light: np.ndarray, wide: float, high: float) -> np.ndarray:
    """Mirror image of a soft box, which is a lamp, in a glossy surface.

    Args:
        normal: float32 ``[rows, columns, 3]``. view, light: unit vectors to the viewer and to the lamp.
        wide, high: half its width and height, as sines of the angles at which they appear.
    Returns:
        ``[rows, columns]``, 0-1.
    """
    mirror = 2 * (normal @ view)[..., None] * normal - view
    right = np.cross([0, 1, 0], light)
    right = np.float32(right / np.linalg.norm(right))
    up = np.cross(light, right).astype(np.float32)
    across, along = np.abs(mirror @ right), np.abs(mirror @ up)
    return (
        (1 - smooth(0.7 * wide, 1.3 * wide, across))
        * (1 - smooth(0.8 * high, 1.1 * high, along))
        * (mirror @ light > 0)
    )


def graduations(body: Solid, hits: Hits) -> np.ndarray:
    """Bool ``[rows, columns]``: where the scale on a beaker's front is hit."""
    phi, y = np.arctan2(hits.point[..., 0], hits.point[..., 2]), hits.point[..., 1]
    out = np.zeros(phi.shape, bool)
    for i, mark in enumerate(body.marks):
        out |= (np.abs(y - mark) < 0.022) & (np.abs(phi + 0.1 * body.spout) < (0.5 if i % 2 else 0.32))
    return out & hits.hit & ((hits.normal * hits.point)[..., [0, 2]].sum(-1) > 0)


def print_on(colour: np.ndarray) -> np.ndarray:
    """The colour of print on a colour, both RGB ``[3]``, 0-1: white, or black on what is bright."""
    return np.float32([0.1 if colour @ np.float32([0.3, 0.6, 0.1]) > 0.58 else 0.95] * 3)


def cast_shadow(
    canvas: np.ndarray, sprite: Sprite, placed: Placed, lean: float, flatten: float, dark: np.ndarray
) -> None:
    """Darken the table in place: the silhouette laid down from its foot on, and the contact under it.

    Args:
        canvas: ``[height, width, 3]``, 0-1.
        lean: how far to the right the shadow of a unit of height falls. flatten: how far up.
        dark: what a full shadow leaves of the table's light, for each of RGB or for all, 0-1.
    """
    fy = placed.foot - sprite.y0
    pad = sprite.cover.shape[0]
    move = np.float32([[1, -lean, pad + lean * fy], [0, flatten, pad + (1 - flatten) * fy]])
    cover = cv2.warpAffine(np.float32(sprite.cover), move, (3 * pad, 3 * pad), flags=cv2.INTER_AREA)
    soft = 0.5 * cv2.GaussianBlur(cover, (0, 0), 0.035 * pad) + 0.5 * cv2.GaussianBlur(cover, (0, 0), 0.09 * pad)
    move = np.float32([[1, 0, pad], [0, 0.1, 1.02 * pad + 0.9 * fy]])
    contact = cv2.warpAffine(np.float32(sprite.cover), move, (3 * pad, 3 * pad))
    contact = cv2.GaussianBlur(contact, (0, 0), 0.022 * pad)
    amount = np.clip(0.62 * soft + 0.5 * contact, 0, 0.92)
    to, of = clip(sprite.x0 - pad, sprite.y0 - pad, amount, canvas)
    canvas[to] *= 1 - amount[of][..., None] * (1 - dark)


def as_sprite(placed: Placed, rgb: np.ndarray, a: np.ndarray, cover: np.ndarray) -> Sprite:
    """Samples, premultiplied RGB, opacity and cover, to a sprite; highlights may exceed 1 a little."""
    return Sprite(placed.x0, placed.y0, shrink(np.clip(rgb, 0, 1.6), SS_RAY), shrink(a, SS_RAY), shrink(cover, SS_RAY))
