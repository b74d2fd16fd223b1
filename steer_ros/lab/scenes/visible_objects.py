"""The visible objects of a frame, by name and place: what phrases, questions and judges are all built on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .render import RenderedScene, Truth

VISIBLE = 0.3  # an object counts as in the scene when at least this share of it is visible


PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")


@dataclass(frozen=True)
class VisibleObject:
    """One visible object of a frame; ``box`` is ``(x0, y0, x1, y1)`` in 0-1 of the image's width and height."""

    id: str
    colour: str
    shape: str
    box: tuple[float, float, float, float]

    @property
    def name(self) -> str:
        """Colour and shape: ``red beaker``."""
        return f"{self.colour} {self.shape}"

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box, 0-1."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2

    @property
    def place(self) -> str:
        """One of `PLACES`, by the third of the image that the centre lies in."""
        x, y = self.centre
        return PLACES[3 * min(2, int(y * 3)) + min(2, int(x * 3))]


def visible_objects_of(frame: RenderedScene) -> tuple[VisibleObject, ...]:
    """The objects of a frame that are visible enough to be spoken of."""
    height, width = frame.image.shape[:2]
    return visible_objects_from(frame.objects, width, height)


def visible_objects_from(objects: Sequence[Truth], width: int, height: int) -> tuple[VisibleObject, ...]:
    """The same from the truth of a frame of ``width x height`` pixels."""
    return tuple(
        VisibleObject(
            o.id, o.colour, o.shape, (o.box[0] / width, o.box[1] / height, o.box[2] / width, o.box[3] / height)
        )
        for o in objects
        if o.box is not None and o.visibility >= VISIBLE
    )


def matching(
    objects: Sequence[VisibleObject], colour: str | None = None, shape: str | None = None
) -> list[VisibleObject]:
    """The objects of that colour and shape (``None`` matches any), from left to right."""
    found = [o for o in objects if colour in (None, o.colour) and shape in (None, o.shape)]
    return sorted(found, key=lambda o: o.centre[0])
