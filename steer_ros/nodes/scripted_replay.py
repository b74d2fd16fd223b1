"""`scripted_replay`: a bag in lockstep by a script, each turn a line of JSON. The demo and its tests run on it.

A step of the script sets a node's parameter before a certain frame is sent, and the frame waits until the node has
accepted it: the same bag and script give the same turns. The script is a JSON list of
{"stamp_ns": …, "node": "perception", "parameter": "look_for", "value": "red beaker"}, by the stamps of the frames.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.serialization import deserialize_message

from steer_ros.msg import ActionText, RoiMaskArray
from steer_ros.nodes.base import STREAM
from steer_ros.nodes.errors import describe_error
from steer_ros.nodes.messages import read_masks, stamp_of
from steer_ros.nodes.process import non_ros_args, one_interrupt, spinning
from steer_ros.nodes.replay import Replay, Report

ASK_AGAIN = 2.0  # seconds without an answer after which a node is asked again
MASKS_WAIT = 5.0  # seconds that masks may come after the action that was grounded on them


class ScriptedReplayError(RuntimeError):
    """The replay can't go on; the message is one line."""


class ScriptedReplay(Replay):
    """Plays a bag in lockstep by a script. on_turn: called with the record of each frame's turn, ready for JSON."""

    def __init__(
        self,
        bag: Path,
        script: Sequence[Mapping[str, Any]],
        on_turn: Callable[[dict[str, Any]], None],
        *,
        timeout: float = 60.0,
        **options: Any,
    ) -> None:
        self._script = check_script(script)
        self._unused_stamps = {step["stamp_ns"] for step in self._script}  # stamps that no frame has had yet
        self._on_turn = on_turn
        self._actions: dict[int, ActionText] = {}
        self._masks: dict[int, RoiMaskArray] = {}
        self._remotes: dict[str, AsyncParameterClient] = {}
        super().__init__(bag, lockstep=True, timeout=timeout, **options)
        self.create_subscription(RoiMaskArray, "roi_masks", self._on_masks, STREAM)

    def play(self) -> Report:
        """The whole bag. A step whose stamp no frame has is an error."""
        report = super().play()
        if self._unused_stamps:
            raise ScriptedReplayError(
                f"script: stamps that no frame of the bag has: {', '.join(map(str, sorted(self._unused_stamps)))}"
            )
        return report

    def _send_frame(self, topic: str, data: bytes) -> bool:
        stamp = stamp_of(deserialize_message(data, self._types[topic]).header)
        for step in self._script:
            if step["stamp_ns"] == stamp:
                self._set(step["node"], step["parameter"], step["value"])
        self._unused_stamps.discard(stamp)
        self._actions.pop(stamp, None)
        self._masks.clear()
        if not super()._send_frame(topic, data):
            return False
        action = self._actions.pop(stamp, None)
        if action is None:
            raise ScriptedReplayError(f"frame {stamp}: no action within {self._timeout:g} s")
        if action.region_labels:
            self._spin_until(lambda: stamp in self._masks, MASKS_WAIT)
        self._on_turn(turn_record(stamp, action, self._masks.get(stamp)))
        return True

    def _on_action(self, message: ActionText) -> None:
        self._actions[stamp_of(message.header)] = message
        super()._on_action(message)

    def _on_masks(self, message: RoiMaskArray) -> None:
        self._masks[stamp_of(message.header)] = message

    def _set(self, node: str, name: str, value: Any) -> None:
        """Set a parameter of another node and wait until it has accepted it.

        Asked again while no answer comes: a node that has not found its asker yet sends an answer that nobody gets.
        """
        if node not in self._remotes:
            self._remotes[node] = AsyncParameterClient(self, node)
        remote = self._remotes[node]
        if not self._spin_until(remote.services_are_ready, self._timeout):
            raise ScriptedReplayError(f"node {node}: its parameters can't be reached within {self._timeout:g} s")
        end = time.monotonic() + self._timeout
        asked = []
        while not (answers := [answer for answer in asked if answer.done()]):
            left = end - time.monotonic()
            if left <= 0:
                raise ScriptedReplayError(f"node {node}: no answer within {self._timeout:g} s to {name} = {value!r}")
            asked.append(remote.set_parameters([Parameter(name, value=value)]))
            self._spin_until(asked[-1].done, min(left, ASK_AGAIN))
        (result,) = answers[0].result().results
        if not result.successful:
            raise ScriptedReplayError(f"node {node}: {name} = {value!r} was refused: {result.reason}")


def check_script(script: Any) -> list[dict[str, Any]]:
    """The script's steps. Raises ValueError naming the first that is not of the form given above."""
    if not isinstance(script, Sequence) or isinstance(script, str):
        raise ValueError(f"script: {type(script).__name__}; accepted is a list")
    for index, step in enumerate(script):
        fields = {"stamp_ns": int, "node": str, "parameter": str, "value": (str, int, float, bool)}
        if not isinstance(step, Mapping) or set(step) != set(fields):
            raise ValueError(f"script[{index}]: accepted is an object of {', '.join(fields)}")
        for name, kind in fields.items():
            if not isinstance(step[name], kind):
                raise ValueError(f"script[{index}].{name}: {step[name]!r} is of the wrong type")
    return [dict(step) for step in script]


def turn_record(stamp: int, action: ActionText, masks: RoiMaskArray | None) -> dict[str, Any]:
    """What an ActionText says, and the masks that it was grounded on, as plain numbers and texts; NaN becomes None."""
    record: dict[str, Any] = {"stamp_ns": stamp, "frame_id": action.header.frame_id}
    for name in action.get_fields_and_field_types():
        if name != "header":
            value = getattr(action, name)
            if isinstance(value, float) and not math.isfinite(value):
                value = None
            record[name] = value if isinstance(value, (str, int, float, bool, type(None))) else list(value)
    record["regions"] = []
    if masks is not None:
        _, read = read_masks(masks)
        record["regions"] = [
            {
                "label": mask.label,
                "track_id": mask.track_id,
                "source": mask.source,
                "score": mask.score,
                "box": mask.box,
                "weights": mask.weights.tolist(),
            }
            for mask in read
        ]
    return record


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripted_replay", description=__doc__.splitlines()[0])
    parser.add_argument("bag", type=Path, help="folder of a rosbag2 bag")
    parser.add_argument("--script", type=Path, help="what to set before which frame, a JSON file")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for peers and for each action")
    return parser.parse_args(arguments)


def main(args: Sequence[str] | None = None) -> int:
    """Play a bag by a script; 0, or 1 with one line that says what failed, or 2 for wrong arguments."""
    given = list(sys.argv if args is None else ["scripted_replay", *args])
    options = parse(non_ros_args(given))
    with one_interrupt() as no_more_interrupts:
        return _run(options, given, no_more_interrupts)


def _run(options: argparse.Namespace, args: Sequence[str], no_more_interrupts: Callable[[], None]) -> int:
    rclpy.init(args=args)
    replay = None
    try:
        script = json.loads(options.script.read_text(encoding="utf-8")) if options.script else []
        replay = ScriptedReplay(
            options.bag, script, lambda turn: print(json.dumps(turn), flush=True), timeout=options.timeout
        )
        with spinning(no_more_interrupts):
            replay.play()
        return 0
    except ScriptedReplayError as error:
        print(f"scripted_replay: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"scripted_replay: {describe_error(error)}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    finally:
        no_more_interrupts()
        if replay is not None:
            replay.end()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
