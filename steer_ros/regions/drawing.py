"""Pictures of where the attention is steered: the label image and the overlay."""

from __future__ import annotations

import cv2
import numpy as np

from .mask import Mask

# BGR, told apart by colour-blind eyes too (Okabe and Ito).
COLOURS = ((0, 159, 230), (233, 180, 86), (115, 158, 0), (66, 228, 240), (178, 114, 0), (0, 94, 213), (167, 121, 204))


def label_image(masks: list[Mask], frame_size: tuple[int, int]) -> np.ndarray:
    """uint8 [height, width]: 1 + the index of the mask on each pixel, 0 elsewhere; a later mask lies on top."""
    width, height = frame_size
    labels = np.zeros((height, width), np.uint8)
    for index, mask in enumerate(masks[:255]):
        labels[_inside(mask, frame_size)] = index + 1
    return labels


def overlay(image: np.ndarray, masks: list[Mask], frame_size: tuple[int, int]) -> np.ndarray:
    """uint8 [height, width, 3] BGR: the frame with each mask's weights as a tint, its box, label and id.

    image: uint8 [h, w, 3] RGB, the frame or a smaller copy.
    """
    width, height = frame_size
    canvas = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if canvas.shape[:2] != (height, width):
        canvas = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_LINEAR)
    thick = max(1, round(max(width, height) / 400))
    for index, mask in enumerate(masks):
        colour = COLOURS[index % len(COLOURS)]
        tint = cv2.resize(
            np.abs(mask.weights.astype(np.float32)) / 127, (width, height), interpolation=cv2.INTER_NEAREST
        )
        tint = (0.35 * tint)[..., None]
        canvas = (canvas * (1 - tint) + np.array(colour, np.float32) * tint).astype(np.uint8)
    for index, mask in enumerate(masks):
        if mask.box is None:
            continue
        colour = COLOURS[index % len(COLOURS)]
        x0, y0, x1, y1 = (round(value) for value in mask.box)
        cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), colour, thick)
        text = " ".join(part for part in (mask.label, mask.track_id) if part)
        at = (x0 + 2, y0 - 4 if y0 > 14 * thick else y1 + 12 * thick)
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * thick, (0, 0, 0), 3 * thick, cv2.LINE_AA)
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * thick, colour, thick, cv2.LINE_AA)
    return canvas


def _inside(mask: Mask, frame_size: tuple[int, int]) -> np.ndarray | tuple[slice, slice]:
    """Where the mask is, on the frame's pixels."""
    if mask.box is not None:
        x0, y0, x1, y1 = mask.box
        return slice(int(np.floor(y0)), int(np.ceil(y1))), slice(int(np.floor(x0)), int(np.ceil(x1)))
    weights = (mask.weights != 0).astype(np.uint8)
    return cv2.resize(weights, frame_size, interpolation=cv2.INTER_NEAREST).astype(bool)
