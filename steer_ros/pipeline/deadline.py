"""A deadline by any clock that counts nanoseconds, also one that stands still or goes back."""

from __future__ import annotations

from collections.abc import Callable


class Deadline:
    """Passed once `limit_ms` have gone by since `start` (nanoseconds of `clock`); 0 or less: never.

    The clock is the node's. Simulated time that stands still (a paused bag, lockstep) uses up nothing of it; such a
    turn is bounded by its token limits alone. Time that goes back (a bag that loops) starts the count anew.
    """

    def __init__(self, limit_ms: float, start: int, clock: Callable[[], int]) -> None:
        self._limit = int(limit_ms * 1e6)
        self._start = start
        self._clock = clock

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds by the clock since the start."""
        now = self._clock()
        if now < self._start:
            self._start = now
        return (now - self._start) / 1e6

    @property
    def passed(self) -> bool:
        return self._limit > 0 and self.elapsed_ms * 1e6 >= self._limit
