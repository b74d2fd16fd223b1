"""The guard's settings: what counts as over-steering, and how far an answer is then rolled back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Real

PLAIN = 0.0  # the retry scale of plain attention
_ACCEPTED = (
    '"on", "off", or parts joined by ";": retry_scales= (falling, 1 to 0: 1,0.5,0), min_repeats=, '
    "min_repeated_tokens=, min_repeated_symbols= (whole numbers from 2), max_period=, check_interval= (from 1), "
    "collapse= (0 to below 1), follow_moves= (true, false)"
)
_WHOLE = {
    "min_repeats": 2,
    "min_repeated_tokens": 2,
    "max_period": 1,
    "min_repeated_symbols": 2,
    "check_interval": 1,
}
RENAMED = {
    "scales": "retry_scales",
    "copies": "min_repeats",
    "tokens": "min_repeated_tokens",
    "longest": "max_period",
    "signs": "min_repeated_symbols",
    "every": "check_interval",
}


@dataclass(frozen=True)
class Guard:
    """When a steered answer counts as over-steered, and what is tried instead. `reasoning/guard.py` applies it.

    Attributes:
        retry_scales: parts of the strength that are tried one after the other within a turn, falling, from 1 down to
            0 (plain attention); there are as many rollbacks as steps. The last one is not judged.
        min_repeats, min_repeated_tokens: a loop is a unit of up to `max_period` tokens that is repeated at least
            `min_repeats` times in a row and fills at least `min_repeated_tokens` tokens; a unit without a letter
            (digits, dots, rules) has to fill `min_repeated_symbols`.
        max_period: the longest unit of a loop, in tokens.
        min_repeated_symbols: see min_repeats.
        collapse: the law has bent the attention too far when image or text keep less than this part of what they had
            (additive leaves text e^-α of it at worst: 0.14 at α = 2). The target law is not judged by it: it is asked
            to take attention from both.
        check_interval: tokens between two looks at the attention; each waits for the device.
        follow_moves: whether an answer is begun anew, with the strength that it has, when a new mask moves the region
            elsewhere (`reasoning.guard.region_moved`). A mask that moves it less counts from the next token on.
        well_formed: what the caller knows of a good answer, (thought, action) → bool; None accepts every answer that
            is not malformed on its face. It has no text form.

    Raises:
        ValueError: names the part, its value and what is accepted.
    """

    retry_scales: tuple[float, ...] = (1.0, 0.5, PLAIN)
    min_repeats: int = 3
    min_repeated_tokens: int = 6
    max_period: int = 32
    min_repeated_symbols: int = 16
    collapse: float = 0.1
    check_interval: int = 8
    follow_moves: bool = True
    well_formed: Callable[[str, str], bool] | None = None

    def __post_init__(self) -> None:
        scales = tuple(self.retry_scales) if isinstance(self.retry_scales, (tuple, list)) else ()
        real = all(isinstance(s, Real) and not isinstance(s, bool) and 0 <= s <= 1 for s in scales)
        if not scales or not real or list(scales) != sorted(set(scales), reverse=True):
            raise ValueError(
                f"guard retry_scales: {self.retry_scales!r}; accepted are falling numbers from 1 to 0, at least one"
            )
        object.__setattr__(self, "retry_scales", tuple(float(s) for s in scales))
        for name, minimum in _WHOLE.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise ValueError(f"guard {name}: {value!r}; accepted are whole numbers from {minimum}")
        if isinstance(self.collapse, bool) or not isinstance(self.collapse, Real) or not 0 <= self.collapse < 1:
            raise ValueError(f"guard collapse: {self.collapse!r}; accepted are numbers from 0 to below 1")
        if not isinstance(self.follow_moves, bool):
            raise ValueError(f"guard follow_moves: {self.follow_moves!r}; accepted are True and False")
        if self.well_formed is not None and not callable(self.well_formed):
            raise ValueError(f"guard well_formed: {self.well_formed!r}; accepted is a function or None")

    @classmethod
    def parse(cls, text: str) -> Guard | None:
        """Read "on", "off" (None) or, say, "retry_scales=1,0.25,0;check_interval=4"; parts left out keep their
        defaults. Raises ValueError naming the part."""
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"guard: {text!r}; accepted is {_ACCEPTED}")
        if text.strip() == "off":
            return None
        parts: dict[str, object] = {}
        for part in filter(None, (piece.strip() for piece in text.split(";"))):
            if part == "on":
                continue
            key, equals, value = (side.strip() for side in part.partition("="))
            if key in RENAMED:
                raise ValueError(f"guard: {text!r} at {part!r}; {key} is now {RENAMED[key]}")
            if not equals or key in parts or key == "well_formed" or key not in {f.name for f in fields(cls)}:
                raise ValueError(f"guard: {text!r} at {part!r}; accepted is {_ACCEPTED}")
            try:
                parts[key] = _read(key, value)
            except (KeyError, ValueError):
                raise ValueError(f"guard: {text!r} at {part!r}; accepted is {_ACCEPTED}") from None
        return cls(**parts)  # type: ignore[arg-type]

    def __str__(self) -> str:
        parts = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default or field.name == "well_formed":
                continue
            if isinstance(value, tuple):
                value = ",".join(repr(scale).removesuffix(".0") for scale in value)
            parts.append(f"{field.name}={str(value).lower()}")
        return ";".join(parts) or "on"


def _read(key: str, value: str) -> object:
    if key == "retry_scales":
        return tuple(float(scale) for scale in value.split(","))
    if key == "follow_moves":
        return {"true": True, "false": False}[value]
    return float(value) if key == "collapse" else int(value)
