"""Schedules: how much of the strength each token of an answer gets, and when the model is left alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real

import torch

PHASES = ("prompt", "think", "act")
_ACCEPTED = (
    '"constant", or parts joined by ";": prompt=, think=, act=, floor= (0 to 1), half_life= (tokens, above 0), '
    "sure=, plausible= (above 0, at most 1), contrast= (above 0)"
)


@dataclass(frozen=True)
class Schedule:
    """The part of the law's strength that is in force, by phase and by token.

    prompt, think, act: factors, 0 to 1, of the context's rows, of the thought's and of the action's; 0 is plain
    attention. half_life: tokens of the answer after which half of what lies above `floor` (0 to 1) is left; None is
    no decay. sure: a token whose plain next-token distribution has a likeliest token of at least this probability
    is left alone: the look is not bent any more once the answer is decided. None always steers. plausible: steering
    chooses among the tokens that have at least this part of the likeliest one's probability in that distribution (the
    plausibility constraint of Li et al., "Contrastive Decoding", arXiv 2210.15097), so that however strong it is, it
    picks nothing that the model would hardly have said. None leaves it all tokens. contrast: what steering does to the
    logits is done once more, times this and times the doubt of the plain distribution, 1 − its likeliest token's
    probability: a token is chosen by steered + contrast · doubt · (steered − plain), so that what comes of the region
    stands out from what would be said in any case, and a word once begun is not broken off (after Shi et al.,
    "Trusting Your Evidence", arXiv 2305.14739, which so weighs a prompt with its context against one without; that
    the weight should follow the token is Wang et al.'s, "AdaCAD", arXiv 2409.07394). None is no more than steering.
    Each of the three costs a plain pass for each row that would be steered.

    A factor multiplies α, and ρ or ψ of the laws that have them. target's ψ times a small factor may ask for less
    than the region has anyway: give it a floor. Raises ValueError naming the part, its value and what is accepted.
    """

    prompt: float = 1.0
    think: float = 1.0
    act: float = 1.0
    half_life: float | None = None
    floor: float = 0.0
    sure: float | None = None
    plausible: float | None = None
    contrast: float | None = None

    def __post_init__(self) -> None:
        for name, low, high, optional in (
            ("prompt", 0.0, 1.0, False),
            ("think", 0.0, 1.0, False),
            ("act", 0.0, 1.0, False),
            ("half_life", 0.0, math.inf, True),
            ("floor", 0.0, 1.0, False),
            ("sure", 0.0, 1.0, True),
            ("plausible", 0.0, 1.0, True),
            ("contrast", 0.0, math.inf, True),
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
        """Read "constant" or, say, "think=1;act=0;half_life=20;floor=0.2;sure=0.9"; parts left out keep their
        defaults. Raises ValueError naming the part."""
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"schedule: {text!r}; accepted is {_ACCEPTED}")
        known = {field.name for field in fields(cls)}
        settings: dict[str, float] = {}
        for part in filter(None, (piece.strip() for piece in text.split(";"))):
            if part == "constant":
                continue
            key, equals, value = (side.strip() for side in part.partition("="))
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
        return any(part is not None for part in (self.sure, self.plausible, self.contrast))

    def factor(self, phase: str, n: int) -> float:
        """The part of the strength, 0 to 1, for the row after which token n of the answer comes.

        Args:
            phase: "prompt" (the context's rows), "think" or "act".
            n: tokens since the answer began; 0 is the first one, which the prompt's last row gives.
        """
        if phase not in PHASES:
            raise ValueError(f"phase: {phase!r}; accepted are {', '.join(PHASES)}")
        decay = 1.0 if self.half_life is None else self.floor + (1 - self.floor) * 0.5 ** (n / self.half_life)
        return getattr(self, phase) * decay

    def __str__(self) -> str:
        parts = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        return ";".join(part.removesuffix(".0") for part in parts) or "constant"


def as_schedule(schedule: Schedule | str | None) -> Schedule:
    """A schedule, its text, or None for the constant one."""
    if schedule is None:
        return Schedule()
    return schedule if isinstance(schedule, Schedule) else Schedule.parse(schedule)


def chosen_by(logits: torch.Tensor, plain: torch.Tensor, schedule: Schedule) -> torch.Tensor:
    """The scores that a steered token is chosen by, from the row's steered and plain logits, fp32 [..., vocabulary]
    all three: what `contrast` makes of them, -inf where a token is not `plausible`."""
    scores = logits
    if schedule.contrast is not None:
        doubt = 1 - plain.softmax(-1).amax(-1, keepdim=True)
        scores = scores + schedule.contrast * doubt * (logits - plain)
    if schedule.plausible is not None:
        least = plain.amax(-1, keepdim=True) + math.log(schedule.plausible)
        scores = scores.masked_fill(plain < least, -math.inf)
    return scores
