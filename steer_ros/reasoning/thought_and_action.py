"""An answer's tokens as they come: thought, then action; their text, streamed; and when the answer is over."""

from __future__ import annotations

from collections.abc import Callable

from ..models.tokenization import StreamDecoder, encode_template
from .prompt import THINK_END, PromptBuilder
from .turn import Turn
from .turn_options import Limits

THINK_PHASE, ACT_PHASE = "think", "act"
ROLLBACK = "rollback"  # on_text gets it with the reason: what was heard of this answer is void, it begins anew

# Why an answer is not whole; the words of ActionText's CUT_* constants.
CUT_THOUGHT, CUT_ACTION, CUT_MALFORMED = "thought_tokens", "action_tokens", "malformed"


class AnswerStream:
    """One answer in the making. Feed it each predicted token with ``take``; the turn fills up."""

    def __init__(
        self,
        turn: Turn,
        tokenizer,
        builder: PromptBuilder,
        stop_ids: frozenset[int],
        on_text: Callable[[str, str], None] | None,
        limits: Limits,
        control_ids: frozenset[int] = frozenset(),
    ):
        self.turn = turn
        self.stray_control_tokens = 0  # control tokens where the answer has no place for one
        self.phase = THINK_PHASE if builder.opens_thought else ACT_PHASE
        self.done = False
        self._tokenizer, self._builder, self._stop_ids, self._on_text = tokenizer, builder, stop_ids, on_text
        self._limits = limits
        self._control_ids = control_ids
        self._forced: list[int] = []
        self._streams = {phase: StreamDecoder(tokenizer) for phase in (THINK_PHASE, ACT_PHASE)}

    def take(self, token: int) -> int:
        """Account for a predicted token; returns the one to feed (another to close the thought)."""
        turn = self.turn
        if not self._forced and self.phase == THINK_PHASE and self._over_budget(token):
            # The words of the end as R1 writes it, so that the action begins as it was trained to.
            self._forced = encode_template(self._tokenizer, f"\n{THINK_END}\n\n")
            turn.cut_short, turn.cut_reason = True, CUT_THOUGHT
        if self._forced:
            token = self._forced.pop(0)
        turn.output_ids.append(token)
        if token in self._stop_ids:
            self.done = True
        elif token == self._builder.think_end and self.phase == THINK_PHASE:
            self._flush()
            self.phase = ACT_PHASE
        elif token == self._builder.think and self.phase == ACT_PHASE and len(turn.output_ids) == 1:
            self.phase = THINK_PHASE  # the template left it to the model to open the thought
        elif token == self._builder.think_end and turn.cut_reason == CUT_THOUGHT and not self.texts()[1]:
            pass  # the model closes a thought that was closed for it
        else:
            if self.phase == THINK_PHASE:
                turn.thought_tokens += 1
            else:
                turn.action_tokens += 1
            self.stray_control_tokens += token in self._control_ids
            self._say(self._streams[self.phase].push(token))
        limits = self._limits
        full = limits.max_action_tokens is not None and turn.action_tokens >= limits.max_action_tokens
        if not self.done and (full or len(turn.output_ids) >= limits.max_new_tokens):
            self._cut(CUT_THOUGHT if self.phase == THINK_PHASE else CUT_ACTION)
        return token

    @property
    def ended(self) -> bool:
        """True once the model itself has ended the answer."""
        return self.done and bool(self.turn.output_ids) and self.turn.output_ids[-1] in self._stop_ids

    def texts(self) -> tuple[str, str]:
        """The thought and the action as they stand, stripped."""
        return self._streams[THINK_PHASE].text.strip(), self._streams[ACT_PHASE].text.strip()

    def roll_back(self, reason: str) -> None:
        """Tell who listens that this answer is void."""
        self.done = True
        if self._on_text is not None:
            self._on_text(ROLLBACK, reason)

    def stop_requested(self, stop: Callable[[], str | None] | None) -> bool:
        """Ask the caller; True ends the answer, with its reason in the turn."""
        reason = stop() if stop is not None else None
        if reason:
            self._cut(reason if isinstance(reason, str) else "stopped")
        return bool(reason)

    def finish(self) -> None:
        """Put the texts into the turn. A thought that never ended leaves no action."""
        self._flush()
        turn = self.turn
        turn.thought, turn.action = self.texts()
        if not turn.action and not turn.cut_short:
            turn.cut_short, turn.cut_reason = True, CUT_MALFORMED

    def _over_budget(self, token: int) -> bool:
        budget = self._limits.max_thought_tokens
        ends = token == self._builder.think_end or token in self._stop_ids
        return budget is not None and self.turn.thought_tokens >= budget and not ends

    def _cut(self, reason: str) -> None:
        self.done = True
        self.turn.cut_short, self.turn.cut_reason = True, reason

    def _flush(self) -> None:
        self._say(self._streams[self.phase].flush())

    def _say(self, piece: str) -> None:
        if piece and self._on_text is not None:
            self._on_text(self.phase, piece)
