"""What a node counts and reports: /diagnostics, and warnings that don't flood the log."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from steer_ros.pipeline.trace import StageTimes

PERIOD = 1.0  # seconds between reports
WARNING_INTERVAL = 5.0  # seconds between two warnings of the same kind


class Health:
    """Counts, stage times and errors of one node. Counting is safe from any thread.

    active_alarm: returns what is wrong right now ("camera silent: …"), or an empty text; called for each report.
    counts: returns counters kept elsewhere (drops), by name. facts: returns what else is to be reported, by name.
    """

    def __init__(
        self,
        node: Node,
        active_alarm: Callable[[], str] = str,
        counts: Callable[[], dict[str, int]] = dict,
        facts: Callable[[], dict[str, str]] = dict,
    ) -> None:
        self._node = node
        self._active_alarm = active_alarm
        self._more_counts = counts
        self._facts = facts
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._last: dict[str, str] = {}
        self._warned: dict[str, float] = {}
        self._fresh: str = ""  # what went wrong since the last report
        self._failed = False
        self.stages = StageTimes()
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # By steady time: simulated time may stand still, and that is when a person wants to know why.
        self._timer = node.create_timer(PERIOD, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def count(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counts[name] += number

    def counted(self, name: str) -> int:
        with self._lock:
            return self._counts[name]

    def warn_refused(self, kind: str, text: str) -> None:
        """Input from outside was refused: count it under `kind`, warn, go on."""
        if self._record(kind, text, "last_refusal", failed=False):
            self._node.get_logger().warning(f"{kind}: {text}")

    def error(self, kind: str, text: str) -> None:
        """Something of our own failed: count it under `kind`, log an error, go on."""
        if self._record(kind, text, "last_error", failed=True):
            self._node.get_logger().error(f"{kind}: {text}")

    def publish(self) -> None:
        """One report: OK, WARN (something was refused since the last one) or ERROR (we failed, or an alarm)."""
        alarm = self._active_alarm()
        with self._lock:
            fresh, failed = self._fresh, self._failed
            self._fresh, self._failed = "", False
            values = {**self._counts, **self._more_counts()}
            texts = dict(self._last)
        level = DiagnosticStatus.OK
        if fresh:
            level = DiagnosticStatus.ERROR if failed else DiagnosticStatus.WARN
        if alarm:
            level = DiagnosticStatus.ERROR
        pairs = {name: str(value) for name, value in sorted(values.items())}
        for stage, (mean, largest) in self.stages.summary().items():
            pairs[f"{stage}_ms_mean"], pairs[f"{stage}_ms_max"] = f"{mean:.2f}", f"{largest:.2f}"
        pairs.update(self._facts())
        pairs.update(texts)
        name = self._node.get_fully_qualified_name().lstrip("/")
        status = DiagnosticStatus(
            level=level,
            name=name,
            message=alarm or fresh or "ok",
            hardware_id="steer_ros",
            values=[KeyValue(key=key, value=value) for key, value in pairs.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def _record(self, kind: str, text: str, last: str, failed: bool) -> bool:
        """Record; True if the log may have it too."""
        now = time.monotonic()
        with self._lock:
            self._counts[kind] += 1
            self._last[last] = f"{kind}: {text}"
            if failed or not self._failed:
                self._fresh = f"{kind}: {text}"
            self._failed = self._failed or failed
            if now - self._warned.get(kind, -WARNING_INTERVAL) < WARNING_INTERVAL:
                return False
            self._warned[kind] = now
            return True
