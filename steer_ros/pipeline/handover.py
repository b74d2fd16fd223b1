"""How one frame goes from perception to reasoning within a process: by reference, its tokens where they are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from steer_ros.pipeline.lane import Fence


@dataclass(frozen=True)
class Seen:
    """One frame as perception leaves it.

    stamp: the frame's, nanoseconds. header: the frame's, for whoever publishes; the pipeline never looks into it.
    features: VisualFeatures, their tokens [N, hidden] on their device. masks: list of Mask on the features' grid, or
    None: nobody said where to look. received: nanoseconds by the node's clock. perceive_ms: receipt to here.
    fence: what a reader on another stream waits for before it reads the tokens.
    """

    stamp: int
    header: Any
    features: Any
    masks: list | None
    received: int
    perceive_ms: float
    fence: Fence = field(default_factory=Fence)


class Handover:
    """Perception gives; reasoning receives while it is active. What nobody receives is counted."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._receive: Callable[[Seen], None] | None = None
        self._reset: Callable[[int], None] | None = None
        self.unreceived = 0

    def connect(self, receive: Callable[[Seen], None], reset: Callable[[int], None]) -> None:
        with self._guard:
            self._receive, self._reset = receive, reset

    def disconnect(self) -> None:
        with self._guard:
            self._receive = self._reset = None

    def give(self, seen: Seen) -> bool:
        """Hand a frame over; False: nobody is there."""
        with self._guard:
            receive = self._receive
            self.unreceived += receive is None
        if receive is not None:
            receive(seen)
        return receive is not None

    def reset(self, stamp: int) -> None:
        """Stamps have gone back to this one: whatever is kept by a later stamp is void."""
        with self._guard:
            reset = self._reset
        if reset is not None:
            reset(stamp)
