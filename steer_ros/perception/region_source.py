"""The source of a frame's regions: what to look for, grounding on keyframes, and the tracker between them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..regions.boxes import Box, clip_box
from ..regions.mask import Mask, box_weights
from ..regions.tracking import MIN_SIDE, Detection, Tracker

ROI_LABEL = "roi"


@dataclass(frozen=True)
class FrameRegions:
    """masks: the frame's, with boxes in frame pixels; None if nobody said where to look. keyframe: it was grounded.

    errors: what is wrong with the target, one line each, under "bad_look_for" (the words) or "bad_roi" (the box).
    """

    masks: list[Mask] | None
    keyframe: bool
    errors: dict[str, str] = field(default_factory=dict)


class RegionSource:
    """Finds the target on keyframes and tracks it on the frames between them.

    The target is given by `look_for` and `set_roi`, which may be called from any thread; `step` from one only. A frame
    is a keyframe if it is the `interval`-th after the last one, the first after a change of the target or of the frame
    size, or at least `max_age` nanoseconds later than the last keyframe: a tracked mask never gets older than that.
    """

    def __init__(self, interval: int = 10, max_age: int = 2_000_000_000) -> None:
        self.interval = interval
        self.max_age = max_age
        self._lock = threading.Lock()
        self._text = ""
        self._roi: Box | None = None
        self._roi_refused = False  # somebody gave a box, and it lies outside the frame
        self._changed = True
        self._tracker = Tracker()
        self._untracked_masks: list[Mask] = []
        self._frames = 0
        self._keyframe_stamp = 0
        self._shape: tuple[int, ...] = ()

    def look_for(self, text: str) -> None:
        """What to look for from the next frame on, in words; empty: nothing. The same words again change nothing."""
        with self._lock:
            self._changed = self._changed or self._text != text.strip()
            self._text = text.strip()

    def set_roi(self, box: Box | None) -> None:
        """A region given as a box in frame pixels, from the next frame on; None clears it."""
        with self._lock:
            self._roi, self._roi_refused = box, False

    def reset(self) -> None:
        """Stamps have gone back, or the camera has changed: forget what was tracked."""
        with self._lock:
            self._changed = True

    def step(self, image: np.ndarray, features: Any, perceiver: Any, stamp: int) -> FrameRegions:
        """The masks of one frame.

        image: uint8 [h, w, 3] RGB, the frame or a smaller copy of it. features: VisualFeatures, whose frame_size is
        the frame's own. stamp: nanoseconds.
        """
        with self._lock:
            text, roi, changed = self._text, self._roi, self._changed
            self._changed = False
        shape = (*image.shape, *features.frame_size)
        changed = changed or shape != self._shape  # another camera mode: nothing can be tracked across it
        self._shape = shape
        masks: list[Mask] = []
        keyframe = False
        errors: dict[str, str] = {}
        if text:
            keyframe = changed or self._frames + 1 >= self.interval or stamp - self._keyframe_stamp >= self.max_age
            try:
                grounded, refusal = self._ground(text, features, perceiver) if keyframe else (None, "")
                if refusal:
                    errors["bad_look_for"] = refusal
                if changed or refusal:
                    self._tracker.reset()
                masks += self._track(grounded, image, features, stamp)
            except BaseException:
                self.reset()  # so that the next frame starts over
                raise
            if keyframe:
                self._frames, self._keyframe_stamp = 0, stamp
            else:
                self._frames += 1
        if roi is not None:
            try:
                masks.append(self._mask(features, roi, ROI_LABEL, ROI_LABEL, 1.0, "roi"))
            except ValueError as error:
                errors["bad_roi"] = f"~/roi: {error}"
                with self._lock:
                    if self._roi == roi:
                        self._roi, self._roi_refused = None, True
        with self._lock:
            has_target = bool(text) or roi is not None or self._roi_refused
        return FrameRegions(masks if has_target else None, keyframe, errors)

    @staticmethod
    def _ground(text: str, features: Any, perceiver: Any) -> tuple[list[Mask], str]:
        """The masks of what these words name; and why the model refuses the words, in one line, or ""."""
        try:
            return perceiver.detect_regions(text, features), ""
        except ValueError as error:
            return [], f"look_for: {error}"

    def _track(self, grounded: list[Mask] | None, image: np.ndarray, features: Any, stamp: int) -> list[Mask]:
        """The masks of a frame, given those that were grounded in it; None if it is no keyframe."""
        width, height = features.frame_size
        scale = (image.shape[1] / width, image.shape[0] / height)
        if grounded is not None:
            # A mask without an object (an area, a saliency map) can't be tracked: it holds until the next keyframe.
            self._untracked_masks = [mask for mask in grounded if mask.source != "grounding"]
            objects = [mask for mask in grounded if mask.source == "grounding" and mask.box is not None]
            detections = [Detection(_scaled(mask.box, scale), mask.label, mask.score) for mask in objects]
            detections = [detection for detection in detections if _trackable(detection.box, image)]
            tracks = self._tracker.update_keyframe(image, detections, stamp)
        else:
            tracks = self._tracker.carry(image, stamp)
        back = (1 / scale[0], 1 / scale[1])
        source = "track" if grounded is None else "grounding"
        masks = []
        for track in tracks:
            try:
                box = _scaled(track.box, back)
                masks.append(self._mask(features, box, track.label, track.track_id, track.score, source))
            except ValueError:
                continue  # it has left the frame
        return masks + self._untracked_masks

    @staticmethod
    def _mask(features: Any, box: Box, label: str, track_id: str, score: float, source: str) -> Mask:
        width, height = features.frame_size
        weights = box_weights(features.grid, features.frame_size, box)
        x0, y0, x1, y1 = box
        box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
        return Mask(
            weights=weights, label=label, track_id=track_id, score=float(score), strength=1.0, source=source, box=box
        )


def resized(features: Any, frame_size: tuple[int, int]) -> Any:
    """The features of a smaller copy, as features of the frame itself: boxes are then in its pixels."""
    return features if features.frame_size == frame_size else replace(features, frame_size=frame_size)


def _trackable(box: Box, image: np.ndarray) -> bool:
    """A model may answer with a sliver, for which the tracker would refuse the whole keyframe."""
    inside = clip_box(box, (image.shape[1], image.shape[0]))
    return inside is not None and min(inside[2] - inside[0], inside[3] - inside[1]) >= MIN_SIDE


def _scaled(box: Box, scale: tuple[float, float]) -> Box:
    return (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])
