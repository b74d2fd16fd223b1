"""Whether a frame comes in its turn, by its stamp."""

from __future__ import annotations

from enum import Enum

LATE = 1_000_000_000  # nanoseconds: a frame stamped this long and more before another is of a new time
MOST_LATE = 3  # late frames in a row: more are no disorder, but a new time


class Standing(Enum):
    """NEXT: newer than all before it. SAME: as new as the newest. LATE: of between those that went before; to be
    dropped. BACK: time has gone back, as where a bag begins anew."""

    NEXT = "next"
    SAME = "same"
    LATE = "late"
    BACK = "back"


class FrameOrder:
    """Takes the stamps of frames as they come, in nanoseconds."""

    def __init__(self) -> None:
        self._first: int | None = None  # since time last went back
        self._newest = 0
        self._late = 0  # in a row

    def take(self, stamp: int) -> Standing:
        """What the next frame's stamp makes of it."""
        if self._first is None:
            self._first = self._newest = stamp
            return Standing.NEXT
        between = self._first < stamp < self._newest and self._newest - stamp < LATE
        if between and self._late < MOST_LATE:
            self._late += 1
            return Standing.LATE
        self._late = 0
        if stamp < self._newest:
            self._first = self._newest = stamp
            return Standing.BACK
        standing = Standing.SAME if stamp == self._newest else Standing.NEXT
        self._newest = stamp
        return standing
