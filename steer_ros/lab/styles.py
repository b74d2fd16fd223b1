"""The same scenes in styles drawn at random: what keeps lab-vl's tower from knowing the plain bench alone.

A style changes all that a name does not depend on: tones, outlines, shading, strokes, background, light and imaging.
It is domain randomisation (Tobin et al. 2017, arXiv 1703.06907); none is meant to look like anything.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from .render import SIDE, RenderedScene, fixed_points, place_points, silhouette_area, truth_of
from .scene import EXTENTS, Scene, SceneObject

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

Polygon = np.ndarray  # [n, 2], object units


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
    owner = np.full((height, width), -1, np.int16)
    drawn = []
    for index, obj in enumerate(scene.objects):
        outline, parts = _shape(obj.shape, rng)
        placed = place_points(outline, obj, scene, width, height)
        _shadow(canvas, placed, look, obj.size * min(width, height))
        silhouette = _object(canvas, placed, parts, obj, scene, look, rng)
        owner[silhouette > 0] = index
        drawn.append((obj, int(silhouette.sum()), silhouette_area(placed)))
    image = _imaging(canvas, rng)
    truths = tuple(truth_of(obj, owner == i, inside, area) for i, (obj, inside, area) in enumerate(drawn))
    return RenderedScene(image, truths, scene)


def _maybe(rng: np.random.Generator, chance: float, low: float, high: float, otherwise: float = 0.0) -> float:
    value = float(rng.uniform(low, high))
    return value if rng.random() < chance else otherwise


def _draw_look(rng: np.random.Generator) -> _Look:
    return _Look(
        chroma=float(rng.uniform(0, 1)),
        brightness=float(rng.uniform(0, 1)),
        parts=_maybe(rng, 0.75, 0.05, 0.45),
        round=_maybe(rng, 0.45, 0.1, 0.7),
        slope=(_maybe(rng, 0.5, -0.4, 0.4), _maybe(rng, 0.5, -0.4, 0.4)),
        rim=_maybe(rng, 0.4, -0.5, 0.8),
        opacity=_maybe(rng, 0.3, 0.65, 0.97, 1.0),
        stroke=_maybe(rng, 0.4, 0.6, 3.2),
        ink=float(rng.choice([0.0, 0.0, 0.15, 0.5, 0.7, 1.0])),
        shine=_maybe(rng, 0.5, 0.2, 1.0),
        blotch=_maybe(rng, 0.3, 4.0, 28.0),
        shadow=_maybe(rng, 0.65, 0.1, 0.65),
        spread=float(rng.uniform(0.5, 9.0)),
        fall=(float(rng.uniform(-0.3, 0.3)), float(rng.uniform(-0.05, 0.35))),
    )


# --- outlines ---------------------------------------------------------------------------------------------------


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float, points: int = 20) -> Polygon:
    t = np.radians(np.linspace(start, stop, points))
    return np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], 1)


def _box(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _beaker(rng: np.random.Generator) -> tuple[Polygon, list[tuple[Polygon, float]]]:
    wall, taper, corner = rng.uniform(0.5, 0.64), rng.uniform(-0.06, 0.06), rng.uniform(0.02, 0.2)
    top = _maybe(rng, 0.5, 0.04, 0.16)  # half height of an opening seen from above
    lip = rng.uniform(0.0, 0.14)
    bottom = np.concatenate(
        [
            _arc(wall + taper - corner, 0.84 - corner, corner, corner, 0, 90, 6),
            _arc(-wall - taper + corner, 0.84 - corner, corner, corner, 90, 180, 6),
        ]
    )
    left = [(-wall, -0.84 + top + 0.16), (-wall - lip * float(rng.random() < 0.7), -0.84 + top)]
    right = [(wall + lip * float(rng.random() < 0.7), -0.84 + top), (wall, -0.84 + top + 0.16)]
    over = _arc(0, -0.84 + top, wall, top, 180, 360) if top else np.empty((0, 2))
    outline = np.concatenate([bottom, np.array(left), over, np.array(right)])
    parts = []
    level = rng.uniform(-0.55, 0.5)
    if rng.random() < 0.75:
        parts.append((_box(-wall * 0.92, level, wall * 0.92, 0.78), rng.normal()))
    if top:
        parts.append((_arc(0, -0.84 + top, wall * 0.95, top * 0.9, 0, 360), rng.normal()))
    if rng.random() < 0.6:
        thick, x0 = rng.uniform(0.03, 0.09), rng.choice([-0.5, -0.2, 0.1])
        for y in np.linspace(-0.5, 0.55, int(rng.integers(2, 7))):
            parts.append((_box(x0, y, x0 + rng.uniform(0.2, 0.5), y + thick), -1.6))
    return outline, parts


def _flask(rng: np.random.Generator) -> tuple[Polygon, list[tuple[Polygon, float]]]:
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
            [np.array([(lip, -0.94), (lip, -0.86), (neck, -0.82)]), _arc(0, middle, 0.8, 0.94 - middle, -75, 90)]
        )
    outline = np.concatenate([half, half[::-1] * (-1.0, 1.0)])
    if rng.random() < 0.8:
        level = rng.uniform(-0.1, 0.55)
        wide = np.interp(level, half[:, 1], half[:, 0]) * 0.9
        parts.append((np.array([(-wide, level), (wide, level), (0.72, 0.86), (-0.72, 0.86)]), rng.normal()))
    if rng.random() < 0.6:
        parts.append((_box(-lip, -0.94, lip, -0.94 + rng.uniform(0.06, 0.2)), rng.normal() - 0.8))
    return outline, parts


def _vial(rng: np.random.Generator) -> tuple[Polygon, list[tuple[Polygon, float]]]:
    wide, cap, high = rng.uniform(0.26, 0.34), rng.uniform(0.2, 0.34), rng.uniform(0.2, 0.44)
    end = rng.uniform(0.02, 0.32)
    neck = rng.uniform(0.6, 1.0) * wide
    body = np.concatenate(
        [
            np.array([(-wide, -1 + high + 0.12), (-neck, -1 + high), (neck, -1 + high), (wide, -1 + high + 0.12)]),
            _arc(0, 1 - end, wide, end, 0, 180),
        ]
    )
    outline = np.concatenate(
        [np.array([(-cap, -1 + high), (-cap, -1.0), (cap, -1.0), (cap, -1 + high)]), body[2:], body[:2]]
    )
    parts = [(_box(-cap, -1.0, cap, -1 + high), float(rng.choice([-2.0, -1.2, -0.6, 0.8])))]
    if rng.random() < 0.4:
        parts.append((_box(-wide * 0.9, rng.uniform(-0.4, 0.4), wide * 0.9, 0.95 - end), rng.normal()))
    return outline, parts


def _dish(rng: np.random.Generator) -> tuple[Polygon, list[tuple[Polygon, float]]]:
    wall = _maybe(rng, 0.6, 0.05, 0.22)
    flat = (0.92 - wall) / 2 * rng.uniform(0.8, 1.0)
    upper = -flat - wall / 2 + flat
    outline = np.concatenate([_arc(0, upper, 1.0, flat, 180, 360), _arc(0, upper + wall, 1.0, flat, 0, 180)])
    inner = rng.uniform(0.7, 0.95)
    parts = [(_arc(0, upper, inner, flat * inner, 0, 360), rng.normal())]
    if rng.random() < 0.6:
        deep = inner * rng.uniform(0.6, 0.9)
        parts.append((_arc(0, upper + rng.uniform(0, 0.05), deep, flat * deep, 0, 360), rng.normal()))
    return outline, parts


def _cube(rng: np.random.Generator) -> tuple[Polygon, list[tuple[Polygon, float]]]:
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


def _shape(shape: str, rng: np.random.Generator) -> tuple[Polygon, list[tuple[Polygon, float]]]:
    """An outline and parts (with gains in units of the look's spread), about as large as on the plain bench."""
    outline, parts = _SHAPES[shape](rng)
    if rng.random() < 0.5:
        outline, parts = outline * (-1.0, 1.0), [(p * (-1.0, 1.0), g) for p, g in parts]
    low, high = outline.min(0), outline.max(0)
    scale = 2 * np.array(EXTENTS[shape]) / (high - low) * rng.uniform(0.9, 1.1, 2)
    return (outline - (low + high) / 2) * scale, [((p - (low + high) / 2) * scale, g) for p, g in parts]


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
        cover = cv2.GaussianBlur(_cover(fallen - (x0, y0), x1 - x0, y1 - y0), (0, 0), look.spread)
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
    cv2.fillPoly(silhouette, [fixed_points(outline)], 1, cv2.LINE_8, 4)
    x0, y0 = np.maximum(np.floor(outline.min(0)).astype(int) - 4, 0)
    x1, y1 = np.minimum(np.ceil(outline.max(0)).astype(int) + 5, (width, height))
    if x0 >= x1 or y0 >= y1:
        return silhouette
    w, h, corner = x1 - x0, y1 - y0, np.array([x0, y0])
    base = _colour(obj.colour, look, rng)
    paint = np.empty((h, w, 3), np.float32)
    paint[:] = base
    for points, gain in parts:
        cover = _cover(place_points(points, obj, scene, width, height) - corner, w, h)
        paint += cover * (np.clip(base * (1.0 + look.parts * gain), 0, 255) - paint)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    middle = np.float32((outline.min(0) + outline.max(0)) / 2 - corner)
    half = np.float32((outline.max(0) - outline.min(0)) / 2)
    across, down = (x - middle[0]) / half[0], (y - middle[1]) / half[1]
    gain = 1.0 + look.slope[0] * across + look.slope[1] * down
    gain *= 1.0 - look.round * np.clip(np.abs(across), 0, 1) ** 2
    cover = _cover(outline - corner, w, h)
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


def _cover(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Anti-aliased cover of a polygon, float32 ``[height, width, 1]``."""
    cover = np.zeros((height, width), np.uint8)
    cv2.fillPoly(cover, [fixed_points(points)], 255, cv2.LINE_AA, 4)
    return cover[..., None].astype(np.float32) / 255.0


def _stroke(outlines: list[np.ndarray], corner: np.ndarray, width: int, height: int, look: _Look) -> np.ndarray:
    line = np.zeros((height, width), np.uint8)
    thick = max(1, round(look.stroke))
    cv2.polylines(line, [fixed_points(points - corner) for points in outlines], True, 255, thick, cv2.LINE_AA, 4)
    return line[..., None].astype(np.float32) * (min(1.0, look.stroke) / 255.0)


# --- background and imaging -------------------------------------------------------------------------------------


def _tint(rng: np.random.Generator) -> np.ndarray:
    """A colour of a background: mostly grey, from black to white, now and then coloured but pale."""
    value = rng.uniform(0.05, 1.0)
    saturation = _maybe(rng, 0.6, 0.02, 0.4)
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
    light *= 1 - _maybe(rng, 0.4, 0.1, 1.0) * (x**2 + y**2)
    image = canvas * np.float32(light[..., None] * np.float32(rng.uniform(0.92, 1.08, 3)))
    saturation = rng.uniform(0.75, 1.25)
    grey = (image @ np.float32(_GREY))[..., None]
    image = np.clip(grey + saturation * (image - grey), 0, 255)
    gamma = math.exp(rng.uniform(-0.35, 0.35))
    image = 255 * (image / 255) ** gamma
    blur = _maybe(rng, 0.45, 0.3, 1.5)
    if blur:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    if rng.random() < 0.15:
        image = image + rng.uniform(0.3, 1.0) * (image - cv2.GaussianBlur(image, (0, 0), 1.5))
    noise = _maybe(rng, 0.7, 0.0, 14.0)
    if noise:
        image = image + rng.standard_normal(image.shape, dtype=np.float32) * noise
    image = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(20, 95))
        _, code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.ascontiguousarray(cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1])
    return image
