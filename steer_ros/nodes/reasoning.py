"""Lifecycle node `reasoning`: a frame's tokens and masks in; a thought and an action out."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from std_msgs.msg import String

from steer_ros.msg import ActionText, RoiMaskArray, VisualTokens
from steer_ros.nodes.base import LATEST, STREAM, SteerNode
from steer_ros.nodes.errors import describe_error
from steer_ros.nodes.messages import fill_action, read_masks, read_tokens, stamp_of
from steer_ros.nodes.parameter_specs import DEFAULT_INSTRUCTION, REASONING
from steer_ros.nodes.process import run
from steer_ros.nodes.steering_parameters import NAMES as STEERING_PARAMETERS
from steer_ros.nodes.steering_parameters import ActiveSteering
from steer_ros.pipeline.deadline import Deadline
from steer_ros.pipeline.handover import Handover, PerceivedFrame
from steer_ros.pipeline.mask_synchronizer import FrameSynchronizer, SyncedFrame
from steer_ros.pipeline.trace import Trace
from steer_ros.reasoning.contradiction import contradiction, moves_nothing
from steer_ros.reasoning.prompt import TEXT
from steer_ros.reasoning.reasoner import Reasoner
from steer_ros.reasoning.thought_and_action import ROLLBACK, THINK_PHASE
from steer_ros.reasoning.turn import Turn
from steer_ros.reasoning.turn_options import Callbacks, Limits
from steer_ros.regions.grid import PatchGrid
from steer_ros.regions.mask import Mask

# A cut after these leaves a whole action; after any other there is none, or half of one, which no robot should get.
HARMLESS_CUTS = ("", ActionText.CUT_THOUGHT_TOKENS)

CLOSING_TOKENS = 16  # room for what closes a thought, beside what the thought and the action may have

Masks = tuple[PatchGrid, list[Mask]]


class ReasoningNode(SteerNode):
    """handover: where frames come from within the process; None: they come as `visual_tokens`.

    load_model(name, device=…, dtype=…): returns a Reasoner.
    """

    def __init__(
        self,
        handover: Handover | None = None,
        *,
        load_model: Callable[..., Any] = Reasoner.from_pretrained,
        **options: Any,
    ) -> None:
        self._handover = handover
        self._load_model = load_model
        self._reasoner: Any = None
        self._steering: ActiveSteering | None = None
        self._synchronizer: FrameSynchronizer[tuple[PerceivedFrame, Trace], Masks] | None = None
        self._dropped = 0
        self._last_stamp: int | None = None
        self._turns = 0
        self._run_id = uuid.uuid4().hex[:8]
        super().__init__("reasoning", REASONING, **options)

    def load(self) -> None:
        reasoner = self._load_model(
            self.parameters["model"], device=self.parameters["device"], dtype=self.parameters["dtype"]
        )
        self._steering = ActiveSteering(self.parameters, reasoner, self.get_logger().info)
        self._reasoner = reasoner
        self.get_logger().info(f"model {self.parameters['model']} on {reasoner.device}")

    def unload(self) -> None:
        steering, self._steering = self._steering, None
        if steering is not None:
            steering.close()
        reasoner, self._reasoner = self._reasoner, None
        if reasoner is not None:
            reasoner.close()

    def model_device(self) -> Any:
        return self._reasoner.device

    def open(self) -> None:
        self._text_out = self.publish_on(String, "action_text", STREAM)
        self._action_out = self.publish_on(ActionText, "action", STREAM)
        self._thought_out = self.publish_on(String, "thought", STREAM)
        self._last_stamp = None
        self._synchronizer = FrameSynchronizer()
        for name in ("mask_wait_ms", "mask_max_age_ms"):
            self.changed(name, self.parameters[name])
        self.lane.serve(self._synchronizer, self._turn)
        self.subscribe(String, "instruction", self._on_instruction, STREAM)
        self.subscribe(RoiMaskArray, "roi_masks", self._on_masks, LATEST)
        if self._handover is None:
            self.subscribe(VisualTokens, "visual_tokens", self._on_tokens, LATEST)
        else:
            self._handover.connect(self._on_frame, self._synchronizer.reset)

    def close(self) -> None:
        if self._handover is not None:
            self._handover.disconnect()
        synchronizer, self._synchronizer = self._synchronizer, None
        if synchronizer is not None:
            synchronizer.close()
            self._dropped += synchronizer.dropped

    def changed(self, name: str, value: Any) -> None:
        synchronizer = self._synchronizer
        if synchronizer is not None and name == "mask_wait_ms":
            synchronizer.wait = value / 1e3
        elif synchronizer is not None and name == "mask_max_age_ms":
            synchronizer.max_age = int(value * 1e6)
        elif name in STEERING_PARAMETERS and self._steering is not None:
            self._steering.update()

    def facts(self) -> dict[str, str]:
        return {} if self._steering is None else self._steering.facts()

    def counts(self) -> dict[str, int]:
        synchronizer = self._synchronizer
        return {"frames_dropped": self._dropped + (synchronizer.dropped if synchronizer else 0)}

    # Callbacks: take the message and return.
    def _on_instruction(self, message: String) -> None:
        try:
            self.parameters["instruction"] = message.data
        except ValueError as error:
            self.health.warn_refused("bad_instruction", str(error))

    def _on_masks(self, message: RoiMaskArray) -> None:
        try:
            masks = read_masks(message)
        except ValueError as error:
            self.health.warn_refused("bad_masks", describe_error(error))
        else:
            self._synchronizer.put_masks(stamp_of(message.header), masks)

    def _on_tokens(self, message: VisualTokens) -> None:
        self.health.count("frames_received")
        try:
            features = read_tokens(message)
        except ValueError as error:
            self.health.warn_refused("bad_tokens", describe_error(error))
            return
        perceive_ms = max(0.0, message.perceive_ms) if math.isfinite(message.perceive_ms) else 0.0
        received = self.receipt(message.header) - int(perceive_ms * 1e6)
        stamp = features.stamp
        if self._last_stamp is not None and stamp < self._last_stamp:
            self.health.count("stamps_back")
            self._synchronizer.reset(stamp)
        self._last_stamp = stamp
        frame = PerceivedFrame(stamp, message.header, features, None, received, perceive_ms)
        self._synchronizer.put_tokens(stamp, (frame, Trace()), message.masks_follow)

    def _on_frame(self, frame: PerceivedFrame) -> None:
        """A frame from perception in the same process; called on perception's lane."""
        self.health.count("frames_received")
        synchronizer = self._synchronizer
        if synchronizer is not None:
            masks = None if frame.masks is None else (frame.features.grid, frame.masks)
            synchronizer.put(frame.stamp, (frame, Trace()), masks)

    # The lane.
    def _turn(self, synced: SyncedFrame[tuple[PerceivedFrame, Trace], Masks]) -> None:
        frame, trace = synced.tokens
        trace.add("wait", trace.elapsed)
        self._turns += 1
        instruction = self.parameters["instruction"].strip() or DEFAULT_INSTRUCTION
        answer = ActionText(
            header=frame.header,
            turn_id=f"{self._run_id}-{self._turns}",
            instruction=instruction,
            focus_before=math.nan,
            focus_after=math.nan,
            setpoint=math.nan,
        )
        turn = None
        try:
            masks, missing = self._masks_for(synced)
            answer.region_ids = [mask.track_id for mask in masks or []]
            answer.region_labels = [mask.label for mask in masks or []]
            frame.fence.wait(frame.features.tokens)
            turn = self._generate(instruction, frame, masks)
            fill_action(answer, turn)
            self._judge(answer, turn, masks, missing)
        except Exception as error:
            # Whoever waits for this frame's action is told that there is none.
            answer.text, answer.cut_short, answer.cut_reason = "", True, ActionText.CUT_ERROR
            self.lane_failed("turn", error)
        answer.perceive_ms, answer.wait_ms = frame.perceive_ms, trace.stages["wait"]
        answer.total_ms = frame.perceive_ms + trace.elapsed
        if answer.text and answer.cut_reason in HARMLESS_CUTS:
            self._text_out.publish(String(data=answer.text))
        self._action_out.publish(answer)
        self.health.count("turns")
        if answer.cut_short:
            self.health.count(f"turns_cut_{answer.cut_reason}")
        self.health.count("rollbacks", answer.rollbacks)
        for warning in answer.warnings:
            self.health.warn_refused(*kind_and_text(warning))
        stages = {} if turn is None else turn.timings
        self.health.stages.add({**trace.stages, **stages, "turn": answer.total_ms})

    def _masks_for(self, synced: SyncedFrame[tuple[PerceivedFrame, Trace], Masks]) -> tuple[list[Mask] | None, str]:
        """The masks to steer by, if they fit the frame's grid; and why there are none, where some should be."""
        why = ""
        if synced.late:
            why = (
                f"masks of frame {synced.stamp}, or of those it displaced, did not come within "
                f"{self.parameters['mask_wait_ms']:g} ms (mask_wait_ms)"
            )
            self.health.warn_refused("masks_late", why)
        if synced.nearest_age is not None:
            age = synced.nearest_age / 1e6
            why = (
                f"roi_masks: the nearest are of a frame {abs(age):g} ms {'before' if age > 0 else 'after'} frame "
                f"{synced.stamp}; used are those of up to {self.parameters['mask_max_age_ms']:g} ms before it "
                "(mask_max_age_ms)"
            )
            self.health.warn_refused("masks_unused", why)
        if synced.masks is None:
            return None, why
        grid, masks = synced.masks
        frame_grid = synced.tokens[0].features.grid
        if (grid.rows, grid.cols) != (frame_grid.rows, frame_grid.cols):
            why = (
                f"roi_masks: grid {grid.rows}x{grid.cols} does not match the frame's "
                f"{frame_grid.rows}x{frame_grid.cols}; not steered"
            )
            self.health.warn_refused("bad_masks", why)
            return None, why
        text_only = self._reasoner.bridge_for(synced.tokens[0].features) == TEXT
        if masks and text_only and not any(mask.label.strip() and not mask.empty for mask in masks):
            why = "no mask has a label, and without a bridge the model knows regions by their words alone; not steered"
            self.health.warn_refused("masks_unlabelled", why)
            return None, why
        law = self._steering.config.law
        if law.has_setpoint and any((mask.weights < 0).any() for mask in masks):
            why = f"roi_masks: weights below 0; accepted with law {law.name} are weights from 0; not steered"
            self.health.warn_refused("bad_masks", why)
            return None, why
        return masks, "" if any(mask.weights.any() for mask in masks) else "nothing was found where to look"

    def _judge(self, answer: ActionText, turn: Turn, masks: list[Mask] | None, missing: str) -> None:
        """An action about another object than the region's, or without the region that it should be about, gets a
        warning, and by policy is held back."""
        if not answer.text or answer.cut_reason not in HARMLESS_CUTS:
            return  # it is not sent anyway
        if missing:
            reason = f"region missing: {missing}; the action is about whatever the model chose"
            cut = "" if moves_nothing(answer.text) else ActionText.CUT_REGION_MISSING
        else:
            law = turn.config.law
            repels = law.steers and not law.has_setpoint and law.alpha < 0  # from positive weights
            drawn = -1 if repels else 1
            labels = [mask.label for mask in masks or [] if (mask.weights * drawn > 0).any()]
            reason, cut = contradiction(answer.text, labels), ActionText.CUT_CONTRADICTION
        if not reason:
            return
        held = cut and self.parameters["policy"] == "hold"
        answer.warnings = [*answer.warnings, f"{reason}; held back" if held else reason]
        if held:
            answer.text, answer.cut_short, answer.cut_reason = "", True, cut

    def _generate(self, instruction: str, frame: PerceivedFrame, masks: list[Mask] | None) -> Turn:
        get = self.parameters
        clock = self.get_clock()
        deadline = Deadline(get["deadline_ms"], frame.received, lambda: clock.now().nanoseconds)
        lane_source = self._synchronizer
        thought: list[str] = []

        def stop() -> str | None:
            if lane_source is None or lane_source.closed:
                return ActionText.CUT_STOPPED
            return ActionText.CUT_DEADLINE if deadline.passed else None

        def on_text(phase: str, text: str) -> None:
            if phase == ROLLBACK:
                thought.clear()  # an empty thought takes back what was said
            elif phase == THINK_PHASE:
                thought.append(text)
            else:
                return
            self._thought_out.publish(String(data="".join(thought)))

        thought_tokens, action_tokens = get["max_thought_tokens"], get["max_action_tokens"]
        return self._reasoner.generate(
            instruction,
            frame.features,
            masks or None,
            config=self._steering.config,
            limits=Limits(thought_tokens + action_tokens + CLOSING_TOKENS, thought_tokens, action_tokens),
            callbacks=Callbacks(stop=stop, on_text=on_text),
        )


def kind_and_text(warning: str) -> tuple[str, str]:
    """The counter that a turn's warning goes to, what stands before its colon, and what is said of it."""
    kind, _, text = warning.partition(": ")
    return ("rolled_back", warning) if kind.startswith("rolled back") else (kind.replace(" ", "_"), text)


def main(args: Sequence[str] | None = None) -> int:
    """Run reasoning in a process of its own."""
    return run(lambda: [ReasoningNode()], args, __doc__)
