"""Truth of a bag, in a file beside it: which objects each frame shows, where, and how much of them.

``truth.json``, version 1::

    {"version": 1, "image_width": 336, "image_height": 336,
     "frames": [{"stamp_ns": 1767225600000000000,
                 "objects": [{"id": "object_1", "colour": "red", "shape": "beaker",
                              "box": [x0, y0, x1, y1], "visibility": 0.93,
                              "mask": {"size": [336, 336], "counts": [...]}}]}]}

Frames are in the order of their stamps, objects from back to front. A box is the extent of the visible pixels,
half-open, and null when there are none. Visibility is the visible share of the whole object, 0-1. A mask is COCO's
uncompressed run-length code: ``size`` is ``[height, width]``, ``counts`` are the lengths of alternating runs of 0 and
1, beginning with 0, down the columns from the left. Ids hold within a clip; a bag of several clips uses them anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .render import Truth
from .scene import COLOURS, SHAPES
from .visible_objects import VisibleObject, visible_objects_from

VERSION = 1
TRUTH_FILE = "truth.json"


class TruthError(ValueError):
    """A truth file that can't be used; the message names the file and the place in it."""


@dataclass(frozen=True)
class BagTruth:
    """The truth of a bag's frames: ``frames`` maps a stamp in nanoseconds to the objects, back to front."""

    image_width: int
    image_height: int
    frames: Mapping[int, tuple[Truth, ...]] = field(default_factory=dict)

    def visible_objects(self, stamp: int) -> tuple[VisibleObject, ...]:
        """The objects of the frame of that stamp that are visible enough to be spoken of.

        Raises:
            KeyError: no frame has that stamp.
        """
        return visible_objects_from(self.frames[stamp], self.image_width, self.image_height)


def encode_mask(mask: np.ndarray) -> dict[str, list[int]]:
    """bool ``[height, width]`` to COCO's uncompressed run-length code."""
    flat = np.asarray(mask, bool).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    bounds = np.concatenate([[0], edges, [flat.size]]).astype(int)
    counts = np.diff(bounds).tolist()
    if flat.size and flat[0]:
        counts.insert(0, 0)
    return {"size": [int(side) for side in mask.shape], "counts": counts}


def decode_mask(code: Mapping[str, Any]) -> np.ndarray:
    """COCO's uncompressed run-length code to bool ``[height, width]``.

    Raises:
        ValueError: sizes or counts that are no whole numbers, or do not add up.
    """
    try:
        height, width = (_whole(side) for side in code["size"])
        counts = [_whole(count) for count in code["counts"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"mask: {error!r}; it needs size [height, width] and counts") from error
    if sum(counts) != height * width:
        raise ValueError(f"mask: counts add up to {sum(counts)}, size {height}x{width} needs {height * width}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T.copy()


def write_truth(path: str | Path, truth: BagTruth) -> Path:
    """Write the file; ``path`` is the file, or the bag's folder."""
    path = _file(path)
    frames = [
        {"stamp_ns": stamp, "objects": [_object(o) for o in objects]}
        for stamp, objects in sorted(truth.frames.items())
    ]
    head = {"version": VERSION, "image_width": truth.image_width, "image_height": truth.image_height}
    path.write_text(json.dumps({**head, "frames": frames}, separators=(",", ":")) + "\n", encoding="utf-8")
    return path


def read_truth(path: str | Path) -> BagTruth:
    """Read and check the file; ``path`` is the file, or the bag's folder.

    Raises:
        TruthError: no such file, no JSON, another version, or something in it that can't be.
    """
    path = _file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TruthError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise TruthError(f"{path}: {error}") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise TruthError(f"{path}: version {version!r}; this reads {VERSION}")
    where = "image_width, image_height"
    try:
        width, height = _whole(content["image_width"], 1), _whole(content["image_height"], 1)
        frames: dict[int, tuple[Truth, ...]] = {}
        last = -1
        for index, frame in enumerate(content["frames"]):
            where = f"frames[{index}]"
            stamp = _whole(frame["stamp_ns"])
            if stamp <= last:
                raise ValueError(f"stamp_ns {stamp} is not later than the frame's before it, {last}")
            last = stamp
            objects = []
            for number, entry in enumerate(frame["objects"]):
                where = f"frames[{index}].objects[{number}]"
                objects.append(_truth(entry, width, height))
            frames[stamp] = tuple(objects)
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise TruthError(f"{path}: {where}: {what}") from error
    return BagTruth(width, height, frames)


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path / TRUTH_FILE if path.is_dir() else path


def _object(truth: Truth) -> dict[str, Any]:
    return {
        "id": truth.id,
        "colour": truth.colour,
        "shape": truth.shape,
        "box": None if truth.box is None else [int(side) for side in truth.box],
        "visibility": round(float(truth.visibility), 6),
        "mask": encode_mask(truth.mask),
    }


def _truth(entry: Mapping[str, Any], width: int, height: int) -> Truth:
    if not isinstance(entry["id"], str):
        raise ValueError(f"id {entry['id']!r} is no text")
    if entry["colour"] not in COLOURS or entry["shape"] not in SHAPES:
        raise ValueError(f"{entry['colour']!r} {entry['shape']!r} is nothing that lies on the bench")
    visibility = entry["visibility"]
    if isinstance(visibility, bool) or not isinstance(visibility, (int, float)) or not 0 <= visibility <= 1:
        raise ValueError(f"visibility {visibility!r} is not from 0 to 1")
    mask = decode_mask(entry["mask"])
    if mask.shape != (height, width):
        raise ValueError(f"mask of {mask.shape[1]}x{mask.shape[0]} pixels; the images have {width}x{height}")
    box = None if entry["box"] is None else tuple(_whole(side) for side in entry["box"])
    if box != extent(mask):
        raise ValueError(f"box {box} is not the extent of its mask, {extent(mask)}")
    return Truth(entry["id"], entry["colour"], entry["shape"], box, mask, float(visibility))


def extent(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """``(x0, y0, x1, y1)``, half-open, of the True pixels; ``None`` when there are none."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1) if rows.size else None


def _whole(value: Any, low: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{value!r} is no whole number of at least {low}")
    return value
