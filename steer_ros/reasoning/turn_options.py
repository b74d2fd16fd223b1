"""What one turn is given besides prompt, frames, masks and steering: its limits, and who listens while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How long an answer may get, in tokens.

    Attributes:
        max_new_tokens: the longest answer, thought and action together.
        max_thought_tokens: the longest thought; it is then closed for the model, and the action follows. None: no
            limit of its own.
        max_action_tokens: the longest action; the answer is then cut. None: no limit of its own.

    Raises:
        ValueError: names the limit, its value and what is accepted.
    """

    max_new_tokens: int = 256
    max_thought_tokens: int | None = None
    max_action_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "max_thought_tokens", "max_action_tokens"):
            value = getattr(self, name)
            if value is None and name != "max_new_tokens":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: {value!r}; accepted are whole numbers from 1")


@dataclass(frozen=True)
class Callbacks:
    """What a turn calls while it runs, in the caller's thread.

    Attributes:
        stop: asked before each token; a text ends the turn, with the text as the reason.
        on_text: called with ("think" | "act", new text) as it is written, and with ("rollback", why) when everything
            it has heard of the answer is void and the answer begins anew.
        update_masks: asked before each token; new masks (as `Reasoner.generate` takes them) count from the next token
            on; None leaves them as they are. A region that moves elsewhere has the answer begun anew, if the guard
            follows moves.
    """

    stop: Callable[[], str | None] | None = None
    on_text: Callable[[str, str], None] | None = None
    update_masks: Callable[[], object] | None = None
