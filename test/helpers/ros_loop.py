"""Both nodes around stand-in models that read colours, and the bags and reports that several tests make of them."""

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from ros_helpers import FakePerceiver, FakeReasoner, header, image, scene
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image
from std_msgs.msg import String

from steer_ros.msg import ActionText, RoiMaskArray
from steer_ros.nodes.perception import PerceptionNode
from steer_ros.nodes.reasoning import ReasoningNode
from steer_ros.pipeline.handover import Handover

STORE = get_typestore(Stores.ROS2_KILTED)
TYPES = STORE.types
# Blue has more of the frame: unsteered, the answer is blue.
FRAME = scene(red=(4, 4), blue=(60, 50))
FRAME[50:78, 92:120] = FRAME[50:78, 60:88]


class Loop:
    """Both nodes, joined in one process or by topics."""

    def __init__(self, bench, together, perception=None, reasoning=None):
        self.bench = bench
        self.perceiver, self.reasoner = FakePerceiver(), FakeReasoner()
        handover = Handover() if together else None
        reasoning = {"mask_wait_ms": 60_000, **(reasoning or {})}  # a busy machine is slow, not broken
        self.reasoning = bench.start(
            ReasoningNode, handover, load_model=lambda *a, **k: self.reasoner, parameters=reasoning
        )
        self.perception = bench.start(
            PerceptionNode, handover, load_model=lambda *a, **k: self.perceiver, parameters=perception
        )
        self.actions = bench.record(ActionText, "action")
        self.texts = bench.record(String, "action_text")
        self.thoughts = bench.record(String, "thought")
        self.masks = bench.record(RoiMaskArray, "roi_masks")
        bench.wait(
            lambda: all(bench.peer.count_publishers(t) for t in ("action", "action_text", "thought", "roi_masks")),
            "the nodes' topics",
        )
        for topic in ("/action", "/action_text", "/thought", "/roi_masks"):
            reader = next(s for s in bench.peer.subscriptions if s.topic_name == topic)
            bench.wait(lambda reader=reader: reader.get_publisher_count() > 0, topic)
        if not together:
            bench.wait(lambda: self.perception._tokens_out.get_subscription_count() > 0, "visual_tokens")
            bench.wait(lambda: self.perception._masks_out.get_subscription_count() > 1, "roi_masks")
        self.camera = bench.publisher(Image, "image")
        self.stamp = 1000

    def send(self, pixels=FRAME, stamp=None, **changes):
        """One frame; returns its action."""
        self.stamp = self.stamp + 100 if stamp is None else stamp
        count = len(self.actions)
        self.camera.publish(image(pixels, self.stamp, **changes))
        self.bench.wait(lambda: len(self.actions) > count, f"the action of frame {self.stamp}")
        assert self.actions[-1].header == header(self.stamp)
        return self.actions[-1]


def report(loop, node, publish=True):
    """The next diagnostic status of a node, and its values."""
    heard = loop.bench.heard.get("/diagnostics")
    if heard is None:
        heard = loop.bench.record(DiagnosticArray, "/diagnostics")
        reader = next(s for s in loop.bench.peer.subscriptions if s.topic_name == "/diagnostics")
        loop.bench.wait(lambda: reader.get_publisher_count() >= 2, "/diagnostics")
    heard.clear()
    node.health.publish()

    def mine():
        return [status for array in heard for status in array.status if status.name == node.get_name()]

    loop.bench.wait(mine, "a report")
    return mine()[-1], {pair.key: pair.value for pair in mine()[-1].values}


FRAMES = [scene(red=(4 + 4 * i, 20), blue=(70, 50), green=(98, 4)) for i in range(6)]


def write_bag(path, frames, topic="/image", period=0.1, storage=StoragePlugin.MCAP, odd=False, stamps=()):
    """frames: RGB arrays, recorded at 100 s, 100.1 s, …, and so stamped, or with `stamps`; a camera_info comes with
    each."""
    make_image, make_info = TYPES["sensor_msgs/msg/Image"], TYPES["sensor_msgs/msg/CameraInfo"]
    make_header, make_time = TYPES["std_msgs/msg/Header"], TYPES["builtin_interfaces/msg/Time"]
    make_roi = TYPES["sensor_msgs/msg/RegionOfInterest"]
    with Writer(path, version=9, storage_plugin=storage) as writer:
        images = writer.add_connection(topic, "sensor_msgs/msg/Image", typestore=STORE)
        infos = writer.add_connection("/camera_info", "sensor_msgs/msg/CameraInfo", typestore=STORE)
        if odd:
            strange = writer.add_connection(
                "/strange", "nowhere_msgs/msg/Thing", msgdef="int32 a\n", rihs01="RIHS01_" + "0" * 64
            )
        for index, frame in enumerate(frames):
            stamp = 100_000_000_000 + round(index * period * 1e9)
            stamped = round(stamps[index] * 10) * 10**8 if stamps else stamp
            head = make_header(make_time(stamped // 10**9, stamped % 10**9), "camera")
            height, width = frame.shape[:2]
            message = make_image(head, height, width, "rgb8", 0, width * 3, frame.reshape(-1))
            flat = np.zeros(9)
            info = make_info(
                head, height, width, "", flat[:0], flat, flat, np.zeros(12), 0, 0, make_roi(0, 0, 0, 0, False)
            )
            if odd:
                writer.write(strange, stamp, b"\0\1\0\0\5\0\0\0")
            writer.write(infos, stamp, STORE.serialize_cdr(info, info.__msgtype__))
            writer.write(images, stamp, STORE.serialize_cdr(message, message.__msgtype__))
    return path
