"""Lifecycle node `perception`: camera frames in; visual tokens and the masks of what to look for out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cv_bridge import CvBridge
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import String

from steer_ros.msg import RoiMaskArray, VisualTokens
from steer_ros.nodes.base import LATEST, SENSOR_DATA, STREAM, SteerNode, header_copy
from steer_ros.nodes.images import BadImage, check, shrunk, to_message, to_rgb
from steer_ros.nodes.messages import masks_message, stamp_of, tokens_message
from steer_ros.nodes.parameter_specs import PERCEPTION
from steer_ros.nodes.process import run
from steer_ros.perception.perceiver import Perceiver
from steer_ros.perception.region_source import FrameRegions, RegionSource, resized
from steer_ros.pipeline.handover import Handover, PerceivedFrame
from steer_ros.pipeline.lane import fence
from steer_ros.pipeline.mailbox import Mailbox
from steer_ros.pipeline.stamp_order import StampOrder, StampStatus
from steer_ros.pipeline.trace import Trace
from steer_ros.regions.drawing import label_image, overlay


@dataclass(frozen=True)
class PendingFrame:
    """A frame that waits for the lane. received: nanoseconds by the node's clock."""

    message: Image | CompressedImage
    received: int
    trace: Trace


class PerceptionNode(SteerNode):
    """handover: where frames go within the process; None: tokens go out as `visual_tokens`.

    load_model(name, device=…, dtype=…): returns a Perceiver.
    """

    def __init__(
        self,
        handover: Handover | None = None,
        *,
        load_model: Callable[..., Any] = Perceiver.from_pretrained,
        **options: Any,
    ) -> None:
        self._handover = handover
        self._load_model = load_model
        self._perceiver: Any = None
        self._region_source = RegionSource()
        self._mailbox: Mailbox[PendingFrame] | None = None
        self._dropped = 0
        self._bridge = CvBridge()
        self._last_frame: float | None = None  # steady seconds; None: not active
        self._order = StampOrder()
        super().__init__("perception", PERCEPTION, **options)
        for name in ("look_for", "keyframe_interval", "mask_max_age_ms"):
            self.changed(name, self.parameters[name])

    def load(self) -> None:
        self._perceiver = self._load_model(
            self.parameters["model"], device=self.parameters["device"], dtype=self.parameters["dtype"]
        )
        self.get_logger().info(f"model {self.parameters['model']} on {self.model_device()}")

    def unload(self) -> None:
        self._perceiver = None

    def model_device(self) -> Any:
        return self._perceiver.device

    def open(self) -> None:
        self._region_source.reset()
        self._order = StampOrder()
        self._masks_out = self.publish_on(RoiMaskArray, "roi_masks", LATEST)
        self._labels_out = self.publish_on(Image, "roi_image", LATEST)
        self._overlay_out = self.publish_on(Image, "overlay", LATEST)
        self._tokens_out = None if self._handover else self.publish_on(VisualTokens, "visual_tokens", LATEST)
        self._mailbox = Mailbox()
        self.lane.serve(self._mailbox, self._perceive)
        self.subscribe(String, "~/look_for", self._on_look_for, STREAM)
        self.subscribe(RegionOfInterest, "~/roi", self._on_roi, STREAM)
        # The transport's topic hangs below the image's own, wherever that is remapped to.
        if self.parameters["transport"] == "compressed":
            self.subscribe(
                CompressedImage, self.resolve_topic_name("image") + "/compressed", self._on_image, SENSOR_DATA
            )
        else:
            self.subscribe(Image, "image", self._on_image, SENSOR_DATA)
        self._last_frame = time.monotonic()

    def close(self) -> None:
        self._last_frame = None
        if self._mailbox is not None:
            self._mailbox.close()
            self._dropped += self._mailbox.dropped
            self._mailbox = None

    def changed(self, name: str, value: Any) -> None:
        if name == "look_for":
            self._region_source.look_for(value)
        elif name == "keyframe_interval":
            self._region_source.interval = value
        elif name == "mask_max_age_ms":
            self._region_source.max_age = int(value * 1e6)

    def active_alarm(self) -> str:
        last = self._last_frame
        silent = 0.0 if last is None else time.monotonic() - last
        if silent * 1e3 < self.parameters["camera_timeout_ms"]:
            return ""
        return f"camera silent: no frame on {self.resolve_topic_name('image')} for {silent:.1f} s"

    def counts(self) -> dict[str, int]:
        mailbox = self._mailbox
        counts = {"frames_dropped": self._dropped + (mailbox.dropped if mailbox else 0)}
        if self._handover:
            counts["frames_unreceived"] = self._handover.unreceived
        return counts

    # Callbacks: take the message and return.
    def _on_image(self, message: Image | CompressedImage) -> None:
        pending = PendingFrame(message, self.receipt(message.header), Trace())
        self._last_frame = time.monotonic()
        self.health.count("frames_received")
        try:
            check(message, self.parameters["max_image_pixels"])
        except BadImage as error:
            self._refuse(error)
        else:
            self._mailbox.put(pending)

    def _on_look_for(self, message: String) -> None:
        try:
            self.parameters["look_for"] = message.data
        except ValueError as error:
            self.health.warn_refused("bad_look_for", str(error))

    def _on_roi(self, message: RegionOfInterest) -> None:
        if not message.width or not message.height:
            self._region_source.set_roi(None)
            return
        self._region_source.set_roi(
            (
                float(message.x_offset),
                float(message.y_offset),
                float(message.x_offset + message.width),
                float(message.y_offset + message.height),
            )
        )

    # The lane.
    def _perceive(self, pending: PendingFrame) -> None:
        trace, header = pending.trace, header_copy(pending.message.header)
        trace.add("wait", trace.elapsed)
        stamp = stamp_of(header)
        status = self._order.take(stamp)
        if status is StampStatus.LATE:
            self.health.count("frames_late")
            return
        if status is StampStatus.RESET:
            self.health.count("stamps_back")
            self._region_source.reset()
            if self._handover:
                self._handover.reset(stamp)
        elif status is StampStatus.DUPLICATE:
            self.health.warn_refused(
                "stamps_repeated",
                f"two frames have the stamp {stamp} ns: nobody can tell which of them masks and actions belong to",
            )
        try:
            with trace.stage("convert"):
                image = to_rgb(pending.message, self._bridge, self.parameters["max_image_pixels"])
        except BadImage as error:
            self._refuse(error)
            return
        frame_size = (image.shape[1], image.shape[0])
        with trace.stage("convert"):
            image = shrunk(image, self.parameters["max_working_pixels"])
        with trace.stage("encode"):
            features = resized(self._perceiver.encode(image, stamp), frame_size)
        with trace.stage("look"):
            regions = self._region_source.step(image, features, self._perceiver, stamp)
        for kind, text in regions.errors.items():
            self.health.warn_refused(kind, text)
        self.health.count("keyframes", int(regions.keyframe))
        # Hand over before publishing: when the masks come back by topic, reasoning must know the frame already.
        self._hand_over(pending, stamp, header, features, regions)
        with trace.stage("publish"):
            self._publish(image, features, header, regions)
        self.health.count("frames_seen")
        self.health.stages.add({**trace.stages, "perceive": trace.elapsed})

    def _hand_over(self, pending: PendingFrame, stamp: int, header: Any, features: Any, regions: FrameRegions) -> None:
        if self._handover is None:
            self._tokens_out.publish(
                tokens_message(features, header, regions.masks is not None, pending.trace.elapsed)
            )
            return
        self._handover.send(
            PerceivedFrame(
                stamp,
                header,
                features,
                regions.masks,
                pending.received,
                pending.trace.elapsed,
                fence(features.tokens.device),
            )
        )

    def _publish(self, image: Any, features: Any, header: Any, regions: FrameRegions) -> None:
        masks = regions.masks
        if masks is not None:
            self._masks_out.publish(masks_message(masks, features, header))
        if self._labels_out.get_subscription_count():
            self._labels_out.publish(to_message(label_image(masks or [], features.frame_size), "mono8", header))
        if self._overlay_out.get_subscription_count():
            self._overlay_out.publish(to_message(overlay(image, masks or [], features.frame_size), "bgr8", header))

    def _refuse(self, error: BadImage) -> None:
        self.health.count("bad_images")
        self.health.warn_refused(f"bad_image_{error.kind}", str(error))


def main(args: Sequence[str] | None = None) -> int:
    """Run perception in a process of its own."""
    return run(lambda: [PerceptionNode()], args, __doc__)
