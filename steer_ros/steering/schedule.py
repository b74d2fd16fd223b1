"""Schedules: what scales the law from token to token, and when the model is left alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real

import torch

SCALED_PHASES = ("prompt", "think", "act")
_ACCEPTED = (
    '"constant", or parts joined by ";": prompt=, think=, act=, floor= (0 to 1), half_life= (tokens, above 0), '
    "confidence_threshold=, plausibility= (above 0, at most 1), guidance= (above 0)"
)
RENAMED = {"sure": "confidence_threshold", "plausible": "plausibility", "contrast": "guidance"}


@dataclass(frozen=True)
class Schedule:
    """What scales the law over an answer, and how a token is chosen.

    Attributes:
        prompt, think, act: scales of the law, 0 to 1, in the context's rows, the thought's and the action's; 0 is
            plain attention.
        half_life: after so many tokens of the answer half of what lies above `floor` is left; None: no decay.
        floor: what the decay ends in, 0 to 1.
        confidence_threshold: a token is left alone whose plain next-token distribution gives its likeliest token at
            least this probability: once the answer is decided, attention is no longer bent. None always steers.
        plausibility: steering chooses among the tokens that have at least this part of the likeliest token's
            probability in the plain distribution (the plausibility constraint of Li et al., "Contrastive Decoding",
            arXiv 2210.15097), so that however strong it is, it picks nothing that the model would hardly have said.
            None leaves it all tokens.
        guidance: a token is chosen by steered + guidance · doubt · (steered − plain) logits, with doubt = 1 − the
            probability of the plain distribution's likeliest token: what comes of the region stands out from what
            would be said in any case, and a word once begun is not broken off (after Shi et al., "Trusting Your
            Evidence", arXiv 2305.14739, which so weighs a prompt with its context against one without; that the
            weight should follow the token is from Wang et al., "AdaCAD", arXiv 2409.07394). None: the steered
            logits alone.

    Each of the last three costs a plain pass for each row that would be steered. A scale multiplies α, and ρ or ψ of
    the laws that have them; target's ψ times a small scale may ask for less than the region has anyway: give it a
    floor.

    Raises:
        ValueError: names the part, its value and what is accepted.
    """

    prompt: float = 1.0
    think: float = 1.0
    act: float = 1.0
    half_life: float | None = None
    floor: float = 0.0
    confidence_threshold: float | None = None
    plausibility: float | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        for name, low, high, optional in (
            ("prompt", 0.0, 1.0, False),
            ("think", 0.0, 1.0, False),
            ("act", 0.0, 1.0, False),
            ("half_life", 0.0, math.inf, True),
            ("floor", 0.0, 1.0, False),
            ("confidence_threshold", 0.0, 1.0, True),
            ("plausibility", 0.0, 1.0, True),
            ("guidance", 0.0, math.inf, True),
        ):
            value = getattr(self, name)
            if optional and value is None:
                continue
            number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not low <= value <= high or (optional and value == low):
                above = "above 0" if optional else "from 0"
                limit = "" if high == math.inf else f", at most {high:g}"
                raise ValueError(f"schedule {name}: {value!r}; accepted are finite numbers {above}{limit}")
            object.__setattr__(self, name, float(value))

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read "constant" or, say, "think=1;act=0;half_life=20;confidence_threshold=0.9"; parts left out keep their
        defaults. Raises ValueError naming the part."""
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"schedule: {text!r}; accepted is {_ACCEPTED}")
        known = {field.name for field in fields(cls)}
        settings: dict[str, float] = {}
        for part in filter(None, (piece.strip() for piece in text.split(";"))):
            if part == "constant":
                continue
            key, equals, value = (side.strip() for side in part.partition("="))
            if key in RENAMED:
                raise ValueError(f"schedule: {text!r} at {part!r}; {key} is now {RENAMED[key]}")
            if not equals or key not in known or key in settings:
                raise ValueError(f"schedule: {text!r} at {part!r}; accepted is {_ACCEPTED}")
            try:
                settings[key] = float(value)
            except ValueError:
                raise ValueError(f"schedule: {text!r} at {part!r}; accepted is {_ACCEPTED}") from None
        return cls(**settings)

    @property
    def asks_plain(self) -> bool:
        """Whether a row is run plain before it is steered."""
        return any(part is not None for part in (self.confidence_threshold, self.plausibility, self.guidance))

    def strength_scale(self, phase: str, n: int) -> float:
        """The scale of the law, 0 to 1, for the row after which token n of the answer comes.

        Args:
            phase: "prompt" (the context's rows), "think" or "act".
            n: tokens since the answer began; 0 is the first one, which the prompt's last row gives.
        """
        if phase not in SCALED_PHASES:
            raise ValueError(f"phase: {phase!r}; accepted are {', '.join(SCALED_PHASES)}")
        decay = 1.0 if self.half_life is None else self.floor + (1 - self.floor) * 0.5 ** (n / self.half_life)
        return getattr(self, phase) * decay

    def __str__(self) -> str:
        parts = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        return ";".join(part.removesuffix(".0") for part in parts) or "constant"


def chosen_by(logits: torch.Tensor, plain: torch.Tensor, schedule: Schedule) -> torch.Tensor:
    """The scores that a steered token is chosen by, from the row's steered and plain logits, fp32 [..., vocabulary]
    all three: what `guidance` makes of them, -inf where a token is not plausible enough."""
    scores = logits
    if schedule.guidance is not None:
        doubt = 1 - plain.softmax(-1).amax(-1, keepdim=True)
        scores = scores + schedule.guidance * doubt * (logits - plain)
    if schedule.plausibility is not None:
        least = plain.amax(-1, keepdim=True) + math.log(schedule.plausibility)
        scores = scores.masked_fill(plain < least, -math.inf)
    return scores
