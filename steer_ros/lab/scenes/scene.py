"""Bench scenes: which objects stand where, under which light. Seeded, and independent of pixels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

SHAPES = ("beaker", "flask", "vial", "dish", "cube")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")

# Half extents (x, y) of each shape's outline in units of the object's size.
EXTENTS = {
    "beaker": (0.74, 0.84),
    "flask": (0.84, 0.94),
    "vial": (0.34, 1.0),
    "dish": (1.0, 0.46),
    "cube": (0.80, 0.80),
}


@dataclass(frozen=True)
class SceneObject:
    """One object on the bench. Positions and sizes are in units of the image's side."""

    id: str
    colour: str
    shape: str
    x: float
    y: float
    size: float
    angle: float = 0.0  # degrees, clockwise
    tone: tuple[float, float, float] = (0.0, 0.0, 0.0)  # added to the colour's RGB, 0-255
    velocity: tuple[float, float] = (0.0, 0.0)  # per frame

    @property
    def name(self) -> str:
        """Colour and shape, as the instructions say it: ``red beaker``."""
        return f"{self.colour} {self.shape}"

    @property
    def extent(self) -> tuple[float, float]:
        """Half width and half height before rotation."""
        ex, ey = EXTENTS[self.shape]
        return ex * self.size, ey * self.size


@dataclass(frozen=True)
class Camera:
    """Shift (units of the image's side) and zoom about the image's centre."""

    dx: float = 0.0
    dy: float = 0.0
    zoom: float = 1.0

    def project(self, x: float, y: float) -> tuple[float, float]:
        """World position to image position."""
        return 0.5 + (x - 0.5 - self.dx) * self.zoom, 0.5 + (y - 0.5 - self.dy) * self.zoom


@dataclass(frozen=True)
class Scene:
    """Objects from back to front, with light, background and camera."""

    seed: int
    objects: tuple[SceneObject, ...]
    camera: Camera = field(default_factory=Camera)
    light: float = 1.0  # gain
    light_angle: float = 0.0  # radians, direction of the brightness gradient
    light_slope: float = 0.0  # relative change across the image
    noise: float = 4.0  # standard deviation, 0-255
    bench: tuple[float, float, float] = (150.0, 145.0, 140.0)  # RGB
    texture: float = 6.0  # amplitude of the bench's texture, 0-255

    def moved(self, frame: int) -> Scene:
        """The scene ``frame`` frames later: objects follow their velocities and turn back at the borders."""
        moved = tuple(
            replace(o, x=_bounce(o.x, o.velocity[0] * frame, o), y=_bounce(o.y, o.velocity[1] * frame, o))
            for o in self.objects
        )
        return replace(self, objects=moved)


def _bounce(start: float, travel: float, obj: SceneObject) -> float:
    """Reflect ``start + travel`` into the part of the image where the whole object fits."""
    margin = obj.size
    low, span = margin, 1.0 - 2.0 * margin
    phase = (start - low + travel) % (2.0 * span)
    return low + (phase if phase <= span else 2.0 * span - phase)


def _overlap(a: SceneObject, b: SceneObject) -> float:
    """Overlap of the two objects' boxes as a share of the smaller box."""
    (aw, ah), (bw, bh) = a.extent, b.extent
    w = min(a.x + aw, b.x + bw) - max(a.x - aw, b.x - bw)
    h = min(a.y + ah, b.y + bh) - max(a.y - ah, b.y - bh)
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / (4.0 * min(aw * ah, bw * bh))


def make_scene(
    seed: int,
    objects: int | None = None,
    *,
    duplicates: float = 0.25,
    overlap: float = 0.3,
    size: tuple[float, float] = (0.085, 0.145),
    speed: float = 0.0,
) -> Scene:
    """Draw a scene.

    Args:
        seed: everything about the scene follows from it.
        objects: how many, 1-8; ``None`` draws 2-6.
        duplicates: chance that the scene may hold two objects of the same colour and shape.
        overlap: the largest share of a box that another box may cover.
        size: range of object sizes, in units of the image's side.
        speed: largest speed of an object per frame, in units of the image's side.

    Raises:
        ValueError: ``objects`` out of range.
    """
    if objects is not None and not 1 <= objects <= 8:
        raise ValueError(f"objects={objects}: a bench holds 1 to 8 objects")
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 7)) if objects is None else objects
    allow_duplicates = rng.random() < duplicates
    placed: list[SceneObject] = []
    while len(placed) < count:
        candidate = _draw_object(rng, len(placed), placed, allow_duplicates, size, speed)
        for _ in range(40):
            if all(_overlap(candidate, other) <= overlap for other in placed):
                break
            x, y = rng.uniform(candidate.size + 0.01, 0.99 - candidate.size, 2)
            candidate = replace(candidate, x=float(x), y=float(y))
        else:  # no room at this size: start over with what the generator gives next
            placed = placed[: max(0, len(placed) - 1)]
            continue
        placed.append(candidate)
    placed = [replace(o, id=f"object_{i + 1}") for i, o in enumerate(placed)]
    grey = rng.uniform(70, 205)
    return Scene(
        seed=seed,
        objects=tuple(placed),
        camera=Camera(*rng.uniform(-0.01, 0.01, 2), float(rng.uniform(0.96, 1.04))),
        light=float(rng.uniform(0.75, 1.15)),
        light_angle=float(rng.uniform(0, 2 * np.pi)),
        light_slope=float(rng.uniform(0.0, 0.35)),
        noise=float(rng.uniform(0.0, 8.0)),
        bench=tuple(float(np.clip(grey + t, 40, 225)) for t in rng.uniform(-18, 18, 3)),
        texture=float(rng.uniform(0.0, 12.0)),
    )


def _draw_object(
    rng: np.random.Generator,
    index: int,
    placed: list[SceneObject],
    allow_duplicates: bool,
    size: tuple[float, float],
    speed: float,
) -> SceneObject:
    taken = {o.name for o in placed}
    while True:
        colour, shape = str(rng.choice(COLOURS)), str(rng.choice(SHAPES))
        if allow_duplicates and placed and rng.random() < 0.4:
            duplicate = placed[int(rng.integers(len(placed)))]
            colour, shape = duplicate.colour, duplicate.shape
        if allow_duplicates or f"{colour} {shape}" not in taken:
            break
    half = float(rng.uniform(*size))
    x, y = rng.uniform(half + 0.01, 0.99 - half, 2)
    heading, pace = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.0) * speed
    return SceneObject(
        id=f"object_{index + 1}",
        colour=colour,
        shape=shape,
        x=float(x),
        y=float(y),
        size=half,
        angle=float(rng.uniform(-12, 12)),
        tone=tuple(float(t) for t in rng.uniform(-18, 18, 3)),
        velocity=(float(pace * np.cos(heading)), float(pace * np.sin(heading))),
    )
