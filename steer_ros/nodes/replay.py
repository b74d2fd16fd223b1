"""`replay`: a rosbag2 bag (MCAP or sqlite3) to topics with /clock, for machines without `ros2 bag`.

In lockstep the next frame goes out when the last frame's action has come: the same bag then gives the same turns on
any machine, however fast. Messages go out as they were recorded, header stamps too; topics are remapped as for any
node.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rosbags.interfaces import Connection, QosDurability
from rosbags.rosbag2 import Reader, ReaderError
from rosgraph_msgs.msg import Clock

from steer_ros.msg import ActionText
from steer_ros.nodes.base import STREAM
from steer_ros.nodes.errors import describe_error
from steer_ros.nodes.messages import stamp_of
from steer_ros.nodes.process import non_ros_args, one_interrupt, spinning
from steer_ros.nodes.recorded_types import form_difference
from steer_ros.pipeline.stamp_order import StampOrder, StampStatus

FRAME_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
ANSWERS, TOKENS, MASKS = (f"steer_ros/msg/{name}" for name in ("ActionText", "VisualTokens", "RoiMaskArray"))
TEXTS = ("action_text", "thought")
CLOCK = "/clock"
CLOCK_PERIOD = 0.025  # seconds of wall time between two /clock messages while no message is due
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


@dataclass
class Report:
    """What a replay did. late: frames whose action did not come in time (lockstep), or that were themselves late."""

    messages: int = 0
    frames: int = 0
    actions: int = 0
    late: int = 0
    skipped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"replay: {self.messages} messages, {self.frames} frames, {self.actions} actions"
        return text + (f", {self.late} frames without an action in time" if self.late else "")


class Replay(Node):
    """Plays one bag. frame_topic: the camera's; empty: the first topic of images in the bag."""

    def __init__(
        self,
        bag: Path,
        *,
        rate: float = 1.0,
        lockstep: bool = False,
        timeout: float = 30.0,
        loop: bool = False,
        clock: bool = True,
        frame_topic: str = "",
        **options: Any,
    ) -> None:
        if not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"--rate: {rate}; accepted is a finite number above 0")
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"--timeout: {timeout}; accepted is a finite number of seconds above 0")
        self._reader = open_bag(bag)
        super().__init__("replay", **options)
        self.report = Report()
        self._rate, self._lockstep, self._timeout, self._loop = rate, lockstep, timeout, loop
        self._publishers_by_topic: dict[str, Any] = {}
        self._types: dict[str, type] = {}
        try:
            self._frame_topic = self._choose_frames(frame_topic)
            for connection in self._reader.connections:
                self._advertise(connection)
        except BaseException:
            self._reader.close()
            self.destroy_node()
            raise
        if clock and CLOCK in self._publishers_by_topic:
            clock = False
            self.get_logger().info(f"the bag has a {CLOCK} of its own: it tells the time")
        self._clock_out = self.create_publisher(Clock, CLOCK, RELIABLE) if clock else None
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self)
        self._answered: set[tuple[int, int]] = set()
        self._order = StampOrder()
        self.create_subscription(ActionText, "action", self._on_action, STREAM)

    def play(self) -> Report:
        """The whole bag, once or for ever. Returns what was done; raises ExternalShutdownException on shutdown."""
        self._wait_for_peers()
        while True:
            self._check_running()
            started, first = time.monotonic(), None
            for topic, stamp, data in self._messages():
                first = stamp if first is None else first
                if not self._lockstep:
                    self._wait_until(started + (stamp - first) / 1e9 / self._rate, stamp)
                self._publish_clock(stamp)
                if topic == self._frame_topic:
                    self._send_frame(topic, data)
                else:
                    self._publishers_by_topic[topic].publish(data)
                self.report.messages += 1
                self._executor.spin_once(timeout_sec=0)
            if not self._loop or first is None:  # nothing to play is soon played for ever
                return self.report

    def end(self) -> None:
        self._executor.shutdown()
        self._reader.close()
        self.destroy_node()

    def _choose_frames(self, wanted: str) -> str:
        images = sorted(c.topic for c in self._reader.connections if c.msgtype in FRAME_TYPES)
        if wanted and wanted not in images:
            raise ValueError(f"--frames: {wanted!r}; the bag's topics of images are {', '.join(images) or 'none'}")
        if not images and self._lockstep:
            raise ValueError("--lockstep: the bag has no topic of images")
        return wanted or (images[0] if images else "")

    def _advertise(self, connection: Connection) -> None:
        topic, name = connection.topic, connection.msgtype
        if topic in self._publishers_by_topic:
            return
        try:
            message_type = type_named(name)
        except (ImportError, AttributeError, ValueError):
            self.report.skipped.append(topic)
            self.get_logger().warning(f"{topic}: type {name} is not installed; skipped")
            return
        try:
            if self._is_output(topic):
                return
            if difference := form_difference(connection):
                raise ValueError(
                    f"{topic}: recorded by another release of steer_ros, this one can't read it: {difference}"
                )
            self._publishers_by_topic[topic] = self.create_publisher(message_type, topic, offered(connection))
        except (InvalidTopicNameException, RuntimeError) as error:  # the second is rcl's own
            self.report.skipped.append(topic)
            self.get_logger().warning(f"{topic!r}: {describe_error(error)}; skipped")
        else:
            self._types[topic] = message_type

    def _is_output(self, topic: str) -> bool:
        """Whether the nodes speak on it: what they said as the bag was recorded must not pass for what they say now,
        least of all to a robot. Tokens, and masks beside them, are played where the bag has no frames for them."""
        of_type = {c.topic: c.msgtype for c in self._reader.connections}
        spaces = {t.rpartition("/")[0] for t, kind in of_type.items() if kind == ANSWERS}
        recorded = of_type[topic] == ANSWERS or topic in {f"{space}/{n}" for space in spaces for n in TEXTS}
        if TOKENS in of_type.values() and self._frame_topic:
            recorded = recorded or of_type[topic] in (TOKENS, MASKS)
        if not recorded and self.resolve_topic_name(topic) not in {self.resolve_topic_name(n) for n in TEXTS}:
            return False
        if topic not in self.report.skipped:
            self.report.skipped.append(topic)
            self.get_logger().info(f"{topic}: the nodes' own, as it was recorded; skipped")
        return True

    def _messages(self) -> Iterator[tuple[str, int, bytes]]:
        for connection, stamp, data in self._reader.messages():
            if connection.topic in self._publishers_by_topic:
                yield connection.topic, stamp, bytes(data)

    def _send_frame(self, topic: str, data: bytes) -> bool:
        """Publish a frame and, in lockstep, wait for its action; False: there will be none, it comes out of turn."""
        self.report.frames += 1
        if not self._lockstep:
            self._publishers_by_topic[topic].publish(data)
            return True
        header = deserialize_message(data, self._types[topic]).header
        stamp = header.stamp
        key = (stamp.sec, stamp.nanosec)
        self._answered.discard(key)
        self._publishers_by_topic[topic].publish(data)
        if self._order.take(stamp_of(header)) is StampStatus.LATE:  # perception drops it
            self.report.late += 1
            return False
        if not self._spin_until(lambda: key in self._answered, self._timeout):
            self.report.late += 1
            self.get_logger().warning(f"frame {stamp.sec}.{stamp.nanosec:09d}: no action within {self._timeout:g} s")
        return True

    def _on_action(self, message: ActionText) -> None:
        self.report.actions += 1
        self._answered.add((message.header.stamp.sec, message.header.stamp.nanosec))

    def _wait_for_peers(self) -> None:
        """Wait until somebody takes the frames and, in lockstep, somebody answers: never for a fixed time."""
        frames = self._publishers_by_topic.get(self._frame_topic)
        if frames is None:
            return
        answers = self.resolve_topic_name("action")  # count_publishers does not remap

        def ready() -> bool:
            taken = frames.get_subscription_count() > 0
            return taken and (not self._lockstep or self.count_publishers(answers) > 0)

        if not self._spin_until(ready, self._timeout):
            self.get_logger().warning(
                f"nobody takes {frames.topic_name} after {self._timeout:g} s; playing all the same"
            )

    def _wait_until(self, due: float, stamp: int) -> None:
        """Keep /clock going until the next message is due."""
        while (left := due - time.monotonic()) > 0:
            if left > CLOCK_PERIOD:
                self._publish_clock(stamp - int(left * self._rate * 1e9))
            self._executor.spin_once(timeout_sec=min(left, CLOCK_PERIOD))
            self._check_running()

    def _spin_until(self, done: Callable[[], bool], timeout: float) -> bool:
        end = time.monotonic() + timeout
        while not done():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(left, 0.05))
            self._check_running()
        return True

    def _publish_clock(self, stamp: int) -> None:
        if self._clock_out is not None:
            seconds, nanoseconds = divmod(max(0, stamp), 1_000_000_000)
            self._clock_out.publish(Clock(clock=Time(sec=seconds, nanosec=nanoseconds)))

    def _check_running(self) -> None:
        if not self.context.ok():
            raise ExternalShutdownException


