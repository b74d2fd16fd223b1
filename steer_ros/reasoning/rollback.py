"""Writes a steered answer. One that is over-steered is begun anew within the turn with less strength; one whose region
has moved, with the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..models.features import VisualFeatures
from ..steering import Gate, Law, SteeringField
from ..steering.head_gains import StrengthNet
from ..steering.schedule import Schedule
from .answer_stream import Writer
from .generation import Attempt, Steering
from .guard import MOVED, MOVES, PLAIN, Guard
from .turn_report import settle, warnings


@dataclass(frozen=True)
class Asked:
    """What one turn is to be steered with, and on what."""

    model: object
    attachment: object
    spell: Callable[[list[int]], str]
    field: SteeringField
    law: Law
    strength: StrengthNet | None
    gate: Gate
    schedule: Schedule
    guard: Guard | None
    measure_focus: bool
    frames: list[VisualFeatures]


def write_steered(
    asked: Asked,
    embeds: torch.Tensor,
    writer: Writer,
    new_writer: Callable[[], Writer],
    stop: Callable[[], str | None] | None,
    refresh: Callable[[], None],
) -> Writer:
    """Write the answer by the guard's scales of strength, until one may be used.

    Args:
        embeds: the context, [1, length, hidden].
        writer: of the first attempt. new_writer: restarts the turn and gives the next attempt's.
        stop, refresh: as for an `Attempt`. A stop ends the turn, between two attempts too.

    Returns:
        The last attempt's writer; the turn holds its answer.
    """
    turn, guard, reason = writer.turn, asked.guard, ""
    scales = guard.scales if guard is not None and asked.law.steers else (1.0,)
    step, moves = 0, 0 if guard is not None and guard.follow_moves else MOVES
    while True:
        began = time.perf_counter()
        turn.scale = scales[step]
        if turn.scale == PLAIN:
            Attempt(asked.model, writer, None, stop, refresh).write(embeds)
            turn.unsteered_why = f"rolled back: {reason}" if reason else "the guard's scale is 0"
            break
        reason = _attempt(asked, step + 1 < len(scales), moves < MOVES, embeds, writer, stop, refresh)
        if not reason:
            break
        if reason == MOVED:
            moves += 1
        else:
            step += 1
            turn.warnings += (f"rolled back to {scales[step]:g} of the strength: {reason}",)
        turn.rollbacks += 1
        turn.timings["rolled_back"] = turn.timings.get("rolled_back", 0.0) + (time.perf_counter() - began) * 1e3
        writer.roll_back(reason)
        writer = new_writer()
        if writer.asked_to_stop(stop):
            break
    turn.mask_updates = asked.field.version
    return writer


def _attempt(
    asked: Asked, judged: bool, follows_moves: bool, embeds: torch.Tensor, writer: Writer, stop, refresh
) -> str:
    """One attempt at the turn's scale: why it must not be used, "" if it may. Settles the turn then."""
    turn, field, attachment = writer.turn, asked.field, asked.attachment
    # V's own share of the attention is measured beside R's, for the guard.
    whole = [torch.ones(span.length, dtype=torch.bool) for span in field.spans]
    watches = asked.measure_focus and asked.guard is not None and bool(whole)
    try:
        with attachment.steer(
            field,
            asked.law,
            asked.gate,
            measure_focus=asked.measure_focus,
            regions=[whole] if watches else None,
            adaptive=asked.strength,
            context=embeds.shape[1],
        ) as report:
            steering = Steering(
                attachment,
                field,
                report,
                asked.law,
                asked.gate.phases,
                asked.schedule,
                turn.scale,
                asked.guard,
                judged,
                follows_moves,
                asked.spell,
            )
            reason = Attempt(asked.model, writer, steering, stop, refresh).write(embeds)
    finally:
        attachment.phase, attachment.factor, attachment.watch = "think", 1.0, True
    if not reason:
        settle(turn, steering, field)
        if asked.guard is not None:
            turn.warnings += tuple(warnings(turn, steering, field, asked.law, asked.frames))
    return reason
