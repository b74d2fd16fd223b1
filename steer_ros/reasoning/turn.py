"""What one turn gave: the thought, the action, what steered it, and where the time went."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..steering import UNSTEERED, SteeringConfig


@dataclass
class Turn:
    """One pass from frames to an action text.

    Attributes:
        prompt: the user's text.
        thought, action: texts, stripped. The action is "" when the thought was never closed.
        prompt_ids: the laid-out prompt's token ids; a frame's positions hold image_pad's id (-1 if there is none).
        output_ids: every token after the prompt, end token included.
        bridge: "token" or "text": how the frames reached the reasoner.
        spans: (start, length) of the prompt's visual keys.
        config: how it was to be steered.
        scale: what scaled the law as the answer was written, apart from the schedule: 1, less after a rollback, 0
            for plain attention.
        steered: True if at least one attention row was changed.
        steered_tokens: tokens of the answer that were chosen from a steered forward pass. The others were left
            alone: by the schedule, by the gate, or because the model was confident without.
        focus_before, focus_after: mean share of a steered row's attention on the region; None: not measured.
        unsteered_why: why nothing was steered; "" if something was.
        mask_updates: how many new masks counted while the answer was written.
        rollbacks: how often the answer was begun anew: with less strength because it was over-steered, or with the
            same because the region had moved.
        warnings: in words: why the strength was taken back, a region that is empty or on an attention sink, focus
            never reached.
        cut_short, cut_reason: whether and why the answer is not whole: "thought_tokens" (the thought was
            closed or cut at its limit), "action_tokens" (the action's limit or the answer's), "malformed" (no action),
            or what `Callbacks.stop` said.
        timings: milliseconds: embed, prefill (to the first token), decode, total; rolled_back if there was any,
            what the answers thrown away took.
    """

    prompt: str
    thought: str = ""
    action: str = ""
    prompt_ids: list[int] = field(default_factory=list)
    output_ids: list[int] = field(default_factory=list)
    thought_tokens: int = 0
    action_tokens: int = 0
    bridge: str = ""
    spans: list[tuple[int, int]] = field(default_factory=list)
    config: SteeringConfig = UNSTEERED
    scale: float = 1.0
    steered: bool = False
    steered_tokens: int = 0
    unsteered_why: str = ""
    focus_before: float | None = None
    focus_after: float | None = None
    mask_updates: int = 0
    rollbacks: int = 0
    warnings: tuple[str, ...] = ()
    cut_short: bool = False
    cut_reason: str = ""
    timings: dict[str, float] = field(default_factory=dict)

    def restart(self) -> None:
        """Forget the answer; what was asked for, rollbacks, warnings and times stay."""
        self.thought = self.action = self.cut_reason = self.unsteered_why = ""
        self.output_ids = []
        self.thought_tokens = self.action_tokens = self.steered_tokens = 0
        self.cut_short = self.steered = False
        self.focus_before = self.focus_after = None
