"""What the node tests share: stand-ins for the models, a peer that records, and waiting without sleeping."""

from __future__ import annotations

import array
import time

import numpy as np
import rclpy
import torch
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from steer_ros.models.features import VisualFeatures
from steer_ros.reasoning.turn import Turn
from steer_ros.regions.grid import PatchGrid
from steer_ros.regions.mask import Mask, box_weights, pool_to_tokens, union
from steer_ros.steering import SteeringConfig
from steer_ros.steering.steering_file import SteeringFile

BOUND = 120.0  # seconds after which a test that waits has failed; a busy machine is slow, not broken
RELIABLE = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
COLOURS = {"red": 0, "green": 1, "blue": 2}


class FakePerceiver:
    """Tokens are the mean colours of their cells; `detect_regions` finds the cells of a named colour."""

    device = torch.device("cpu")

    def __init__(self, name: str = "fake", **_: object) -> None:
        self.name = name
        self.encoded = 0
        self.grounded: list[str] = []
        self.fail: Exception | None = None

    def encode(self, image: np.ndarray, stamp: int | None = None) -> VisualFeatures:
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        self.encoded += 1
        height, width = image.shape[:2]
        grid = PatchGrid(8, 8)
        rows = np.array_split(np.arange(height), grid.token_rows)
        cols = np.array_split(np.arange(width), grid.token_cols)
        means = [[image[np.ix_(r, c)].mean((0, 1)) if len(r) and len(c) else np.zeros(3) for c in cols] for r in rows]
        self.tokens = torch.tensor(np.array(means).reshape(-1, 3), dtype=torch.float32) / 255
        return VisualFeatures(self.tokens, grid, (width, height), self.name, stamp)

    def detect_regions(self, text: str, features: VisualFeatures) -> list[Mask]:
        self.grounded.append(text)
        grid, (width, height) = features.grid, features.frame_size
        if text == "left":
            box = (0.0, 0.0, width / 2, float(height))
            return [Mask(box_weights(grid, (width, height), box), "left", source="phrase", box=box)]
        colour = COLOURS[text.split()[0]]
        others = [c for c in range(3) if c != colour]
        excess = features.tokens[:, colour] - features.tokens[:, others].amax(1)
        found = (excess > 0.3).reshape(grid.token_rows, grid.token_cols).nonzero()
        if not len(found):
            return []
        cell = (width / grid.token_cols, height / grid.token_rows)
        (r0, c0), (r1, c1) = found.amin(0).tolist(), found.amax(0).tolist()
        box = (c0 * cell[0], r0 * cell[1], (c1 + 1) * cell[0], (r1 + 1) * cell[1])
        weights = box_weights(grid, features.frame_size, box)
        return [Mask(weights, text, score=0.9, source="grounding", box=box)]


class FakeReasoner:
    """Says the colour that the steered tokens have most of; unsteered, of the whole frame. Two thought tokens."""

    device = torch.device("cpu")

    def __init__(self, name: str = "fake", **_: object) -> None:
        self.name = name
        self.config = SteeringConfig.parse({"law": "conserving", "alpha": 8.0, "schedule": "prompt=0"})
        self.steering_file = SteeringFile(self.config)
        self.calls: list[dict] = []
        self.before_token = lambda: None
        self.fail: Exception | None = None
        self.action: str | None = None
        self.steers = True
        self.over_steered = ""  # why the first attempt at an answer is rolled back
        self.closed = 0
        self.bridge = "token"  # or "text": frames are known by their regions' words

    def close(self) -> None:
        self.closed += 1

    def check_config(self, config) -> None:
        config.check(layers=4, heads=4)

    def bridge_for(self, features) -> str:
        return self.bridge

    def generate(self, prompt, frames, masks, *, config, limits, callbacks) -> Turn:
        self.calls.append({"prompt": prompt, "features": frames, "mask": masks, "config": config, "limits": limits})
        stop, on_text = callbacks.stop, callbacks.on_text
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        turn = Turn(prompt=prompt, config=config)
        turn.timings = {"prefill": 1.0, "decode": 2.0, "total": 3.0}
        weights = torch.ones(len(frames.tokens))
        if self.steers and masks and config.steers:
            merged = union([mask.weights for mask in masks])
            weights = torch.tensor(pool_to_tokens(merged).reshape(-1) > 0, dtype=torch.float32)
            turn.steered, turn.focus_before, turn.focus_after = True, 0.1, 0.7
            turn.steered_tokens = 1
        mean = (frames.tokens.float() * weights[:, None]).sum(0)
        colour = list(COLOURS)[int(mean.argmax())]
        if self.over_steered:
            on_text("think", "look look look")
            on_text("rollback", self.over_steered)
            turn.rollbacks, turn.scale = 1, 0.5
            turn.warnings = (f"rolled back to 0.5 of the strength: {self.over_steered}",)
        for word in ("I look at ", f"the {colour} one."):
            self.before_token()
            if reason := stop():
                turn.cut_short, turn.cut_reason = True, reason
                return turn
            turn.thought += word
            turn.thought_tokens += 1
            on_text("think", word)
        turn.action = f"Pick up the {colour} one." if self.action is None else self.action
        on_text("act", turn.action)
        return turn


