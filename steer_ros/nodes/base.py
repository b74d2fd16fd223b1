"""What the lifecycle nodes share: parameters, autostart, one-line failures and a lane."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from std_msgs.msg import Header

from steer_ros.nodes.diagnostics import Health
from steer_ros.nodes.errors import describe_error
from steer_ros.nodes.messages import stamp_of
from steer_ros.nodes.parameter_specs import ParameterSpec
from steer_ros.nodes.parameters import Parameters
from steer_ros.pipeline.lane import Lane

SENSOR_DATA = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
)
LATEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
STREAM = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)

STOP_SECONDS = 10.0


class StartError(RuntimeError):
    """A node could not start; the message is one line."""


class SteerNode(LifecycleNode):
    """A lifecycle node that does its work on one lane.

    Subscriptions and publishers of the work exist while the node is active: a peer that sees them knows that it
    will be served. A subclass implements `load` (heavy, on configure), `open` and `close` (on activate, deactivate).
    """

    def __init__(self, name: str, specs: Sequence[ParameterSpec], **options: Any) -> None:
        super().__init__(name, **options)
        self.failure = ""
        self.lane: Lane | None = None
        self._opened: list[Any] = []
        try:
            self.parameters = Parameters(self, specs, self.changed)
        except BaseException:
            self.destroy_node()
            raise
        self.health = Health(self, self.active_alarm, self.counts, self.facts)
        self._warn_unknown_parameters()

    # What subclasses implement.
    def load(self) -> None:
        """Load the model. May take its time; raises with one line that says what is wrong."""
        raise NotImplementedError

    def unload(self) -> None:
        """Release the model."""
        raise NotImplementedError

    def open(self) -> None:
        """Create topics and put the lane to work."""
        raise NotImplementedError

    def close(self) -> None:
        """Wake whatever the lane may be waiting for; it is stopped next."""

    def changed(self, name: str, value: Any) -> None:
        """A parameter has a new value."""

    def active_alarm(self) -> str:
        """What is wrong right now, in one line; empty if nothing is."""
        return ""

    def counts(self) -> dict[str, int]:
        """Counters kept outside `health`."""
        return {}

    def facts(self) -> dict[str, str]:
        """What diagnostics report besides counts and times, by name."""
        return {}

    # Lifecycle.
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("configure", self.load, locked=True)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = self._attempt("activate", self._activate, locked=True)
        if result != TransitionCallbackReturn.SUCCESS:
            self._deactivate()
            return result
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.unload()
        self.parameters.locked = False
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._deactivate()
        self.unload()
        return super().on_shutdown(state)

    def autostart(self) -> None:
        """Configure and activate, unless parameter `autostart` says no. Raises StartError."""
        if not self.parameters["autostart"]:
            return
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                raise StartError(self.failure or f"{self.get_name()}: did not start")
        self.get_logger().info("active")

    def end(self) -> None:
        """Stop the work and destroy the node; in any state."""
        self._deactivate()
        self.destroy_node()

    # For subclasses.
    def subscribe(self, message_type: type, topic: str, callback: Callable[[Any], None], qos: QoSProfile) -> None:
        """A subscription that lasts while the node is active. Its QoS can be overridden by parameters."""
        self._opened.append(
            self.create_subscription(
                message_type,
                topic,
                self._guarded(topic, callback),
                copy.copy(qos),  # rclpy writes what is overridden into it
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        )

    def publish_on(self, message_type: type, topic: str, qos: QoSProfile) -> Any:
        """A publisher that lasts while the node is active. Its QoS can be overridden by parameters."""
        publisher = self.create_publisher(
            message_type, topic, copy.copy(qos), qos_overriding_options=QoSOverridingOptions.with_default_policies()
        )
        self._opened.append(publisher)
        return publisher

    def receipt(self, header: Header) -> int:
        """Now, by the node's clock, in nanoseconds: when a frame with this header was received.

        Under simulated time a frame may overtake the /clock message that goes with it; its own stamp tells then.
        """
        clock = self.get_clock()
        now = clock.now().nanoseconds
        return max(now, stamp_of(header)) if clock.ros_time_is_active else now

    def lane_failed(self, lane: str, error: BaseException) -> None:
        """A lane's work raised; it goes on."""
        if not self.context.ok():
            return  # the process is ending: what was under way could not publish
        self.health.error(f"{lane}_errors", describe_error(error))

    def _warn_unknown_parameters(self) -> None:
        """ROS silently ignores a parameter that the node does not declare; warn, since it may be misspelt."""
        given = getattr(self, "_parameter_overrides", {})
        for name in given:
            if not self.has_parameter(name) and not name.startswith("qos_overrides."):
                self.get_logger().warning(f"parameter {name} is none of {self.get_name()}'s; ignored")

    def _guarded(self, topic: str, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        def handle(message: Any) -> None:
            if self.lane is None:
                return  # taken from the queue before the node was deactivated
            try:
                callback(message)
            except Exception as error:  # a message never kills a node
                self.health.error("callback_errors", f"{topic}: {describe_error(error)}")

        return handle

    def _activate(self) -> None:
        self.lane = Lane(self.get_name(), self.model_device(), self.lane_failed)
        self.open()

    def model_device(self) -> Any:
        """The device of the lane's stream: the model's."""
        return "cpu"

    def _deactivate(self) -> None:
        lane, self.lane = self.lane, None
        self.close()
        if lane is not None and not lane.stop(STOP_SECONDS):
            self.health.error("lane_errors", f"work did not end within {STOP_SECONDS:g} s; left behind")
        opened, self._opened = self._opened, []
        for entity in opened:
            if hasattr(entity, "publish"):
                self.destroy_publisher(entity)
            else:
                self.destroy_subscription(entity)

    def _attempt(self, what: str, work: Callable[[], None], locked: bool) -> TransitionCallbackReturn:
        # rclpy swallows what a transition raises; the one line that says why must not be lost.
        try:
            work()
        except Exception as error:
            self.failure = f"{self.get_name()}: {describe_error(error)}"
            self.health.error(f"{what}_errors", describe_error(error))
            return TransitionCallbackReturn.FAILURE
        self.parameters.locked = locked
        return TransitionCallbackReturn.SUCCESS


def header_copy(header: Header) -> Header:
    """A header of our own: messages share what they are given."""
    return Header(stamp=header.stamp, frame_id=header.frame_id)
