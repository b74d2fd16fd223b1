"""Parameters as tables: name, default, what is accepted. Nodes, config/vta.yaml and the launch file agree on these.

A number given as an integer is taken where a real is meant. Refusals name the parameter, the value and what is
accepted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steer_ros.nodes.errors import describe_error
from steer_ros.steering import LAW_NAMES, Gate, Guard, Schedule
from steer_ros.steering.laws import MAX_ALPHA

MAX_TEXT = 2000  # characters of an instruction or a phrase
DEFAULT_INSTRUCTION = "Pick up one object."
MODEL = "model"  # of a steering parameter: what the loaded model's own steering.json says
RENAMED = {"steering.share": "steering.setpoint", "steering.target": "steering.setpoint"}  # of release 0.1


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter. Its type is that of `default`: str, float, int or bool.

    low, high: inclusive bounds of a number. choices: the texts accepted. check: raises ValueError for what is wrong
    with a value of the right type and range. runtime: may change while the node is configured. or_model: the text
    "model", its default, is accepted as well; with bounds the parameter is then a float. on_off: the texts "on" and
    "off", which YAML reads as true and false, are among those accepted.
    """

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[Any], Any] | None = None
    runtime: bool = False
    or_model: bool = False
    on_off: bool = False

    @property
    def kind(self) -> type:
        """The type of a value other than "model"."""
        return float if self.or_model and self.low is not None else type(self.default)

    @property
    def accepted(self) -> str:
        """What is accepted, in words."""
        return f"{MODEL}, or {self._accepted}" if self.or_model else self._accepted

    @property
    def _accepted(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        if self.kind in (int, float):
            kind = "an integer" if self.kind is int else "a finite number"
            return f"{kind} from {self.low:.10g} to {self.high:.10g}"
        return f"a text of at most {MAX_TEXT} characters"

    def coerced(self, value: Any) -> Any:
        """What is meant where ROS or YAML read a value as another type: an integer for a real, and true or false for
        the texts on or off. Anything else as it is."""
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if self.on_off and isinstance(value, bool):
            return "on" if value else "off"
        return value

    def validated(self, value: Any) -> Any:
        """The value in its own type. Raises ValueError in one line: parameter, value, what is accepted."""
        value = self.coerced(value)
        if self.or_model and value == MODEL:
            return value
        fits = type(value) is self.kind
        if fits and isinstance(value, (int, float)) and not isinstance(value, bool):
            fits = math.isfinite(value) and self.low <= value <= self.high
        elif fits and self.choices:
            fits = value in self.choices
        elif fits and isinstance(value, str):
            fits = len(value) <= MAX_TEXT
        if not fits:
            raise ValueError(f"parameter {self.name}: {shown(value)}; accepted is {self.accepted}")
        if self.check is not None:
            try:
                self.check(value)
            except ValueError as error:
                raise ValueError(f"parameter {self.name}: {shown(value)}; {describe_error(error)}") from error
        return value


_MODEL = "builtin:<name>, a folder, or a hub id; safetensors only"
_COMMON = (
    ParameterSpec("autostart", True, "Configure and activate at start, without a lifecycle manager."),
    ParameterSpec(
        "device", "auto", "Where the model runs: auto, cpu, cuda or cuda:<n>; auto takes a GPU if there is one."
    ),
    ParameterSpec(
        "dtype",
        "auto",
        "Type of the weights; auto: float32 on a CPU, else as the model is stored.",
        choices=("auto", "float32", "float16", "bfloat16"),
    ),
)
PERCEPTION = (
    *_COMMON,
    ParameterSpec("model", "builtin:lab-vl", f"Vision-language model: {_MODEL}."),
    ParameterSpec(
        "transport",
        "raw",
        "Form of the image topic: raw (sensor_msgs/Image on `image`) or compressed "
        "(sensor_msgs/CompressedImage on `image/compressed`).",
        choices=("raw", "compressed"),
    ),
    ParameterSpec(
        "look_for",
        "",
        'What to look for, in words: a thing, a place, or both ("the red beaker on the left"); '
        "empty: nothing. Also by topic ~/look_for.",
        runtime=True,
    ),
    ParameterSpec(
        "keyframe_interval",
        10,
        "Frames from one grounding to the next; a tracker carries the regions between.",
        low=1,
        high=10_000,
        runtime=True,
    ),
    ParameterSpec(
        "mask_max_age_ms",
        2000.0,
        "Milliseconds by the frames' stamps after which regions are grounded anew, whatever keyframe_interval says.",
        low=0.0,
        high=3.6e6,
        runtime=True,
    ),
    ParameterSpec(
        "camera_timeout_ms",
        2000.0,
        "Milliseconds without a frame after which diagnostics call the camera silent.",
        low=1.0,
        high=3.6e6,
        runtime=True,
    ),
    ParameterSpec(
        "max_image_pixels",
        40_000_000,
        "Largest frame accepted, in pixels (width x height); larger are refused.",
        low=1,
        high=1_000_000_000,
        runtime=True,
    ),
    ParameterSpec(
        "max_working_pixels",
        2_000_000,
        "Frames of more pixels are scaled down to this before any work on them.",
        low=3136,
        high=100_000_000,
        runtime=True,
    ),
)
REASONING = (
    *_COMMON,
    ParameterSpec("model", "builtin:lab-r1", f"Reasoning model: {_MODEL}."),
    ParameterSpec(
        "instruction",
        DEFAULT_INSTRUCTION,
        "What the robot is told; empty: this default. Also by topic `instruction`.",
        runtime=True,
    ),
    ParameterSpec(
        "deadline_ms",
        0.0,
        "Milliseconds by the node's clock from receipt of the frame after which its turn is cut; 0: never.",
        low=0.0,
        high=3.6e6,
        runtime=True,
    ),
    ParameterSpec(
        "max_thought_tokens", 256, "Tokens of thought after which it is closed.", low=1, high=32_768, runtime=True
    ),
    ParameterSpec(
        "max_action_tokens", 64, "Tokens of action after which the turn is cut.", low=1, high=4096, runtime=True
    ),
    ParameterSpec(
        "mask_max_age_ms",
        1000.0,
        "Milliseconds by the frames' stamps after which another frame's masks no longer steer.",
        low=0.0,
        high=3.6e6,
        runtime=True,
    ),
    ParameterSpec(
        "mask_wait_ms",
        500.0,
        "Milliseconds that a frame's tokens wait for the masks that belong to them.",
        low=0.0,
        high=60_000.0,
        runtime=True,
    ),
    ParameterSpec(
        "steering.law",
        MODEL,
        "How weights change attention; none: not at all.",
        choices=LAW_NAMES,
        runtime=True,
        or_model=True,
    ),
    ParameterSpec(
        "steering.alpha",
        MODEL,
        "Laws additive and conserving: the bias on the attention score of a key of weight 1. model: the model's own, "
        "or 2 where its law is another.",
        low=-MAX_ALPHA,
        high=MAX_ALPHA,
        runtime=True,
        or_model=True,
    ),
    ParameterSpec(
        "steering.setpoint",
        MODEL,
        "Law share: the least part of the attention to the image that the region gets. Law target: the part of all "
        "attention that it gets.",
        low=0.0,
        high=1.0,
        runtime=True,
        or_model=True,
    ),
    ParameterSpec(
        "steering.gate",
        MODEL,
        "Where the law holds: all, or parts such as layers=2-3;heads=0,1;pairs=2.0,3.5;phases=think.",
        check=Gate.parse,
        runtime=True,
        or_model=True,
    ),
    ParameterSpec(
        "steering.schedule",
        MODEL,
        "What scales the law over an answer: constant, or parts of prompt=, think=, act= (scales, 0 to 1), half_life= "
        "(tokens), floor=, confidence_threshold= (tokens that the model is as confident of without steering are left "
        "alone), plausibility= (steering chooses among tokens with this part of the likeliest one's probability "
        "without), guidance= (what steering does to the logits is done once more, times this and the model's doubt).",
        check=Schedule.parse,
        runtime=True,
        or_model=True,
    ),
    ParameterSpec(
        "steering.guard",
        MODEL,
        "When an over-steered answer is rolled back: on, off, or parts such as retry_scales=1,0.5,0;check_interval=8.",
        check=Guard.parse,
        runtime=True,
        or_model=True,
        on_off=True,
    ),
    ParameterSpec(
        "policy",
        "publish",
        "An action whose object contradicts the label of the region it was steered to, or whose region is missing: "
        "publish it with a warning, or hold it back.",
        choices=("publish", "hold"),
        runtime=True,
    ),
)


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
