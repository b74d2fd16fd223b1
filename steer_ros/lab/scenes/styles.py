"""The same scenes in styles drawn at random: what keeps lab-vl's tower from knowing the plain bench alone.

A style changes all that a name does not depend on: tones, outlines, shading, strokes, background, light and imaging.
It is domain randomisation (Tobin et al. 2017, arXiv 1703.06907); none is meant to look like anything.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import cv2
import numpy as np

from .outlines import Polygon, draw_outline, maybe
from .render import SIDE, SUBPIXEL, RenderedScene, cover_of, fixed_points, place_points, silhouette_area, truth_of
from .scene import Scene, SceneObject

# Hue in degrees, least saturation and least value of what is still called by the name.
_HUES = {
    "red": (-10.0, 9.0, 0.6, 0.5),
    "green": (92.0, 152.0, 0.4, 0.32),
    "blue": (206.0, 240.0, 0.5, 0.4),
    "yellow": (45.0, 59.0, 0.5, 0.75),
    "purple": (266.0, 302.0, 0.4, 0.4),
    "cyan": (174.0, 194.0, 0.45, 0.6),
}
_GREY = (0.3, 0.59, 0.11)


@dataclass(frozen=True)
class _Look:
    """How one style draws every object of a frame."""

    chroma: float  # 0-1: between the least saturation of a colour and full
    brightness: float  # likewise of value
    parts: float  # spread of the parts' brightness gains; 0: flat
    round: float  # darkening towards the left and right edges, as a cylinder has
    slope: tuple[float, float]  # brightness across the object, x and y
    rim: float  # gain at the very edge: above 0 lighter, below 0 darker
    opacity: float
    stroke: float  # pixels of outline; 0: none
    ink: float  # brightness of the outline: 0 black, 1 white; in between the object's own colour
    shine: float  # strength of highlights
    blotch: float  # amplitude of uneven filling
    shadow: float  # darkness of shadows
    spread: float  # softness of shadows, pixels
    fall: tuple[float, float]  # where shadows fall, object units


def render_styled(scene: Scene, seed: int, width: int = SIDE, height: int = SIDE) -> RenderedScene:
    """Draw a scene in the style of that seed, with its truth. The scene's own light, noise and bench are not used."""
    rng = np.random.default_rng([seed, 7])
    look = _draw_look(rng)
    canvas = _background(rng, width, height)
    object_index = np.full((height, width), -1, np.int16)
    drawn = []
    for index, obj in enumerate(scene.objects):
        outline, parts = draw_outline(obj.shape, rng)
        placed = place_points(outline, obj, scene, width, height)
        _shadow(canvas, placed, look, obj.size * min(width, height))
        silhouette = _object(canvas, placed, parts, obj, scene, look, rng)
        object_index[silhouette > 0] = index
        drawn.append((obj, int(silhouette.sum()), silhouette_area(placed)))
    image = _imaging(canvas, rng)
    truths = tuple(truth_of(obj, object_index == i, inside, area) for i, (obj, inside, area) in enumerate(drawn))
    return RenderedScene(image, truths, scene)


def _draw_look(rng: np.random.Generator) -> _Look:
    return _Look(
        chroma=float(rng.uniform(0, 1)),
        brightness=float(rng.uniform(0, 1)),
        parts=maybe(rng, 0.75, 0.05, 0.45),
        round=maybe(rng, 0.45, 0.1, 0.7),
        slope=(maybe(rng, 0.5, -0.4, 0.4), maybe(rng, 0.5, -0.4, 0.4)),
        rim=maybe(rng, 0.4, -0.5, 0.8),
        opacity=maybe(rng, 0.3, 0.65, 0.97, 1.0),
        stroke=maybe(rng, 0.4, 0.6, 3.2),
        ink=float(rng.choice([0.0, 0.0, 0.15, 0.5, 0.7, 1.0])),
        shine=maybe(rng, 0.5, 0.2, 1.0),
        blotch=maybe(rng, 0.3, 4.0, 28.0),
        shadow=maybe(rng, 0.65, 0.1, 0.65),
        spread=float(rng.uniform(0.5, 9.0)),
        fall=(float(rng.uniform(-0.3, 0.3)), float(rng.uniform(-0.05, 0.35))),
    )


# --- objects ----------------------------------------------------------------------------------------------------


def _colour(name: str, look: _Look, rng: np.random.Generator) -> np.ndarray:
    low, high, saturation, value = _HUES[name]
    chroma, bright = np.clip(rng.normal((look.chroma, look.brightness), 0.12), 0, 1)
    hue = rng.uniform(low, high) % 360 / 360
    return 255 * np.array(
        colorsys.hsv_to_rgb(hue, saturation + (1 - saturation) * chroma, value + (1 - value) * bright), np.float32
    )


