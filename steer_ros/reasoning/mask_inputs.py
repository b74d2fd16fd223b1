"""What the caller steers with (masks, arrays, regions) as weights for each span of a prompt."""

from __future__ import annotations

import numpy as np

from ..models.features import VisualFeatures
from ..regions.boxes import check_box
from ..regions.mask import Mask, box_weights, pool_to_tokens, union
from .prompt import Region


def as_frames(given) -> list[VisualFeatures]:
    """The turn's frames as a list. ValueError for anything but features, a list of them, or None."""
    if given is None:
        return []
    frames = list(given) if isinstance(given, (list, tuple)) else [given]
    for frame in frames:
        if not isinstance(frame, VisualFeatures):
            raise ValueError(f"frames: holds {type(frame).__name__}, must be VisualFeatures or a list of them")
    if len({int(frame.tokens.shape[-1]) for frame in frames}) > 1:
        raise ValueError("frames: they come from models of different widths")
    return frames


def as_masks(masks, given_frames, frames: list[VisualFeatures]) -> list[list]:
    """Masks and arrays for each frame, checked against its grid.

    For one frame a list is that frame's masks. For a list of frames it has one entry a frame: a mask, an
    array, a list of those, or None. Without frames (text bridge alone) the masks are one group.
    """
    if masks is None:
        return [[] for _ in frames] or [[]]
    if isinstance(given_frames, (list, tuple)) and frames:
        entries = list(masks) if isinstance(masks, (list, tuple)) else [masks]
        if len(entries) != len(frames):
            raise ValueError(f"masks: {len(entries)} entries for {len(frames)} frames; must be one a frame")
    else:
        entries = [masks]
    groups = [_group(entry) for entry in entries]
    for group, frame in zip(groups, frames, strict=False):
        for item in group:
            _check_grid(_weights(item), frame)
    return groups


def regions_of(groups: list[list], frames: list[VisualFeatures]) -> list[Region]:
    """The labelled masks as regions, for a text bridge that is given no list of its own."""
    found = []
    for index, group in enumerate(groups):
        size = frames[index].frame_size if frames else None
        for item in group:
            if isinstance(item, Mask) and item.label.strip() and not item.empty:
                found.append(Region(_clean(item.label), item.box, size, index))
    return found


def as_regions(regions, frames: list[VisualFeatures]) -> list[Region]:
    """The caller's ``[(label, box), …]`` as regions of the last frame. ValueError names a bad entry."""
    size = frames[-1].frame_size if frames else None
    made = []
    for entry in regions:
        if isinstance(entry, Region):
            made.append(entry)
            continue
        try:
            label, box = entry
        except (TypeError, ValueError):
            raise ValueError(f"regions: {entry!r}, must be (label, box) with box x0, y0, x1, y1 or None") from None
        if not isinstance(label, str) or not _clean(label):
            raise ValueError(f"regions: label {label!r}, must be a text that is not empty")
        if box is not None:
            box = check_box(box, f"regions: box of {label!r}")
        made.append(Region(_clean(label), box, size, max(0, len(frames) - 1)))
    return made


def token_weights(groups: list[list], frames: list[VisualFeatures]) -> list[np.ndarray]:
    """Token bridge: int8 [tokens] for each frame's span."""
    spans = []
    for group, frame in zip(groups, frames, strict=False):
        weights = [_weights(item) for item in group] or [np.zeros((frame.grid.rows, frame.grid.cols), np.int8)]
        spans.append(pool_to_tokens(union(weights), frame.grid.merge).reshape(-1))
    return spans


def word_weights(
    groups: list[list], frames: list[VisualFeatures], regions: list[Region], lengths: list[int]
) -> list[np.ndarray]:
    """Text bridge: int8 [length] for each region's words.

    A region with a box has the mean weight of the patches under it; one without, the weight of the mask
    that bears its label.
    """
    return [
        np.full(length, _region_weight(groups, frames, region), np.int8)
        for region, length in zip(regions, lengths, strict=True)
    ]


def _region_weight(groups: list[list], frames: list[VisualFeatures], region: Region) -> int:
    group = groups[region.frame] if region.frame < len(groups) else []
    if region.box is not None and region.frame < len(frames):
        if not group:
            return 0
        frame = frames[region.frame]
        covered = box_weights(frame.grid, frame.frame_size, region.box).astype(np.float64)
        weights = union([_weights(item) for item in group])
        return int(np.rint((weights * covered).sum() / covered.sum())) if covered.any() else 0
    named = [_weights(item) for item in group if isinstance(item, Mask) and _clean(item.label) == region.label]
    if not named:
        return 0
    merged = union(named)
    return int(merged.flat[np.abs(merged.astype(np.int16)).argmax()])


def _group(entry) -> list:
    group = list(entry) if isinstance(entry, (list, tuple)) else [entry]
    group = [item for item in group if item is not None]
    for item in group:
        if not isinstance(item, (Mask, np.ndarray)):
            raise ValueError(f"masks: holds {type(item).__name__}, must be a Mask or an int8 array")
        _weights(item)
    return group


def _weights(item) -> np.ndarray:
    weights = item.weights if isinstance(item, Mask) else item
    if weights.dtype != np.int8 or weights.ndim != 2:
        raise ValueError(f"masks: {weights.dtype} of shape {list(weights.shape)}, must be int8 [rows, cols]")
    return weights


def _check_grid(weights: np.ndarray, frame: VisualFeatures) -> None:
    if weights.shape != (frame.grid.rows, frame.grid.cols):
        raise ValueError(
            f"masks: grid of {weights.shape[0]}x{weights.shape[1]} patches does not match "
            f"that of frames, {frame.grid.rows}x{frame.grid.cols}"
        )


def _clean(label: str) -> str:
    return " ".join(label.split())
