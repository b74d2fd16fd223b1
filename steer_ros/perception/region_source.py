"""From a frame and its features to the frame's masks: what to look for, keyframes, and the tracker between them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from steer_ros.regions.boxes import Box, clip_box
from steer_ros.regions.mask import Mask, box_weights
from steer_ros.regions.tracking import MIN_SIDE, Detection, Tracker

ROI_LABEL = "roi"


@dataclass(frozen=True)
class Sighting:
    """masks: those of the frame, boxes in frame pixels; None: nobody said where to look. keyframe: it was grounded.

    complaints: what was wrong with what it was told, in one line each: "bad_look_for" the words, "bad_roi" the box.
    """

    masks: list[Mask] | None
    keyframe: bool
    complaints: dict[str, str] = field(default_factory=dict)


class Lookout:
    """Looks for what it is told on keyframes, and follows it on the frames between.

    `look_for` and `set_roi` may be called from any thread; `step` from one. A keyframe is every `interval`-th frame,
    the first after a change of what to look for or of the frame size, and any that is `max_age` nanoseconds past the
    last keyframe: a mask that is carried along never gets older than that.
    """

    def __init__(self, interval: int = 10, max_age: int = 2_000_000_000) -> None:
        self.interval = interval
        self.max_age = max_age
        self._guard = threading.Lock()
        self._text = ""
        self._roi: Box | None = None
        self._roi_refused = False  # somebody said where to look, and there is nothing there
        self._changed = True
        self._tracker = Tracker()
        self._still: list[Mask] = []
        self._frames = 0
        self._keyframe_stamp = 0
        self._shape: tuple[int, ...] = ()

    def look_for(self, text: str) -> None:
        """What to look for from the next frame on, in words; empty: nothing. Said again, it changes nothing."""
        with self._guard:
            self._changed = self._changed or self._text != text.strip()
            self._text = text.strip()

    def set_roi(self, box: Box | None) -> None:
        """A region given as a box in frame pixels, from the next frame on; None clears it."""
        with self._guard:
            self._roi, self._roi_refused = box, False

    def reset(self) -> None:
        """Stamps have gone back, or the camera has changed: forget what was followed."""
        with self._guard:
            self._changed = True

    def step(self, image: np.ndarray, features: Any, perceiver: Any, stamp: int) -> Sighting:
        """The masks of one frame.

        image: uint8 [h, w, 3] RGB, the frame or a smaller copy of it. features: VisualFeatures, whose frame_size is
        the frame's own. stamp: nanoseconds.
        """
        with self._guard:
            text, roi, changed = self._text, self._roi, self._changed
            self._changed = False
        shape = (*image.shape, *features.frame_size)
        changed = changed or shape != self._shape  # another camera mode: nothing can be followed into it
        self._shape = shape
        masks: list[Mask] = []
        keyframe = False
        complaints: dict[str, str] = {}
        if text:
            keyframe = changed or self._frames + 1 >= self.interval or stamp - self._keyframe_stamp >= self.max_age
            try:
                found, refusal = self._ground(text, features, perceiver) if keyframe else (None, "")
                if refusal:
                    complaints["bad_look_for"] = refusal
                if changed or refusal:
                    self._tracker.reset()
                masks += self._follow(found, image, features, stamp)
            except BaseException:
                self.reset()  # what was half done is done anew
                raise
            if keyframe:
                self._frames, self._keyframe_stamp = 0, stamp
            else:
                self._frames += 1
        if roi is not None:
            try:
                masks.append(self._mask(features, roi, ROI_LABEL, ROI_LABEL, 1.0, "roi"))
            except ValueError as error:
                complaints["bad_roi"] = f"~/roi: {error}"
                with self._guard:
                    if self._roi == roi:
                        self._roi, self._roi_refused = None, True
        with self._guard:
            told = bool(text) or roi is not None or self._roi_refused
        return Sighting(masks if told else None, keyframe, complaints)

    @staticmethod
    def _ground(text: str, features: Any, perceiver: Any) -> tuple[list[Mask], str]:
        """The masks of what is there by these words; and why the model can't take them, in one line, or ""."""
        try:
            return perceiver.detect_regions(text, features), ""
        except ValueError as error:
            return [], f"look_for: {error}"

    def _follow(self, found: list[Mask] | None, image: np.ndarray, features: Any, stamp: int) -> list[Mask]:
        """The masks of a frame from those that were grounded in it; None: it is no keyframe."""
        width, height = features.frame_size
        scale = (image.shape[1] / width, image.shape[0] / height)
        if found is not None:
            # What has no object behind it (an area, a saliency) can't be followed: it holds until the next keyframe.
            self._still = [mask for mask in found if mask.source != "grounding"]
            seen = [mask for mask in found if mask.source == "grounding" and mask.box is not None]
            detections = [Detection(_scaled(mask.box, scale), mask.label, mask.score) for mask in seen]
            detections = [detection for detection in detections if _trackable(detection.box, image)]
            tracks = self._tracker.update_keyframe(image, detections, stamp)
        else:
            tracks = self._tracker.carry(image, stamp)
        back = (1 / scale[0], 1 / scale[1])
        source = "track" if found is None else "grounding"
        masks = []
        for track in tracks:
            try:
                box = _scaled(track.box, back)
                masks.append(self._mask(features, box, track.label, track.track_id, track.score, source))
            except ValueError:
                continue  # it has left the frame
        return masks + self._still

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
    """A model may answer with a sliver; the tracker would refuse the whole keyframe for it."""
    inside = clip_box(box, (image.shape[1], image.shape[0]))
    return inside is not None and min(inside[2] - inside[0], inside[3] - inside[1]) >= MIN_SIDE


def _scaled(box: Box, scale: tuple[float, float]) -> Box:
    return (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])
