"""What all styles share: drawn objects (`Sprite`), scenes to draw (`Frame`), tones, noise, laying one over another.

Images are float32 RGB ``[height, width, 3]``, 0-1. Sizes in px are those of the finished image; what is drawn finer,
in samples, is brought down to px by `shrink`.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

from ..scenes.scene import SceneObject

# Degrees; the bounds of a colour stay clear of its neighbours', so that its name is never in doubt.
HUES = {
    "red": (351, 363),
    "green": (102, 140),
    "blue": (217, 231),
    "yellow": (51, 58),
    "purple": (268, 284),
    "cyan": (180, 187),
}
# Ranges of saturation and value, before a style's light and paper change them.
TONES = {
    "flat": ((0.70, 0.88), (0.84, 0.96)),
    "photo": ((0.74, 0.92), (0.66, 0.90)),
    "ink": ((0.66, 0.86), (0.66, 0.84)),
    "studio": ((0.86, 0.99), (0.80, 0.98)),
}


@dataclass(frozen=True)
class Sprite:
    """One drawn object.

    Attributes:
        x0, y0: its left upper corner in the image, px; it may lie outside.
        rgb: float32 ``[n, n, 3]``, 0-1, highlights more; already multiplied by the opacity.
        opacity: float32 ``[n, n]``, 0-1.
        cover: float32 ``[n, n]``, the part of each pixel that lies inside the silhouette, 0-1; glass covers too.
    """

    x0: int
    y0: int
    rgb: np.ndarray
    opacity: np.ndarray
    cover: np.ndarray


@dataclass(frozen=True)
class Frame:
    """What one scene's drawing needs: its random numbers, its size in px and its objects in the order of drawing."""

    rng: np.random.Generator
    width: int
    height: int
    objects: tuple[SceneObject, ...]

    def place(self, obj: SceneObject) -> tuple[float, float, float]:
        """Centre (x, y) and size of an object in px."""
        return obj.x * self.width, obj.y * self.height, obj.size * min(self.width, self.height)


def tone(rng: np.random.Generator, colour: str, style: str) -> np.ndarray:
    """Draw a tone of the colour for one object: float32 RGB ``[3]``, 0-1. KeyError: no such colour or style."""
    (s0, s1), (v0, v1) = TONES[style]
    hue, sat, val = rng.uniform(*HUES[colour]) / 360 % 1.0, rng.uniform(s0, s1), rng.uniform(v0, v1)
    # Yellow and cyan that are as dark as the others would be called olive and teal.
    val = min(1.0, val + {"yellow": 0.16, "cyan": 0.12, "blue": 0.04, "purple": -0.06}.get(colour, 0.0))
    return np.float32(colorsys.hsv_to_rgb(hue, sat * (0.85 if colour == "purple" else 1.0), val))


def deep(colour: np.ndarray, factor: float) -> np.ndarray:
    """A darker accent of a colour, float32 RGB ``[3]``, 0-1; yellow turns to amber rather than olive."""
    amber = np.clip(min(colour[0], colour[1]) - colour[2] - 0.3, 0, 0.6)
    return np.float32(colour * factor * (1 + amber * np.float32([0.5, 0.05, 0.0])))


def smooth(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth between; ``x`` in their units, of any shape."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def clouds(rng: np.random.Generator, height: int, width: int, cell_y: float, cell_x: float) -> np.ndarray:
    """Smooth noise ``[height, width]`` of about unit deviation; cells: the size of its features, in its own px."""
    rows, cols = max(2, round(height / cell_y) + 2), max(2, round(width / cell_x) + 2)
    small = rng.standard_normal((rows, cols), dtype=np.float32)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def window(cx: float, cy: float, reach: float) -> tuple[int, int, int]:
    """Left, top and side of the square of whole px that holds everything within reach of a centre; all in px."""
    return int(np.floor(cx - reach)), int(np.floor(cy - reach)), int(np.ceil(2 * reach)) + 2


def shrink(x: np.ndarray, factor: int) -> np.ndarray:
    """Samples to px: float32 means over squares of ``factor`` samples; sides must be multiples of it."""
    size = (x.shape[1] // factor, x.shape[0] // factor)
    return cv2.resize(np.float32(x), size, interpolation=cv2.INTER_AREA)


def clip(x0: int, y0: int, patch: np.ndarray, canvas: np.ndarray) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices (rows, columns) of canvas and patch where they overlap; empty where they don't. Corner in px."""
    (h, w), (height, width) = patch.shape[:2], canvas.shape[:2]
    left, top, right, low = max(x0, 0), max(y0, 0), min(x0 + w, width), min(y0 + h, height)
    right, low = max(right, left), max(low, top)
    return (slice(top, low), slice(left, right)), (slice(top - y0, low - y0), slice(left - x0, right - x0))


def lay(canvas: np.ndarray, sprite: Sprite, strength: np.ndarray | float = 1.0) -> None:
    """Lay the sprite over the canvas ``[height, width, 3]`` in place; strength: 0-1, one or one for each of its px."""
    to, of = clip(sprite.x0, sprite.y0, sprite.cover, canvas)
    s = strength[of][..., None] if isinstance(strength, np.ndarray) else strength
    canvas[to] = canvas[to] * (1 - s * sprite.opacity[of][..., None]) + s * sprite.rgb[of]
