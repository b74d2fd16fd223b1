"""Training labels of visual tokens: the object under each, its kind, its place and its box.

A grid cell belongs to the object that covers most of it; cells with little of any object are left out of the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..scenes.render import RenderedScene
from ..scenes.scene import COLOURS, SHAPES

CELL = 28  # pixels of a visual token
BACKGROUND = 0
IGNORE = -100
COVERED, BARE = (
    0.18,
    0.03,
)  # share of a cell from which it belongs to an object / below which it is background
KINDS = len(COLOURS) * len(SHAPES)


@dataclass(frozen=True)
class TokenLabels:
    """Labels of one frame's visual tokens, row-major.

    Attributes:
        kind: int64 ``[tokens]``: 0 background, 1 + colour * shapes + shape for an object, -100 undecided.
        box: float32 ``[tokens, 4]``: the object's visible box, 0-1 of width and height; NaN off the objects.
        object_index: int64 ``[tokens]``: index into the frame's objects, -1 for none.
    """

    kind: np.ndarray
    box: np.ndarray
    object_index: np.ndarray


def kind_index(colour: str, shape: str) -> int:
    """Class of a colour and shape, 1 to 30."""
    return 1 + COLOURS.index(colour) * len(SHAPES) + SHAPES.index(shape)


def token_labels(frame: RenderedScene, cell: int = CELL) -> TokenLabels:
    """Labels of the ``height/cell x width/cell`` visual tokens of a frame."""
    height, width = frame.image.shape[:2]
    rows, cols = height // cell, width // cell
    cover = np.zeros((len(frame.objects), rows * cols), np.float32)
    for i, obj in enumerate(frame.objects):
        cells = obj.mask[: rows * cell, : cols * cell].reshape(rows, cell, cols, cell)
        cover[i] = cells.mean((1, 3), dtype=np.float32).ravel()
    most, total = cover.max(0), cover.sum(0)
    object_index = np.where(most >= COVERED, cover.argmax(0), -1)
    kind = np.where(total < BARE, BACKGROUND, IGNORE).astype(np.int64)
    box = np.full((rows * cols, 4), np.nan, np.float32)
    scale = np.float32([width, height, width, height])
    for i, obj in enumerate(frame.objects):
        mine = object_index == i
        if mine.any():
            kind[mine] = kind_index(obj.colour, obj.shape)
            box[mine] = np.float32(obj.box) / scale
    return TokenLabels(kind, box, object_index.astype(np.int64))
