"""One writing of an answer: prefill and decode by a schedule, watched by a guard that may break it off."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..models.decoding import GreedyDecoder
from ..steering import FieldSnapshot, Law, SteeringField
from ..steering.report import SteeringReport
from ..steering.schedule import Schedule, chosen_by
from .answer_stream import Writer
from .guard import MOVED, Guard, moved


@dataclass
class Steering:
    """What an answer is steered with.

    attachment: the model's; its phase and factor are set before each forward pass. report: of the steering in
    force. scale: the part of the strength that the guard leaves. guard: None for none. judged: whether an
    over-steered answer ends the attempt; follows_moves: whether a region that moves does. spell: token ids → text.
    least: the smallest factor that a steered pass had; since_watched: steered passes since V's share was measured;
    unseen: whether it was, and not looked at yet; sure: passes left plain because the model was sure; moved_on:
    whether the region moved where that is not followed; filled as the answer is written.
    """

    attachment: object
    field: SteeringField
    report: SteeringReport
    law: Law
    phases: frozenset[str]
    schedule: Schedule
    scale: float
    guard: Guard | None
    judged: bool
    follows_moves: bool
    spell: Callable[[list[int]], str]
    least: float = math.inf
    since_watched: int | None = None  # None: not yet
    unseen: bool = False
    sure: int = 0
    moved_on: bool = False


class Attempt:
    """Writes one answer into a writer. steering None: plain attention, and nothing is judged.

    stop, refresh: called before each token's forward pass, as `Reasoner.generate` says.
    """

    def __init__(
        self,
        model,
        writer: Writer,
        steering: Steering | None,
        stop: Callable[[], str | None] | None,
        refresh: Callable[[], None],
    ) -> None:
        self._decoder = GreedyDecoder(model)
        self._writer, self._steering, self._stop, self._refresh = writer, steering, stop, refresh
        self._began: FieldSnapshot | None = None

    def write(self, embeds: torch.Tensor) -> str:
        """Prefill the context's embeddings [1, length, hidden] and decode until the writer has had enough.

        Returns:
            Why the answer must not be used: what shows that it is over-steered, or `MOVED`; "" for one that may.
        """
        writer, turn = self._writer, self._writer.turn
        clock = time.perf_counter()
        self._refresh()
        self._began = None if self._steering is None else self._steering.field.snapshot()
        token, steered = self._read(embeds)
        turn.timings["prefill"] = (time.perf_counter() - clock) * 1e3
        clock = time.perf_counter()
        while True:
            taken = writer.take(token)
            turn.steered_tokens += steered and taken == token  # a thought's forced end was not chosen
            reason = self._judge()
            if reason or writer.done or writer.asked_to_stop(self._stop):
                break
            self._refresh()
            if self._moved():
                reason = MOVED
                break
            token, steered = self._follow(taken)
        turn.timings["decode"] = (time.perf_counter() - clock) * 1e3
        return reason

    def _read(self, embeds: torch.Tensor) -> tuple[int, bool]:
        """The prefill: the first token, and whether its row was steered."""
        decoder, factor = self._decoder, self._factor("prompt", 0)
        if not self._waits(factor) or embeds.shape[1] < 2:
            return self._run(factor, lambda: decoder.prefill(embeds))
        # The last row is the one that decides; those before it are read as they are in any steered prefill.
        self._run(factor, lambda: decoder.prefill(embeds[:, :-1]), choose=False)
        return self._gated(factor, lambda: decoder.extend(embeds[:, -1:]))

    def _follow(self, fed: int) -> tuple[int, bool]:
        """The token after `fed`, and whether its row was steered."""
        factor = self._factor(self._writer.phase, len(self._writer.turn.output_ids))
        step = self._gated if self._waits(factor) else self._run
        return step(factor, lambda: self._decoder.feed(fed))

    def _gated(self, factor: float, forward: Callable[[], None]) -> tuple[int, bool]:
        """Plain first; only if the model is then unsure, the same row again, steered, for a choice by both."""
        schedule, decoder = self._steering.schedule, self._decoder
        self._steering.attachment.factor = 0.0
        forward()
        token, logprob = decoder.best()
        if schedule.sure is not None and math.exp(logprob) >= schedule.sure:
            self._steering.sure += 1
            return token, False
        plain = decoder.logits
        decoder.retract()
        return self._run(factor, forward, plain=plain)

    def _run(
        self, factor: float, forward: Callable[[], None], choose: bool = True, plain: torch.Tensor | None = None
    ) -> tuple[int, bool]:
        """One forward pass at this factor; the token is chosen by its logits, and by the plain ones if given."""
        steering = self._steering
        if steering is None:
            forward()
            return self._decoder.best()[0], False
        steering.attachment.factor = factor
        calls = steering.report.attention_calls
        forward()
        steered = steering.report.attention_calls > calls
        if steered:
            steering.least = min(steering.least, factor)
            if steering.attachment.watch:
                steering.since_watched, steering.unseen = 0, True
            elif steering.since_watched is not None:
                steering.since_watched += 1
        if not choose:
            return -1, steered
        decoder = self._decoder
        scores = None if plain is None else chosen_by(decoder.logits, plain, steering.schedule)
        return decoder.best(scores)[0], steered

    def _factor(self, phase: str, n: int) -> float:
        """Set the phase and give the part of the strength that its next row gets."""
        steering = self._steering
        if steering is None:
            return 0.0
        steering.attachment.phase = self._writer.phase
        # V's share beside R's takes a pass of its own on a GPU: now and then, and only where there is an R.
        since, guard = steering.since_watched, steering.guard
        due = guard is not None and (since is None or since >= guard.every)
        steering.attachment.watch = due and steering.field.snapshot().high[-1:] > (0,)
        return steering.scale * steering.schedule.factor(phase, n)

    def _waits(self, factor: float) -> bool:
        """Whether the next row is run plain first: only where steering would follow."""
        steering = self._steering
        if steering is None or not steering.schedule.asks_plain or not factor:
            return False
        law, snapshot = steering.law, steering.field.snapshot()
        moves = bool(snapshot.low) and law.steers and law.moves(snapshot.low[-1], snapshot.high[-1])
        return moves and self._writer.phase in steering.phases

    def _moved(self) -> bool:
        """Whether the answer must follow a region that is another than the first that it had."""
        steering, began = self._steering, self._began
        if steering is None or not steering.law.steers:
            return False
        now = steering.field.snapshot()
        if now.version == began.version:
            return False
        if began.high[-1:] <= (0,):  # it had none yet
            self._began = now
            return False
        steering.moved_on = moved(began.weights, now.weights)
        return steering.moved_on and steering.follows_moves

    def _judge(self) -> str:
        """Why the answer so far is over-steered, "" if it is not."""
        steering, writer = self._steering, self._writer
        if steering is None or not steering.judged or not steering.report.attention_calls:
            return ""
        guard, ids = steering.guard, writer.turn.output_ids
        if writer.ended:
            reason = guard.malformed(*writer.texts(), writer.strays)
        else:
            reason = guard.malformed("", "", writer.strays) if writer.strays else guard.loop(ids, steering.spell)
        if not reason and steering.unseen:
            steering.unseen = False
            shares = steering.report.since_asked()  # V's: the first region that the report measures
            reason = "" if shares is None else guard.collapsed(steering.law, *shares)
        return reason