class Bench:
    """A ROS context with one executor: nodes under test and a peer that publishes and records."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.nodes: list[Node] = []
        self.peer = self.add(Node("peer", context=self.context))
        self.heard: dict[str, list] = {}

    def add(self, node: Node) -> Node:
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def start(self, make, *args, parameters: dict | None = None, start: bool = True, **options) -> Node:
        """A node with these parameter overrides, configured and active unless `start` is false."""
        overrides = [Parameter(name, value=value) for name, value in (parameters or {}).items()]
        node = self.add(make(*args, context=self.context, parameter_overrides=overrides, **options))
        if start:
            node.autostart()
        return node

    def record(self, message_type: type, topic: str, qos=RELIABLE) -> list:
        heard = self.heard.setdefault(topic, [])
        self.peer.create_subscription(message_type, topic, heard.append, qos)
        return heard

    def publisher(self, message_type: type, topic: str, readers: int = 1, qos=RELIABLE, bound: float = BOUND):
        """A publisher that as many readers as that have found."""
        publisher = self.peer.create_publisher(message_type, topic, qos)
        self.wait(lambda: publisher.get_subscription_count() >= readers, f"{readers} readers of {topic}", bound)
        return publisher

    def wait(self, done, what: str = "it", bound: float = BOUND) -> None:
        end = time.monotonic() + bound
        while not done():
            assert time.monotonic() < end, f"waited {bound:g} s in vain for {what}"
            self.executor.spin_once(timeout_sec=0.02)

    def ask(self, request, what: str):
        """The answer to a request of another process, which may be made more than once.

        Asked again each second: a node that has not found its asker yet sends an answer that nobody gets.
        """
        asked, due = [], 0.0

        def answers() -> list:
            nonlocal due
            if time.monotonic() >= due:
                asked.append(request())
                due = time.monotonic() + 1.0
            return [answer for answer in asked if answer.done()]

        self.wait(answers, what)
        return answers()[0].result()

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.end() if hasattr(node, "end") else node.destroy_node()
        self.executor.shutdown()
        self.context.try_shutdown()


def header(stamp: int, frame_id: str = "camera") -> Header:
    """stamp: milliseconds."""
    message = Header(frame_id=frame_id)
    message.stamp.sec, message.stamp.nanosec = stamp // 1000, stamp % 1000 * 1_000_000
    return message


def image(pixels: np.ndarray, stamp: int, encoding: str = "rgb8", **changes: object) -> Image:
    """An image message of uint8 pixels; `changes` break it on purpose."""
    height, width = pixels.shape[:2]
    data = array.array("B", np.ascontiguousarray(pixels).tobytes())
    fields = dict(height=height, width=width, encoding=encoding, step=pixels.nbytes // max(1, height), data=data)
    return Image(header=header(stamp), **{**fields, **changes})


def scene(**squares: tuple[int, int]) -> np.ndarray:
    """uint8 [96, 128, 3] RGB, grey, with a square of each named colour: red=(x, y) of its top left corner, 28 px."""
    pixels = np.full((96, 128, 3), 60, np.uint8)
    for colour, (x, y) in squares.items():
        pixels[y : y + 28, x : x + 28] = 20
        pixels[y : y + 28, x : x + 28, COLOURS[colour]] = 250
        pixels[y + 8 : y + 16, x + 8 : x + 16, COLOURS[colour]] = 180
    return pixels
