"""Clips: a bench whose objects and camera move, frame by frame, with exact truth in each frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .render import SIDE, RenderedScene, render
from .scene import Camera, make_scene

MAX_FRAMES = 100_000  # noise seeds of two clips never meet below this
_SHIFT, _ZOOM = 0.03, 0.04  # largest shift (units of the image's side) and relative zoom at camera_motion 1
_PERIOD = 48.0  # frames of the slowest sway


def make_clip(
    seed: int,
    frames: int,
    *,
    objects: int | None = None,
    speed: float = 0.006,
    camera_motion: float = 1.0,
    duplicates: float = 0.25,
    width: int = SIDE,
    height: int = SIDE,
) -> Iterator[RenderedScene]:
    """Render a clip of one scene.

    Objects drift and turn back at the borders, the camera sways and zooms smoothly, the sensor's noise is new in each
    frame. At the defaults nothing moves by more than about 4 pixels of 336 from frame to frame, which optical flow
    follows.

    Args:
        seed: everything about the clip follows from it; its scene is ``make_scene(seed, …)`` with moving objects.
        frames: how many.
        objects: how many objects, 1-8; ``None`` draws 2-6.
        speed: largest speed of an object per frame, in units of the image's side.
        camera_motion: 0 holds the camera still, 1 is the usual sway.
        duplicates: chance that the scene may hold two objects of the same colour and shape.
        width, height: image size in pixels.

    Raises:
        ValueError: a number out of range, when the first frame is asked for.
    """
    if not 1 <= frames <= MAX_FRAMES:
        raise ValueError(f"frames={frames}: a clip has 1 to {MAX_FRAMES} frames")
    if not 0 <= speed <= 0.1:
        raise ValueError(f"speed={speed}: accepted are 0 to 0.1 of the image's side per frame")
    if not 0 <= camera_motion <= 3:
        raise ValueError(f"camera_motion={camera_motion}: accepted are 0 to 3")
    scene = make_scene(seed, objects, duplicates=duplicates, speed=speed)
    sway = _sway(seed, camera_motion, scene.camera)
    for index in range(frames):
        moved = replace(scene.moved(index), camera=sway(index))
        yield render(moved, width, height, noise_seed=seed * MAX_FRAMES + index)


def _sway(seed: int, motion: float, rest: Camera):
    """The camera of each frame: sinusoids about its place of rest, at which frame 0 stands."""
    rng = np.random.default_rng([seed, 4])
    amplitude = np.array([_SHIFT, _SHIFT, _ZOOM]) * rng.uniform(0.5, 1.0, 3) * rng.choice([-1.0, 1.0], 3) * motion
    period = _PERIOD * rng.uniform(1.0, 1.8, 3)

    def camera(index: int) -> Camera:
        dx, dy, zoom = amplitude * np.sin(2 * np.pi * index / period)
        return Camera(rest.dx + float(dx), rest.dy + float(dy), rest.zoom * (1.0 + float(zoom)))

    return camera
