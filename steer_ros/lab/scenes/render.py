"""Scenes to pixels, with exact truth: boxes, masks and visibility of every object."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .scene import Scene, SceneObject

SIDE = 336  # pixels: 24x24 patches of 14, 12x12 visual tokens

_RGB = {
    "red": (205, 42, 42),
    "green": (45, 160, 70),
    "blue": (45, 85, 210),
    "yellow": (228, 196, 45),
    "purple": (150, 65, 185),
    "cyan": (60, 195, 205),
}
SUBPIXEL = 4  # fractional bits of OpenCV's polygon coordinates


@dataclass(frozen=True)
class Truth:
    """What is true of one object in one frame.

    Attributes:
        box: visible extent ``(x0, y0, x1, y1)`` in pixels, half-open; ``None`` when nothing is visible.
        mask: bool ``[height, width]``, the visible pixels.
        visibility: visible pixels over all pixels of the object, those outside the image included, 0-1.
    """

    id: str
    colour: str
    shape: str
    box: tuple[int, int, int, int] | None
    mask: np.ndarray
    visibility: float

    @property
    def name(self) -> str:
        """Colour and shape: ``red beaker``."""
        return f"{self.colour} {self.shape}"

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the visible box, in pixels."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True)
class RenderedScene:
    """A frame: ``image`` uint8 RGB ``[height, width, 3]``, ``objects`` its truth, back to front."""

    image: np.ndarray
    objects: tuple[Truth, ...]
    scene: Scene


def ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> np.ndarray:
    """An ellipse, or its arc from ``start`` to ``stop`` degrees, as points ``[28, 2]``."""
    t = np.radians(np.linspace(start, stop, 28))
    return np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], 1)


def _parts(shape: str) -> list[tuple[np.ndarray, float]]:
    """Outline polygons of a shape in object units, each with its brightness gain; the first is the silhouette."""
    if shape == "beaker":
        body = np.array(
            [
                (-0.74, -0.84),
                (0.66, -0.84),
                (0.58, -0.66),
                (0.58, 0.76),
                (0.5, 0.84),
                (-0.5, 0.84),
                (-0.58, 0.76),
                (-0.58, -0.66),
            ]
        )
        liquid = np.array([(-0.5, -0.1), (0.5, -0.1), (0.5, 0.76), (-0.5, 0.76)])
        marks = [np.array([(0.1, y), (0.5, y), (0.5, y + 0.07), (0.1, y + 0.07)]) for y in (-0.5, -0.25, 0.15, 0.4)]
        return [(body, 1.12), (liquid, 0.82)] + [(m, 0.55) for m in marks]
    if shape == "flask":
        body = np.array(
            [
                (-0.26, -0.94),
                (0.26, -0.94),
                (0.2, -0.3),
                (0.84, 0.8),
                (0.74, 0.94),
                (-0.74, 0.94),
                (-0.84, 0.8),
                (-0.2, -0.3),
            ]
        )
        liquid = np.array([(-0.36, 0.1), (0.36, 0.1), (0.72, 0.82), (-0.72, 0.82)])
        lip = np.array([(-0.32, -0.94), (0.32, -0.94), (0.32, -0.8), (-0.32, -0.8)])
        return [(body, 1.1), (liquid, 0.8), (lip, 0.62)]
    if shape == "vial":
        body = np.concatenate([np.array([(-0.3, -1.0), (0.3, -1.0)]), ellipse(0, 0.68, 0.3, 0.32, 0, 180)])
        cap = np.array([(-0.34, -1.0), (0.34, -1.0), (0.34, -0.66), (-0.34, -0.66)])
        shine = np.array([(-0.2, -0.5), (-0.1, -0.5), (-0.1, 0.6), (-0.2, 0.6)])
        return [(body, 1.0), (cap, 0.5), (shine, 1.35)]
    if shape == "dish":
        return [
            (ellipse(0, 0, 1.0, 0.46), 0.78),
            (ellipse(0, -0.06, 0.86, 0.33), 1.22),
            (ellipse(0, 0.0, 0.62, 0.2), 1.0),
        ]
    if shape == "cube":
        front = np.array([(-0.8, -0.42), (0.42, -0.42), (0.42, 0.8), (-0.8, 0.8)])
        top = np.array([(-0.8, -0.42), (-0.42, -0.8), (0.8, -0.8), (0.42, -0.42)])
        side = np.array([(0.42, -0.42), (0.8, -0.8), (0.8, 0.42), (0.42, 0.8)])
        outline = np.array([(-0.8, -0.42), (-0.42, -0.8), (0.8, -0.8), (0.8, 0.42), (0.42, 0.8), (-0.8, 0.8)])
        return [(outline, 1.0), (front, 1.0), (top, 1.28), (side, 0.7)]
    raise ValueError(f"shape={shape!r}: no outline is known for it")


def place_points(points: np.ndarray, obj: SceneObject, scene: Scene, width: int, height: int) -> np.ndarray:
    """Object units to pixels, ``[n, 2]`` float."""
    a = np.radians(obj.angle)
    rotation = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    cx, cy = scene.camera.project(obj.x, obj.y)
    scale = obj.size * scene.camera.zoom * min(width, height)
    return points @ rotation.T * scale + np.array([cx * width, cy * height])


def fixed_points(points: np.ndarray) -> np.ndarray:
    """Pixel coordinates (pixel centres at .5) to OpenCV's fixed-point integers (pixel centres at .0)."""
    return np.round((points - 0.5) * (1 << SUBPIXEL)).astype(np.int32)


