"""One answer: prefill and decode by a schedule, judged by a guard that may break it off."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..models.decoding import GreedyDecoder
from ..steering import Attachment, FieldSnapshot, SteeringConfig, SteeringField
from ..steering.report import SteeringReport
from ..steering.schedule import chosen_by
from .guard import MOVED, find_collapse, find_loop, find_malformed, region_moved
from .thought_and_action import AnswerStream


@dataclass
class GenerationState:
    """What an answer is steered with, and what came of it so far.

    attachment: the model's; its phase and scale are set before each forward pass. report: of the steering in force.
    config: the turn's. retry_scale: the part of the strength that the guard leaves. judged: whether an over-steered
    answer ends the generation; follows_moves: whether a region that moves does. decode: token ids → text.

    Filled as the answer is generated: min_scale: the smallest scale that a steered pass had. steps_since_measured:
    steered passes since V's share was measured; None: not yet. unread_shares: whether it was, and not looked at yet.
    confident_steps: passes left plain because the model was confident. moved_on: whether the region moved where that
    is not followed.
    """

    attachment: Attachment
    field: SteeringField
    report: SteeringReport
    config: SteeringConfig
    retry_scale: float
    judged: bool
    follows_moves: bool
    decode: Callable[[list[int]], str]
    min_scale: float = math.inf
    steps_since_measured: int | None = None
    unread_shares: bool = False
    confident_steps: int = 0
    moved_on: bool = False


class AnswerGeneration:
    """Generates one answer into a stream. state None: plain attention, and nothing is judged.

    stop, refresh: called before each token's forward pass, as `Callbacks.stop` and `update_masks` say.
    """

    def __init__(
        self,
        model,
        stream: AnswerStream,
        state: GenerationState | None,
        stop: Callable[[], str | None] | None,
        refresh: Callable[[], None],
    ) -> None:
        self._decoder = GreedyDecoder(model)
        self._stream, self._state, self._stop, self._refresh = stream, state, stop, refresh
        self._first_snapshot: FieldSnapshot | None = None

    def run(self, embeds: torch.Tensor) -> str:
        """Prefill the prompt's embeddings [1, length, hidden] and decode until the stream has had enough.

        Returns:
            Why the answer must not be used: what shows that it is over-steered, or `MOVED`; "" for one that may.
        """
        stream, turn = self._stream, self._stream.turn
        clock = time.perf_counter()
        self._refresh()
        self._first_snapshot = None if self._state is None else self._state.field.snapshot()
        token, steered = self._prefill(embeds)
        turn.timings["prefill"] = (time.perf_counter() - clock) * 1e3
        clock = time.perf_counter()
        while True:
            taken = stream.take(token)
            turn.steered_tokens += steered and taken == token  # a thought's forced end was not chosen
            reason = self._judge()
            if reason or stream.done or stream.stop_requested(self._stop):
                break
            self._refresh()
            if self._must_follow_region():
                reason = MOVED
                break
            token, steered = self._decode_after(taken)
        turn.timings["decode"] = (time.perf_counter() - clock) * 1e3
        return reason

    def _prefill(self, embeds: torch.Tensor) -> tuple[int, bool]:
        """The first token, and whether its row was steered."""
        decoder, scale = self._decoder, self._next_scale("prompt", 0)
        if not self._needs_plain(scale) or embeds.shape[1] < 2:
            return self._forward(scale, lambda: decoder.prefill(embeds))
        # The last row is the one that decides; those before it are read as they are in any steered prefill.
        self._forward(scale, lambda: decoder.prefill(embeds[:, :-1]), choose=False)
        return self._plain_first(scale, lambda: decoder.extend(embeds[:, -1:]))

    def _decode_after(self, token: int) -> tuple[int, bool]:
        """The token after `token`, and whether its row was steered."""
        scale = self._next_scale(self._stream.phase, len(self._stream.turn.output_ids))
        step = self._plain_first if self._needs_plain(scale) else self._forward
        return step(scale, lambda: self._decoder.feed(token))

    def _plain_first(self, scale: float, forward: Callable[[], None]) -> tuple[int, bool]:
        """The row plain; only if the model is then in doubt, the same row again, steered, for a choice by both."""
        state, decoder = self._state, self._decoder
        schedule = state.config.schedule
        state.attachment.strength_scale = 0.0
        forward()
        token, logprob = decoder.best()
        if schedule.confidence_threshold is not None and math.exp(logprob) >= schedule.confidence_threshold:
            state.confident_steps += 1
            return token, False
        plain = decoder.logits
        decoder.retract()
        return self._forward(scale, forward, plain=plain)

    def _forward(
        self, scale: float, forward: Callable[[], None], choose: bool = True, plain: torch.Tensor | None = None
    ) -> tuple[int, bool]:
        """One forward pass at this scale; the token is chosen by its logits, and by the plain ones if given."""
        state = self._state
        if state is None:
            forward()
            return self._decoder.best()[0], False
        state.attachment.strength_scale = scale
        calls = state.report.attention_calls
        forward()
        steered = state.report.attention_calls > calls
        if steered:
            state.min_scale = min(state.min_scale, scale)
            if state.attachment.measure_regions:
                state.steps_since_measured, state.unread_shares = 0, True
            elif state.steps_since_measured is not None:
                state.steps_since_measured += 1
        if not choose:
            return -1, steered
        decoder = self._decoder
        scores = None if plain is None else chosen_by(decoder.logits, plain, state.config.schedule)
        return decoder.best(scores)[0], steered

    def _next_scale(self, phase: str, n: int) -> float:
        """Set the attachment's phase, and give the scale of its next row."""
        state = self._state
        if state is None:
            return 0.0
        state.attachment.phase = self._stream.phase
        # V's share beside R's takes a pass of its own on a GPU: now and then, and only where there is an R.
        since, guard = state.steps_since_measured, state.config.guard
        due = guard is not None and (since is None or since >= guard.check_interval)
        state.attachment.measure_regions = due and state.field.snapshot().high[-1:] > (0,)
        return state.retry_scale * state.config.schedule.strength_scale(phase, n)

    def _needs_plain(self, scale: float) -> bool:
        """Whether the next row is run plain first: only where steering would follow."""
        state = self._state
        if state is None or not state.config.schedule.asks_plain or not scale:
            return False
        law, snapshot = state.config.law, state.field.snapshot()
        has_effect = bool(snapshot.low) and law.steers and law.has_effect(snapshot.low[-1], snapshot.high[-1])
        return has_effect and self._stream.phase in state.config.gate.phases

    def _must_follow_region(self) -> bool:
        """Whether the answer must be begun anew because the region is elsewhere than where it first was."""
        state, first = self._state, self._first_snapshot
        if state is None or not state.config.steers:
            return False
        now = state.field.snapshot()
        if now.version == first.version:
            return False
        if first.high[-1:] <= (0,):  # there was none yet
            self._first_snapshot = now
            return False
        state.moved_on = region_moved(first.weights, now.weights)
        return state.moved_on and state.follows_moves

    def _judge(self) -> str:
        """Why the answer so far is over-steered, "" if it is not."""
        state, stream = self._state, self._stream
        if state is None or not state.judged or not state.report.attention_calls:
            return ""
        guard, strays = state.config.guard, stream.stray_control_tokens
        if stream.ended:
            reason = find_malformed(guard, *stream.texts(), strays)
        elif strays:
            reason = find_malformed(guard, "", "", strays)
        else:
            reason = find_loop(guard, stream.turn.output_ids, state.decode)
        if not reason and state.unread_shares:
            state.unread_shares = False
            shares = state.report.new_region_shares()  # V's: the first region that the report measures
            reason = "" if shares is None else find_collapse(guard, state.config.law, *shares)
        return reason
