"""How a frame passes from perception to reasoning within one process: by reference, without copying its tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .lane import Fence


@dataclass(frozen=True)
class PerceivedFrame:
    """One frame after perception.

    stamp: the frame's, in nanoseconds. header: the frame's, for publishing; the pipeline never looks into it.
    features: VisualFeatures, their tokens [N, hidden] on their device. masks: list of Mask on the features' grid; None
    if nobody said where to look. received: nanoseconds by the node's clock. perceive_ms: from receipt until now.
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
    """Perception sends; reasoning receives while it is active. Frames that nobody receives are counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._receive: Callable[[PerceivedFrame], None] | None = None
        self._reset: Callable[[int], None] | None = None
        self.unreceived = 0

    def connect(self, receive: Callable[[PerceivedFrame], None], reset: Callable[[int], None]) -> None:
        with self._lock:
            self._receive, self._reset = receive, reset

    def disconnect(self) -> None:
        with self._lock:
            self._receive = self._reset = None

    def send(self, frame: PerceivedFrame) -> bool:
        """Hand a frame over. Returns False if nobody receives."""
        with self._lock:
            receive = self._receive
            self.unreceived += receive is None
        if receive is not None:
            receive(frame)
        return receive is not None

    def reset(self, stamp: int) -> None:
        """Stamps have gone back to this one: tell the receiver to drop what it keeps under later stamps."""
        with self._lock:
            reset = self._reset
        if reset is not None:
            reset(stamp)
