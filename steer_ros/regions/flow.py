"""How boxes move between two frames, by pyramidal Lucas-Kanade flow of the corners in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from .boxes import Box

MAX_CORNERS = 40  # in a box, and as many in the ring around it
MIN_CORNERS = 4  # or pairs of corners, below which a motion isn't trusted
MAX_FORWARD_BACKWARD_ERROR = 1.0  # px between a corner and where the flow forward and back ends
MIN_OWN_MOTION = 1.0  # px; corners whose motion differs more from that of the surroundings move by themselves
STEP_TOLERANCE = 0.01  # of a box's half diagonal: how far the steps of its corners may differ
MAX_ZOOM = 1.25  # in one step, either way

_LK = {
    "winSize": (15, 15),
    "maxLevel": 3,
    "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.03),
}

Points = npt.NDArray[np.float32]  # [N, 2], x and y


@dataclass(frozen=True)
class Motion:
    """A box's step: its centre moves by (dx, dy) px, its sides grow by scale.

    support: the share of the box's corners that the step rests on, 0 to 1; 0 when it has too few, and the
    box goes along with its surroundings, or stays if they tell nothing either.
    """

    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0
    support: float = 0.0


def box_motions(before: npt.NDArray, after: npt.NDArray, boxes: Sequence[Box]) -> list[Motion]:
    """One Motion for each box, from frame `before` to frame `after`: uint8 [height, width], alike in size.

    A corner counts if the flow forward and back returns to it. Corners in the box may lie on the background
    behind its object; a ring around the box tells how that moves. If a fair part of the box's corners moves
    otherwise, those alone are the object. The step is the median of the displacements that agree best, the
    scale the median change of the distances between their corners.
    """
    inner = [_corners(before, box) for box in boxes]
    rings = [_corners(before, _ring(box), boxes) for box in boxes]
    moved = _flow(before, after, [*inner, *rings])
    return [
        _motion(box, start, stop, ring_stop - ring_start, found)
        for box, (start, stop, found), (ring_start, ring_stop, _) in zip(
            boxes, moved[: len(boxes)], moved[len(boxes) :], strict=True
        )
    ]


def _ring(box: Box) -> Box:
    """The box grown by half its sides, and by 8 px at least."""
    x, y = max((box[2] - box[0]) / 2, 8.0), max((box[3] - box[1]) / 2, 8.0)
    return box[0] - x, box[1] - y, box[2] + x, box[3] + y


def _corners(frame: npt.NDArray, box: Box, without: Sequence[Box] = ()) -> Points:
    """Corners worth following within a box, outside the boxes in `without`."""
    height, width = frame.shape
    x0, y0, x1, y1 = _pixels(box, width, height)
    if x1 - x0 < 3 or y1 - y0 < 3:
        return np.empty((0, 2), np.float32)
    allowed = np.full((y1 - y0, x1 - x0), 255, np.uint8)
    for other in without:
        left, top, right, bottom = _pixels(other, width, height)
        allowed[max(top - y0, 0) : max(bottom - y0, 0), max(left - x0, 0) : max(right - x0, 0)] = 0
    spread = max(2.0, 0.08 * min(x1 - x0, y1 - y0))  # so that one strong edge does not take all places
    found = cv2.goodFeaturesToTrack(frame[y0:y1, x0:x1], MAX_CORNERS, 0.01, spread, mask=allowed, blockSize=3)
    if found is None:
        return np.empty((0, 2), np.float32)
    return found.reshape(-1, 2) + np.float32([x0, y0])


def _pixels(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    x0, x1 = (int(min(max(round(x), 0), width)) for x in (box[0], box[2]))
    y0, y1 = (int(min(max(round(y), 0), height)) for y in (box[1], box[3]))
    return x0, y0, x1, y1


def _flow(before: npt.NDArray, after: npt.NDArray, groups: list[Points]) -> list[tuple[Points, Points, int]]:
    """For each group of points: start and stop of those that the flow found both ways, and how many it had.

    All groups go in one call: OpenCV then builds its pyramids once.
    """
    points = np.concatenate([*groups, np.empty((0, 2), np.float32)])
    if not len(points):
        return [(points, points, 0)] * len(groups)
    there, ok, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, **_LK)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, **_LK)
    error = np.linalg.norm(back - points, axis=1)
    height, width = after.shape
    good = (ok.ravel() == 1) & (ok_back.ravel() == 1) & (error < MAX_FORWARD_BACKWARD_ERROR)
    good &= ((there >= 0) & (there < (width, height))).all(1)
    result, start = [], 0
    for group in groups:
        part = slice(start, start + len(group))
        result.append((points[part][good[part]], there[part][good[part]], len(group)))
        start += len(group)
    return result


def _motion(box: Box, start: Points, stop: Points, surroundings: Points, found: int) -> Motion:
    around = np.median(surroundings, axis=0) if len(surroundings) >= MIN_CORNERS else None
    if len(start) < MIN_CORNERS:
        return Motion() if around is None else Motion(float(around[0]), float(around[1]))
    step = stop - start
    if around is not None:
        own = np.linalg.norm(step - around, axis=1) > MIN_OWN_MOTION
        if own.sum() >= max(MIN_CORNERS, len(step) / 4):
            start, stop, step = start[own], stop[own], step[own]
    # The step most corners agree on, not the median of all: those on an outline see both motions and lie
    # between. A box that grows spreads its corners' steps, by its growth times their distance.
    reach = 1.0 + STEP_TOLERANCE * np.hypot(box[2] - box[0], box[3] - box[1]) / 2
    near = np.linalg.norm(step[:, None] - step, axis=2) <= reach  # [N, N]
    fits = near[int(np.argmax(near.sum(1)))]
    if fits.sum() < max(MIN_CORNERS, found / 8):
        return Motion() if around is None else Motion(float(around[0]), float(around[1]))
    start, stop, median = start[fits], stop[fits], np.median(step[fits], axis=0)
    scale = _scale(start, stop)
    middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    move = median + (scale - 1) * (middle - np.median(start, axis=0))
    return Motion(float(move[0]), float(move[1]), scale, float(fits.sum() / max(found, 1)))


def _scale(start: Points, stop: Points) -> float:
    """Median ratio of the distances between points, of pairs far enough apart to tell."""
    first, second = np.triu_indices(len(start), 1)
    was = np.linalg.norm(start[first] - start[second], axis=1)
    now = np.linalg.norm(stop[first] - stop[second], axis=1)
    far = was > max(4.0, 0.3 * was.max(initial=0.0))
    if far.sum() < MIN_CORNERS:
        return 1.0
    return float(np.clip(np.median(now[far] / was[far]), 1 / MAX_ZOOM, MAX_ZOOM))
