"""Where the time of one turn went: stage times in milliseconds, by the monotonic clock."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator


class Trace:
    """Stage times of one turn. Host times: work that a GPU has yet to do counts in the stage that waits for it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self.stages: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to stage `name`, also when it raises."""
        start = self._clock()
        try:
            yield
        finally:
            self.add(name, (self._clock() - start) * 1e3)

    def add(self, name: str, milliseconds: float) -> None:
        self.stages[name] = self.stages.get(name, 0.0) + milliseconds

    @property
    def elapsed(self) -> float:
        """Milliseconds since the trace began."""
        return (self._clock() - self._start) * 1e3


class StageTimes:
    """The last turns' stage times, for diagnostics: mean and largest of each stage."""

    def __init__(self, turns: int = 100) -> None:
        self._turns: deque[dict[str, float]] = deque(maxlen=turns)
        self._lock = threading.Lock()

    def add(self, stages: dict[str, float]) -> None:
        with self._lock:
            self._turns.append(dict(stages))

    def summary(self) -> dict[str, tuple[float, float]]:
        """stage -> (mean, largest) in milliseconds, over the turns that had the stage."""
        with self._lock:
            turns = list(self._turns)
        times: dict[str, list[float]] = {}
        for stages in turns:
            for name, value in stages.items():
                times.setdefault(name, []).append(value)
        return {name: (sum(values) / len(values), max(values)) for name, values in times.items()}