def _smooth(rng: np.random.Generator, width: int, height: int, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise of unit spread ``[height, width, 1]``, ``cells`` bumps down and across."""
    coarse = rng.standard_normal((cells[0] + 1, cells[1] + 1), dtype=np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]


def _shadow(canvas: np.ndarray, outline: np.ndarray, look: _Look, scale: float) -> None:
    if not look.shadow:
        return
    height, width = canvas.shape[:2]
    fallen = outline + np.array(look.fall) * scale
    margin = int(3 * look.spread) + 2
    x0, y0 = np.maximum(np.floor(fallen.min(0)).astype(int) - margin, 0)
    x1, y1 = np.minimum(np.ceil(fallen.max(0)).astype(int) + margin, (width, height))
    if x0 < x1 and y0 < y1:
        cover = cv2.GaussianBlur(cover_of(fallen - (x0, y0), x1 - x0, y1 - y0), (0, 0), look.spread)
        canvas[y0:y1, x0:x1] *= 1.0 - look.shadow * cover[..., None]


def _object(
    canvas: np.ndarray,
    outline: np.ndarray,
    parts: list[tuple[Polygon, float]],
    obj: SceneObject,
    scene: Scene,
    look: _Look,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw one object in place; returns its silhouette, uint8 ``[height, width]``."""
    height, width = canvas.shape[:2]
    silhouette = np.zeros((height, width), np.uint8)
    cv2.fillPoly(silhouette, [fixed_points(outline)], 1, cv2.LINE_8, SUBPIXEL)
    x0, y0 = np.maximum(np.floor(outline.min(0)).astype(int) - 4, 0)
    x1, y1 = np.minimum(np.ceil(outline.max(0)).astype(int) + 5, (width, height))
    if x0 >= x1 or y0 >= y1:
        return silhouette
    w, h, corner = x1 - x0, y1 - y0, np.array([x0, y0])
    base = _colour(obj.colour, look, rng)
    paint = np.empty((h, w, 3), np.float32)
    paint[:] = base
    for points, gain in parts:
        cover = cover_of(place_points(points, obj, scene, width, height) - corner, w, h)
        paint += cover * (np.clip(base * (1.0 + look.parts * gain), 0, 255) - paint)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    middle = np.float32((outline.min(0) + outline.max(0)) / 2 - corner)
    half = np.float32((outline.max(0) - outline.min(0)) / 2)
    across, down = (x - middle[0]) / half[0], (y - middle[1]) / half[1]
    gain = 1.0 + look.slope[0] * across + look.slope[1] * down
    gain *= 1.0 - look.round * np.clip(np.abs(across), 0, 1) ** 2
    cover = cover_of(outline - corner, w, h)
    if look.rim:
        depth = cv2.distanceTransform((cover[..., 0] > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
        gain *= 1.0 + look.rim * np.exp(-depth / 3.0)
    paint *= np.clip(gain, 0.25, 1.8)[..., None]
    if look.blotch:
        paint += _smooth(rng, w, h, (4, 4)) * look.blotch
    if look.shine and rng.random() < 0.8:
        at = middle + half * np.float32(rng.uniform(-0.5, 0.3, 2))
        spot = np.exp(
            -(((x - at[0]) / (half[0] * rng.uniform(0.06, 0.3))) ** 2)
            - ((y - at[1]) / (half[1] * rng.uniform(0.06, 0.6))) ** 2
        )
        paint += look.shine * spot[..., None] * (255.0 - paint)
    part = canvas[y0:y1, x0:x1]
    part += cover * look.opacity * (np.clip(paint, 0, 255) - part)
    if look.stroke:
        line = _stroke(
            [outline, *(place_points(p, obj, scene, width, height) for p, _ in parts[:3])], corner, w, h, look
        )
        ink = base * (look.ink * 2) if look.ink < 0.5 else base + (255 - base) * (look.ink * 2 - 1)
        part += line * (np.clip(ink, 0, 255) - part)
    return silhouette


def _stroke(outlines: list[np.ndarray], corner: np.ndarray, width: int, height: int, look: _Look) -> np.ndarray:
    line = np.zeros((height, width), np.uint8)
    thick = max(1, round(look.stroke))
    cv2.polylines(
        line, [fixed_points(points - corner) for points in outlines], True, 255, thick, cv2.LINE_AA, SUBPIXEL
    )
    return line[..., None].astype(np.float32) * (min(1.0, look.stroke) / 255.0)


# --- background and imaging -------------------------------------------------------------------------------------


def _tint(rng: np.random.Generator) -> np.ndarray:
    """A colour of a background: mostly grey, from black to white, now and then coloured but pale."""
    value = rng.uniform(0.05, 1.0)
    saturation = maybe(rng, 0.6, 0.02, 0.4)
    return 255 * np.array(colorsys.hsv_to_rgb(rng.random(), saturation, value), np.float32)


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Float32 RGB ``[height, width, 3]``: one or two tints in some arrangement, texture, and grey clutter."""
    first = _tint(rng)
    second = _tint(rng) if rng.random() < 0.4 else np.clip(first * rng.uniform(0.6, 1.4), 0, 255)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / min(width, height)
    turn = rng.uniform(0, np.pi)
    along = x * math.cos(turn) + y * math.sin(turn)
    kind = rng.choice(["plain", "linear", "radial", "stripes", "tiles", "horizon", "cloud"])
    if kind == "plain":
        mix = np.zeros_like(x)
    elif kind == "linear":
        mix = np.clip((along - along.min()) / (along.max() - along.min()), 0, 1)
    elif kind == "radial":
        mix = np.clip(np.hypot(x - rng.uniform(0, 1), y - rng.uniform(0, 1)), 0, 1)
    elif kind == "stripes":
        mix = (np.sin(along * rng.uniform(8, 70)) > rng.uniform(-0.9, 0.9)).astype(np.float32)
    elif kind == "tiles":
        period, gap = rng.uniform(0.08, 0.4), rng.uniform(0.02, 0.12)
        mix = ((x % period < gap * period) | (y % period < gap * period)).astype(np.float32)
    elif kind == "horizon":
        mix = np.clip((y - rng.uniform(0.1, 0.6)) * rng.choice([8.0, 200.0]), 0, 1)
    else:
        mix = np.clip(0.5 + 0.5 * _smooth(rng, width, height, (int(rng.integers(3, 12)),) * 2)[..., 0], 0, 1)
    canvas = first + (second - first) * mix[..., None].astype(np.float32)
    if rng.random() < 0.7:  # texture: even, or drawn out to a grain
        cells = rng.integers(4, 60, 2) if rng.random() < 0.5 else rng.permutation([int(rng.integers(2, 6)), 120])
        canvas += _smooth(rng, width, height, tuple(int(c) for c in cells)) * rng.uniform(1, 16)
    for _ in range(int(rng.integers(1, 7)) if rng.random() < 0.3 else 0):
        _clutter(canvas, rng)
    return np.ascontiguousarray(np.clip(canvas, 0, 255), np.float32)


def _clutter(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Something grey that has no name."""
    height, width = canvas.shape[:2]
    grey = tuple(float(c) for c in np.clip(rng.uniform(0, 255) + rng.normal(0, 6, 3), 0, 255))
    points = rng.uniform(-0.1, 1.1, 2) + rng.normal(0, 0.08, (int(rng.integers(2, 6)), 2))
    pixels = (points * (width, height)).astype(np.int32)
    if rng.random() < 0.6:
        cv2.polylines(canvas, [pixels], False, grey, int(rng.integers(1, 5)), cv2.LINE_AA)
    else:
        cv2.fillConvexPoly(canvas, cv2.convexHull(pixels), grey, cv2.LINE_AA)


def _imaging(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light and camera: float32 RGB to uint8."""
    height, width = canvas.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / width - 0.5, y / height - 0.5
    turn = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(0.75, 1.15) * (1 + rng.uniform(0, 0.5) * (x * math.cos(turn) + y * math.sin(turn)))
    light *= 1 - maybe(rng, 0.4, 0.1, 1.0) * (x**2 + y**2)
    image = canvas * np.float32(light[..., None] * np.float32(rng.uniform(0.92, 1.08, 3)))
    saturation = rng.uniform(0.75, 1.25)
    grey = (image @ np.float32(_GREY))[..., None]
    image = np.clip(grey + saturation * (image - grey), 0, 255)
    gamma = math.exp(rng.uniform(-0.35, 0.35))
    image = 255 * (image / 255) ** gamma
    blur = maybe(rng, 0.45, 0.3, 1.5)
    if blur:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    if rng.random() < 0.15:
        image = image + rng.uniform(0.3, 1.0) * (image - cv2.GaussianBlur(image, (0, 0), 1.5))
    noise = maybe(rng, 0.7, 0.0, 14.0)
    if noise:
        image = image + rng.standard_normal(image.shape, dtype=np.float32) * noise
    image = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(20, 95))
        _, code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.ascontiguousarray(cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1])
    return image
