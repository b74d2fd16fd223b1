"""What came of steering a turn, put into it: focus, and warnings about region and focus."""

from __future__ import annotations

import math

import torch

from ..models.features import VisualFeatures
from ..steering import SteeringField
from .generation import GenerationState
from .prompt import TOKEN
from .region_checks import EMPTY, content, focus_warning, region_warning
from .turn import Turn

CONFIDENT = "the model was confident of every token, by the schedule's confidence_threshold"
MOVED_ON = "region moved on"


def fill_turn(turn: Turn, state: GenerationState) -> None:
    """Whether anything was steered, why not, and the focus."""
    report = state.report
    turn.steered = report.attention_calls > 0
    turn.unsteered_why = CONFIDENT if state.confident_steps and report.nothing_to_steer else report.nothing_to_steer
    if state.field.snapshot().high[-1:] > (0,):  # without a region there is no focus to speak of
        turn.focus_before, turn.focus_after = report.focus_before, report.focus_after


def warnings(turn: Turn, state: GenerationState, frames: list[VisualFeatures]) -> list[str]:
    """What the caller should know of this turn's region and focus; of a turn that `fill_turn` has filled."""
    field, law = state.field, state.config.law
    if not law.steers or not field.spans:
        return []
    snapshot = field.snapshot()
    if snapshot.high[-1] <= 0:
        return [f"{EMPTY}: no weight above 0"] if snapshot.low[-1] == 0 else []
    shares = state.report.region_shares  # R's and V's, over the same rows
    focus = None if shares is None else (shares[0][0], shares[1][0])
    visual = None if shares is None else (shares[0][1], shares[1][1])
    keys = int((snapshot.weights > 0).sum())
    found = [
        region_warning(
            _most_content(turn, field, frames) if turn.bridge == TOKEN else None,
            keys,
            field.num_keys,
            focus and focus[0],
            visual and visual[0],
        ),
        focus_warning(
            law,
            state.min_scale if math.isfinite(state.min_scale) else state.retry_scale,
            snapshot.high[-1] / 127,
            focus,
            visual,
            "" if turn.unsteered_why == CONFIDENT else turn.unsteered_why,
        ),
    ]
    if state.moved_on and state.config.guard.follow_moves:
        found.append(f"{MOVED_ON}: more often than an answer is begun anew; this one is about where it was")
    return [text for text in found if text]


def _most_content(turn: Turn, field: SteeringField, frames: list[VisualFeatures]) -> float | None:
    """The `content` of the region in the frame where it shows most; None if no frame has any of it."""
    snapshot, found = field.snapshot(), []
    for frame, (start, length) in zip(frames, turn.spans, strict=True):
        shape = (frame.grid.token_rows, frame.grid.token_cols)
        inside = snapshot.weights[start - field.start : start - field.start + length] > 0
        if bool(inside.any()):
            found.append(content(frame.tokens.reshape(*shape, -1), inside.reshape(shape).to(torch.bool)))
    return max(found, default=None)
