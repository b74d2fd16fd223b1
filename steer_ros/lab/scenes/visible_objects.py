"""What can be said of a frame: the visible objects, by name and place. Phrases, questions and judges all read this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .render import RenderedScene, Truth

VISIBLE = 0.3  # an object counts as in the scene when at least this share of it is visible


PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")


@dataclass(frozen=True)
class Fact:
    """A visible object; ``box`` is ``(x0, y0, x1, y1)`` in 0-1 of the image's width and height."""

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


def facts_of(frame: RenderedScene) -> tuple[Fact, ...]:
    """The objects of a frame that are visible enough to be spoken of."""
    height, width = frame.image.shape[:2]
    return facts_from(frame.objects, width, height)


def facts_from(objects: Sequence[Truth], width: int, height: int) -> tuple[Fact, ...]:
    """The same from the truth of a frame of ``width x height`` pixels."""
    return tuple(
        Fact(o.id, o.colour, o.shape, (o.box[0] / width, o.box[1] / height, o.box[2] / width, o.box[3] / height))
        for o in objects
        if o.box is not None and o.visibility >= VISIBLE
    )


def matching(facts: Sequence[Fact], colour: str | None = None, shape: str | None = None) -> list[Fact]:
    """The facts of that colour and shape (``None`` matches any), from left to right."""
    found = [f for f in facts if colour in (None, f.colour) and shape in (None, f.shape)]
    return sorted(found, key=lambda f: f.centre[0])
