"""Tracks: regions that keep their id from keyframe to keyframe, and are carried along in between."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from .boxes import Box, area, check_box, clip_box, iou
from .flow import box_motions

WORKING_SIDE = 640  # px; longer frames are shrunk for the flow: it needs no more, and 8K would take 0.5 s
MIN_SIDE = 2.0  # px in the frame, below which a box is lost


@dataclass(frozen=True)
class Detection:
    """What a detector found on a keyframe: box in frame px, label, score 0 to 1."""

    box: Box
    label: str
    score: float


@dataclass(frozen=True)
class Track:
    """A region on the latest frame.

    box: frame px, clipped to the frame. age: frames since a detection confirmed it; 0 on its keyframe.
    score: the detection's, times decay for each frame of age. visibility: 0 to 1, the part of the whole box
    inside the frame times the share of its corners that the last step rested on (1 on a keyframe).
    """

    track_id: str
    label: str
    score: float
    box: Box
    age: int
    visibility: float = 1.0


@dataclass
class _TrackState:
    track_id: str
    label: str
    score: float
    box: Box  # whole: parts outside the frame stay, to come back in
    age: int = 0
    support: float = 1.0
    lost_steps: int = 0  # frames in a row without enough corners
    missed: int = 0  # keyframes in a row without a detection; 0 = shown


@dataclass
class Tracker:
    """Gives detections stable ids on keyframes and carries their boxes in between.

    min_iou: overlap that makes a detection the continuation of a track with the same label.
    decay: factor on a track's score for each frame after its keyframe.
    max_age: frames without a confirming detection after which a track is dropped.
    max_missed: keyframes that a track may miss and still get its id back; it is not shown meanwhile.
    max_lost_steps: frames in a row that a box may go without corners of its own to follow.
    min_visible: part of the box inside the frame below which it is dropped as having left.

    Not thread-safe: one lane feeds it, frames in their order.
    """

    min_iou: float = 0.3
    decay: float = 0.97
    max_age: int = 60
    max_missed: int = 2
    max_lost_steps: int = 5
    min_visible: float = 0.2
    resets: int = field(default=0, init=False)  # times that a stamp or a frame size made it start anew
    _states: list[_TrackState] = field(default_factory=list, init=False, repr=False)
    _last: npt.NDArray | None = field(default=None, init=False, repr=False)  # grey, working size
    _size: tuple[int, int] | None = field(default=None, init=False)  # (width, height) of the frames
    _stamp: int | None = field(default=None, init=False)
    _next_id: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        for name in ("min_iou", "decay", "min_visible"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted: above 0, at most 1")
        for name in ("max_age", "max_missed", "max_lost_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted: 0 or more frames")

    @property
    def tracks(self) -> list[Track]:
        """The tracks of the latest frame, oldest id first; those that missed the last keyframe are hidden."""
        return [self._track(state) for state in self._states if not state.missed]

    def update_keyframe(
        self, image_rgb: npt.NDArray, detections: Iterable[Detection], stamp: int | None = None
    ) -> list[Track]:
        """A frame with detections: tracks go on, begin, or hide. Returns the tracks that it confirms.

        image_rgb: uint8 [height, width, 3], or grey [height, width]. stamp: ns, of any clock that goes on.
        Earlier tracks are first carried to this frame, then matched: of one label, largest overlap first;
        boxes that overlap too little may still match if they would at twice the size.
        Bad detections (see check_box; outside the frame; score outside 0…1) raise a ValueError that names
        them, and the tracker is as it was before.
        """
        grey, size = _working(image_rgb)
        found = [_checked(detection, i, size) for i, detection in enumerate(detections)]
        self._advance(grey, size, stamp)
        matched = self._match(found)
        for s, state in enumerate(self._states):
            if s in matched:
                detection = found[matched[s]]
                state.box, state.score, state.label = detection.box, detection.score, detection.label
                state.age = state.lost_steps = state.missed = 0
                state.support = 1.0
            else:
                state.missed += 1
        self._states = [state for state in self._states if state.missed <= self.max_missed]
        for d, detection in enumerate(found):
            if d not in matched.values():
                self._states.append(_TrackState(str(self._next_id), detection.label, detection.score, detection.box))
                self._next_id += 1
        return self.tracks

    def carry(self, image_rgb: npt.NDArray, stamp: int | None = None) -> list[Track]:
        """A frame without detections: boxes follow the picture. Returns the tracks that are still in it."""
        grey, size = _working(image_rgb)
        self._advance(grey, size, stamp)
        return self.tracks

    def reset(self) -> None:
        """Forget all tracks and the last frame. Ids are never given twice."""
        self._states, self._last, self._size, self._stamp = [], None, None, None

    def _advance(self, grey: npt.NDArray, size: tuple[int, int], stamp: int | None) -> None:
        """Bring every track to this frame."""
        went_back = stamp is not None and self._stamp is not None and stamp < self._stamp
        if went_back or (self._size is not None and size != self._size):
            self.reset()
            self.resets += 1
        if self._last is not None and self._states:
            zoom = grey.shape[1] / size[0], grey.shape[0] / size[1]
            scaled = [tuple(v * zoom[i % 2] for i, v in enumerate(state.box)) for state in self._states]
            for state, motion in zip(self._states, box_motions(self._last, grey, scaled), strict=True):
                x, y = (state.box[0] + state.box[2]) / 2, (state.box[1] + state.box[3]) / 2
                x, y = x + motion.dx / zoom[0], y + motion.dy / zoom[1]
                half = [(state.box[i + 2] - state.box[i]) / 2 * motion.scale for i in (0, 1)]
                state.box = (x - half[0], y - half[1], x + half[0], y + half[1])
                state.age += 1
                state.support = motion.support
                state.lost_steps = 0 if motion.support else state.lost_steps + 1
        self._last, self._size = grey, size
        self._stamp = stamp if stamp is not None else self._stamp
        self._states = [state for state in self._states if self._alive(state)]

    def _match(self, found: list[Detection]) -> dict[int, int]:
        """Which state goes on as which detection, by index: of one label, the closest pair first."""
        pairs = []
        for s, state in enumerate(self._states):
            box = self._clipped(state.box)
            for d, detection in enumerate(found):
                if not _same(state.label, detection.label):
                    continue
                overlap = iou(box, detection.box)
                if overlap < self.min_iou:  # near misses, as after a fast move, come after all overlaps
                    overlap = iou(_doubled(box), _doubled(detection.box)) - 1
                if overlap >= self.min_iou - 1:
                    pairs.append((-overlap, s, d))
        matched: dict[int, int] = {}
        for _, s, d in sorted(pairs):
            if s not in matched and d not in matched.values():
                matched[s] = d
        return matched

    def _alive(self, state: _TrackState) -> bool:
        inside = clip_box(state.box, self._size)
        return (
            inside is not None
            and min(inside[2] - inside[0], inside[3] - inside[1]) >= MIN_SIDE
            and area(inside) >= self.min_visible * area(state.box)
            and state.age <= self.max_age
            and state.lost_steps <= self.max_lost_steps
        )

    def _clipped(self, box: Box) -> Box:
        inside = clip_box(box, self._size)
        assert inside is not None  # _alive saw to it
        return inside

    def _track(self, state: _TrackState) -> Track:
        inside = self._clipped(state.box)
        visibility = area(inside) / area(state.box) * state.support
        score = state.score * self.decay**state.age
        return Track(state.track_id, state.label, score, inside, state.age, min(visibility, 1.0))


def _working(image: npt.NDArray) -> tuple[npt.NDArray, tuple[int, int]]:
    """The frame in grey at working size, and its own (width, height)."""
    image = np.asarray(image)
    colour = image.ndim == 3 and image.shape[2] == 3
    if image.dtype != np.uint8 or not (colour or image.ndim == 2) or 0 in image.shape:
        raise ValueError(
            f"image: got {image.dtype} {list(image.shape)}, accepted: uint8 [height, width, 3], not empty"
        )
    height, width = image.shape[:2]
    shrink = WORKING_SIDE / max(height, width)
    image = np.ascontiguousarray(image)
    if shrink < 1:  # before the grey conversion: fewer pixels to convert
        target = max(1, round(width * shrink)), max(1, round(height * shrink))
        image = cv2.resize(image, target, interpolation=cv2.INTER_AREA)
    # The copy matters for grey frames: the caller may reuse its buffer for the next one.
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if colour else image.copy()
    return grey, (width, height)


def _checked(detection: Detection, index: int, size: tuple[int, int]) -> Detection:
    name = f"detections[{index}]"
    box = clip_box(check_box(detection.box, f"{name}.box"), size)
    if box is None or min(box[2] - box[0], box[3] - box[1]) < MIN_SIDE:
        raise ValueError(
            f"{name}.box: got {detection.box}, accepted: at least {MIN_SIDE:g} px inside {size[0]}x{size[1]}"
        )
    if not isinstance(detection.label, str):
        raise ValueError(f"{name}.label: got {detection.label!r}, accepted: a string")
    score = float(detection.score)
    if not (math.isfinite(score) and 0 <= score <= 1):
        raise ValueError(f"{name}.score: got {detection.score}, accepted: 0 to 1")
    return Detection(box, detection.label, score)


def _doubled(box: Box) -> Box:
    x, y = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    return box[0] - x, box[1] - y, box[2] + x, box[3] + y


def _same(a: str, b: str) -> bool:
    """Labels are alike but for case and blanks."""
    return a.lower().split() == b.lower().split()
