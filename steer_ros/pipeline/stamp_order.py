"""Whether a frame arrives in order, judged by its stamp."""

from __future__ import annotations

from enum import Enum

MAX_LATENESS = 1_000_000_000  # nanoseconds behind the newest frame; from here on, stamps have been reset
MAX_LATE_IN_A_ROW = 3  # late frames; one more means that stamps have been reset


class StampStatus(Enum):
    """NEW: newer than all frames before. DUPLICATE: the newest frame's stamp once more. LATE: slightly older than the
    newest frame; to be dropped. RESET: time has gone back, as when a bag starts again."""

    NEW = "new"
    DUPLICATE = "duplicate"
    LATE = "late"
    RESET = "reset"


class StampOrder:
    """Classifies the stamps of frames, in nanoseconds, as they arrive."""

    def __init__(self) -> None:
        self._first: int | None = None  # since the last reset
        self._newest = 0
        self._late_in_a_row = 0

    def take(self, stamp: int) -> StampStatus:
        """The status of the next frame, by its stamp."""
        if self._first is None:
            self._first = self._newest = stamp
            return StampStatus.NEW
        between = self._first < stamp < self._newest and self._newest - stamp < MAX_LATENESS
        if between and self._late_in_a_row < MAX_LATE_IN_A_ROW:
            self._late_in_a_row += 1
            return StampStatus.LATE
        self._late_in_a_row = 0
        if stamp < self._newest:
            self._first = self._newest = stamp
            return StampStatus.RESET
        status = StampStatus.DUPLICATE if stamp == self._newest else StampStatus.NEW
        self._newest = stamp
        return status
