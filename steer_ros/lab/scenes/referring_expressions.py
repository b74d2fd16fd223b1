"""Referring phrases for the objects of a frame, and the grounding dialogue that lab-vl learns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .scene import COLOURS, SHAPES
from .visible_objects import VisibleObject, matching

# Things that are never on the bench, so that the models learn to say no to words as well as to combinations.
ABSENT_NOUNS = (
    "person", "hand", "phone", "hammer", "cup", "robot", "pen", "book", "plate", "screw",
    "lamp", "battery", "wrench", "glove", "keyboard", "spoon", "camera", "cable", "towel", "apple",
)  # fmt: skip
REQUESTS = ("Find the {}.", "Locate the {}.", "Detect the bounding box of the {}.", "Where is the {}?")
NOTHING = "none"


def referring_phrase(target: VisibleObject, objects: Sequence[VisibleObject]) -> str:
    """The shortest phrase that means ``target`` alone: ``red beaker``, or ``red beaker on the left`` of two.

    Raises:
        ValueError: no place word tells it from its duplicates.
    """
    same = matching(objects, target.colour, target.shape)
    if len(same) == 1:
        return target.name
    xs, ys = zip(*(o.centre for o in same if o.id != target.id))
    x, y = target.centre
    for apart, word in (
        (min(xs) - x, "left"),
        (x - max(xs), "right"),
        (min(ys) - y, "top"),
        (y - max(ys), "bottom"),
    ):
        if apart > 0.05:
            return f"{target.name} {'on' if word in ('left', 'right') else 'at'} the {word}"
    raise ValueError(f"object {target.id!r} ({target.name}): no place word tells it from its duplicates")


def grounding_query(rng: np.random.Generator, objects: Sequence[VisibleObject]) -> tuple[str, list[VisibleObject]]:
    """A noun phrase to look for and the objects it means: by name, by colour, by shape, or one that is not there."""
    target = objects[int(rng.integers(len(objects)))]
    draw = rng.random()
    if draw < 0.55:
        return target.name, matching(objects, target.colour, target.shape)
    if draw < 0.63:
        return f"{target.colour} object", matching(objects, target.colour)
    if draw < 0.71:
        return target.shape, matching(objects, None, target.shape)
    if draw < 0.75:
        return str(rng.choice(ABSENT_NOUNS)), []
    if draw < 0.96:  # half right: the hard way to be absent
        colour, shape = target.colour, str(rng.choice(SHAPES))
        if rng.random() < 0.5:
            colour, shape = str(rng.choice(COLOURS)), target.shape
    else:
        colour, shape = str(rng.choice(COLOURS)), str(rng.choice(SHAPES))
    return f"{colour} {shape}", matching(objects, colour, shape)


def grounding_answer(phrase: str, found: Sequence[VisibleObject]) -> str:
    """Qwen2-VL's grounding format, coordinates 0-999 in three digits, boxes from left to right; or ``none``."""
    if not found:
        return NOTHING
    boxes = "".join(
        "<|box_start|>({:03d},{:03d}),({:03d},{:03d})<|box_end|>".format(*(min(999, int(c * 1000)) for c in o.box))
        for o in found
    )
    return f"<|object_ref_start|>{phrase}<|object_ref_end|>{boxes}"


def grounding_request(rng: np.random.Generator, phrase: str) -> str:
    """One of the ways to ask where something is."""
    return str(rng.choice(REQUESTS)).format(phrase)