def offered(connection: Connection) -> QoSProfile:
    """Reliable, which suits every subscriber, and latched where it was as the bag was recorded (/tf_static, maps)."""
    latched = [q for q in connection.ext.offered_qos_profiles if q.durability == QosDurability.TRANSIENT_LOCAL]
    if not latched:
        return RELIABLE
    depth = max(RELIABLE.depth, *(q.depth for q in latched))
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def open_bag(path: Path) -> Reader:
    """The bag, opened. Raises ValueError in one line."""
    if not path.exists():
        raise ValueError(f"bag {str(path)!r}: no such file or folder")
    try:
        reader = Reader(path)
        reader.open()
    except Exception as error:  # a damaged bag makes the reader raise what it likes
        plain = isinstance(error, (ReaderError, OSError))
        raise ValueError(
            f"bag {str(path)!r}: {' '.join(str(error).split()) if plain else describe_error(error)}"
        ) from error
    return reader


def type_named(name: str) -> type:
    """The Python class of "package/msg/Type". Raises ImportError, AttributeError or ValueError if there is none."""
    package, kind, type_name = name.split("/")
    if kind != "msg" or not package.isidentifier() or not type_name.isidentifier():
        raise ValueError(f"type {name!r}: not of the form package/msg/Type")
    return getattr(importlib.import_module(f"{package}.msg"), type_name)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="replay",
        description=__doc__.splitlines()[0],
        epilog="ROS arguments follow --ros-args: -r /image:=/camera/image_raw",
    )
    parser.add_argument("bag", type=Path, help="folder of a rosbag2 bag, or an .mcap file")
    parser.add_argument("--rate", type=float, help="speed, 1 as recorded (default); lockstep has none")
    parser.add_argument(
        "--lockstep", action="store_true", help="send the next frame when the last one's action has come on `action`"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        help="seconds to wait for peers at start and, in lockstep, for each action (default 30)",
    )
    parser.add_argument("--loop", action="store_true", help="begin again at the end; stamps then go back")
    parser.add_argument("--no-clock", action="store_true", help="don't publish /clock")
    parser.add_argument(
        "--frames", default="", metavar="TOPIC", help="the bag's topic of camera frames (default: the first of images)"
    )
    options = parser.parse_args(arguments)
    if options.lockstep and options.rate is not None:
        parser.error("--rate: lockstep has none")
    return options


def main(args: Sequence[str] | None = None) -> int:
    """Play a bag; 0, or 1 if in lockstep not one action came, or 2 for wrong arguments."""
    given = list(sys.argv if args is None else ["replay", *args])
    options = parse(non_ros_args(given))
    with one_interrupt() as no_more_interrupts:
        return _run(options, given, no_more_interrupts)


def _run(options: argparse.Namespace, args: Sequence[str], no_more_interrupts: Callable[[], None]) -> int:
    rclpy.init(args=args)
    replay = None
    try:
        replay = Replay(
            options.bag,
            rate=1.0 if options.rate is None else options.rate,
            lockstep=options.lockstep,
            timeout=options.timeout,
            loop=options.loop,
            clock=not options.no_clock,
            frame_topic=options.frames,
        )
        with spinning(no_more_interrupts):
            report = replay.play()
        print(report, flush=True)
        return 1 if options.lockstep and report.frames and not report.actions else 0
    except ValueError as error:
        print(f"replay: {describe_error(error)}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        no_more_interrupts()
        if replay is not None:
            replay.end()
        rclpy.try_shutdown()
