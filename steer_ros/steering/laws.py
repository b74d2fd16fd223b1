"""Laws by name: how a mask's weights change attention. The arithmetic is that of kernels/impl/reference.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steer_ros.kernels import LAW_NAMES, MAX_ALPHA, SETPOINT_LAWS, check_alpha, check_law, check_setpoint

__all__ = ["LAW_NAMES", "MAX_ALPHA", "SETPOINT_LAWS", "Law", "make_law"]

_USUAL: Any = object()  # alpha was not given: each law has its own usual one


@dataclass(frozen=True)
class Law:
    """A law with its numbers.

    Attributes:
        name: "none", "additive", "conserving", "share" or "target".
        alpha: the bias, in units of attention scores, that weight 1 gives.
        setpoint: what share and target aim at, None for the others: ρ of share (0 to 1), the least that the region
            gets of what a row pays to the visual keys; ψ of target (between 0 and 1), what the region gets of the row.
    """

    name: str
    alpha: float = 0.0
    setpoint: float | None = None

    def __post_init__(self) -> None:
        check_law(self.name, self.setpoint)
        object.__setattr__(self, "alpha", check_alpha(self.alpha))
        if self.setpoint is not None:
            object.__setattr__(self, "setpoint", check_setpoint(self.name, self.setpoint))

    @property
    def steers(self) -> bool:
        """False for a law that leaves every row as it was, whatever the weights."""
        return self.has_setpoint or (self.name != "none" and self.alpha != 0.0)

    @property
    def has_setpoint(self) -> bool:
        """Whether it aims at a setpoint: share and target, which take weights of at least 0."""
        return self.name in SETPOINT_LAWS

    def has_effect(self, low: int, high: int) -> bool:
        """Whether a row has something to steer with that sees visual keys with these extreme weights."""
        if self.name == "conserving":
            return low < high
        if self.name == "share":
            return low <= 0 < high
        return high > 0 if self.name == "target" else not low == high == 0

    def __str__(self) -> str:
        """The law and those of its numbers that matter: "conserving, alpha 8", "share, setpoint 0.9"."""
        parts = [self.name]
        if self.setpoint is not None:
            parts.append(f"setpoint {self.setpoint:g}")
        if self.name != "none" and (self.alpha or self.setpoint is None):
            parts.append(f"alpha {self.alpha:g}")
        return ", ".join(parts)


def make_law(name: str, alpha: float = _USUAL, setpoint: float | None = None) -> Law:
    """The law `name` ("none", "additive", "conserving", "share", "target"). An integer is taken where a real is meant.

    Args:
        alpha: within ±64; 2 if not given, 0 for share and target, which need none.
        setpoint: required for share (0 to 1) and target (between 0 and 1); None for the others.

    Raises:
        ValueError: names the argument, its value and what is accepted.
    """
    if alpha is _USUAL:
        alpha = 0.0 if name in SETPOINT_LAWS else 2.0
    return Law(name, alpha, setpoint)
