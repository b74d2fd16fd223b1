"""Laws by name: how a mask's weights change attention. The arithmetic is kernels/reference.py's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

LAW_NAMES = ("none", "additive", "conserving")
MAX_ALPHA = 64.0  # e^64 still leaves fp32 ten decades of room; nobody needs as much


@dataclass(frozen=True)
class Law:
    """A law with its strength. `alpha` is the bias, in units of attention scores, that weight 1 gives."""

    name: str
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in LAW_NAMES:
            raise ValueError(f"law: {self.name!r}; accepted are {', '.join(LAW_NAMES)}")
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, Real):
            raise ValueError(f"alpha: {self.alpha!r}; accepted is a number from {-MAX_ALPHA:g} to {MAX_ALPHA:g}")
        if not math.isfinite(self.alpha) or abs(self.alpha) > MAX_ALPHA:
            raise ValueError(f"alpha: {self.alpha}; accepted are finite numbers from {-MAX_ALPHA:g} to {MAX_ALPHA:g}")
        object.__setattr__(self, "alpha", float(self.alpha))

    @property
    def steers(self) -> bool:
        """False for a law that leaves every row as it was, whatever the weights."""
        return self.name != "none" and self.alpha != 0.0


def make_law(name: str, alpha: float = 2.0) -> Law:
    """The law `name` ("none", "additive", "conserving") with strength `alpha` (an integer is taken where a
    real is meant). Raises ValueError naming the argument, its value and what is accepted."""
    return Law(name, alpha)