def _background(scene: Scene, rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Bench with coarse texture, float32 RGB."""
    coarse = rng.normal(0.0, 1.0, (9, 9, 1)).astype(np.float32)
    texture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None] * scene.texture
    return np.float32(scene.bench) + texture


def _light(scene: Scene, width: int, height: int) -> np.ndarray:
    """Brightness gain ``[height, width, 1]``."""
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :] * np.cos(scene.light_angle)
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * np.sin(scene.light_angle)
    return (scene.light * (1.0 + scene.light_slope * (x + y)))[..., None].astype(np.float32)


def silhouette_area(outline: np.ndarray) -> float:
    """Area of the silhouette in pixels, unclipped."""
    x, y = outline[:, 0], outline[:, 1]
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def render(scene: Scene, width: int = SIDE, height: int = SIDE, *, noise_seed: int | None = None) -> RenderedScene:
    """Draw a scene with its truth.

    Args:
        scene: what to draw; objects later in the list stand in front.
        width, height: image size in pixels, at least 28 each.
        noise_seed: seed of the sensor noise (the bench's texture follows the scene); ``None``: the scene's own.

    Raises:
        ValueError: the image is smaller than one visual token.
    """
    if width < 28 or height < 28:
        raise ValueError(f"width={width}, height={height}: an image has at least 28x28 pixels")
    canvas = _background(scene, np.random.default_rng([scene.seed, 1]), width, height)
    object_index = np.full((height, width), -1, np.int16)
    drawn = []
    for index, obj in enumerate(scene.objects):
        base = np.float32(_RGB[obj.colour]) + np.float32(obj.tone)
        parts = [(place_points(points, obj, scene, width, height), gain) for points, gain in _parts(obj.shape)]
        shadow = parts[0][0] + np.float32([0.03, 0.03]) * obj.size * 4 * min(width, height)
        _blend(canvas, shadow, None, 0.72)
        for points, gain in parts:
            _blend(canvas, points, np.clip(base * gain, 0, 255), 1.0)
        silhouette = np.zeros((height, width), np.uint8)
        for points in (parts[0][0], parts[-1][0] if obj.shape == "flask" else parts[1][0]):
            cv2.fillPoly(silhouette, [fixed_points(points)], 1, cv2.LINE_8, SUBPIXEL)
        object_index[silhouette > 0] = index
        drawn.append((obj, int(silhouette.sum()), silhouette_area(parts[0][0])))
    image = canvas * _light(scene, width, height)
    if scene.noise > 0:
        rng = np.random.default_rng([scene.seed, 2] if noise_seed is None else [noise_seed, 3])
        noise = rng.standard_normal((height, width, 3), dtype=np.float32)
        image = image + noise * scene.noise
    image = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    truths = tuple(truth_of(obj, object_index == i, inside, area) for i, (obj, inside, area) in enumerate(drawn))
    return RenderedScene(image, truths, scene)


def cover_of(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """How much of each pixel a polygon covers: float32 ``[height, width, 1]``, 0-1."""
    cover = np.zeros((height, width), np.uint8)
    cv2.fillPoly(cover, [fixed_points(points)], 255, cv2.LINE_AA, SUBPIXEL)
    return cover[..., None].astype(np.float32) / 255.0


def _blend(canvas: np.ndarray, points: np.ndarray, colour: np.ndarray | None, opacity: float) -> None:
    """Fill an anti-aliased polygon in place; without a colour it darkens what is there by ``opacity``."""
    height, width = canvas.shape[:2]
    x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
    x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 2, (width, height))
    if x0 >= x1 or y0 >= y1:
        return
    alpha = cover_of(points - (x0, y0), x1 - x0, y1 - y0)
    part = canvas[y0:y1, x0:x1]
    target = part * opacity if colour is None else np.float32(colour)
    part += alpha * (target - part)


def truth_of(obj: SceneObject, visible: np.ndarray, inside: int, area: float) -> Truth:
    count = int(visible.sum())
    if count == 0:
        return Truth(obj.id, obj.colour, obj.shape, None, visible, 0.0)
    rows, cols = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    box = (int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1)
    whole = max(float(inside), area)
    return Truth(obj.id, obj.colour, obj.shape, box, visible, min(1.0, count / whole))
