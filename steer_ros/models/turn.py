"""What one turn gave: the thought, the action, what steered it, and where the time went."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Turn:
    """One pass from frames to an action text.

    Attributes:
        prompt: the user's text.
        thought, action: texts, stripped. The action is "" when the thought was never closed.
        prompt_ids: the context's token ids; a frame's positions hold image_pad's id (-1 if there is none).
        output_ids: every token after the context, end token included.
        bridge: "token" or "text": how the frames reached the reasoner.
        spans: (start, length) of the context's visual keys.
        law, alpha, gate: what was asked for.
        steered: True if at least one attention row was changed.
        focus_before, focus_after: mean share of a steered row's attention on the region; None: not measured.
        unsteered_why: why nothing was steered; "" if something was.
        mask_updates: how many new masks counted while the answer was written.
        cut_short, cut_reason: whether and why the answer is not whole: "thought_tokens" (the thought was
            closed or cut at its limit), "action_tokens" (max_new_tokens), "malformed" (no action), or what
            `stop` said.
        timings: milliseconds: embed, prefill (to the first token), decode, total.
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
    law: str = "none"
    alpha: float = 0.0
    gate: str = "all"
    steered: bool = False
    unsteered_why: str = ""
    focus_before: float | None = None
    focus_after: float | None = None
    mask_updates: int = 0
    cut_short: bool = False
    cut_reason: str = ""
    timings: dict[str, float] = field(default_factory=dict)
