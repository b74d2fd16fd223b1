"""A suite's results: judged answers by key, each with its scene; and running a suite's scenes on two cores."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable

from ...commands.processes import spawned
from .eval_config import EvalConfig
from .intervals import Row, difference, mean_row, share

WORKERS = 2
FEWEST = 8  # scenes for which a second process, with models of its own to load, is worth while


class Results:
    """Results by key, in the order in which they were added; keys that are compared are added side by side."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[int, float]]] = defaultdict(list)

    def add(self, key: str, value: float, scene: int) -> None:
        """One answer judged (True or False), or one number measured."""
        self._values[key].append((scene, float(value)))

    def merge(self, other: Results) -> None:
        """Take in the answers about other scenes."""
        for key, values in other._values.items():
            self._values[key] = sorted([*self._values[key], *values], key=lambda value: value[0])

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def values(self, key: str) -> list[float]:
        """A key's values; [] for one that had no answer."""
        return [value for _, value in self._values.get(key, ())]

    def scenes(self, key: str) -> list[int]:
        """The scene of each."""
        return [scene for scene, _ in self._values.get(key, ())]

    def share(self, key: str) -> Row:
        """The share of hits."""
        return share(self.values(key), self.scenes(key))

    def shares(self, keys: Iterable[str]) -> dict[str, Row]:
        """Those of the keys that had an answer."""
        return {key: self.share(key) for key in keys if key in self}

    def mean(self, key: str) -> Row:
        """The mean of a number."""
        return mean_row(self.values(key))

    def paired_difference(self, a: str, b: str) -> Row:
        """The share of a minus that of b, paired by question."""
        return difference(self.values(a), self.values(b), self.scenes(a))


def run_parallel(
    options: EvalConfig, part: Callable[[EvalConfig, int, int], Results], scenes: int, fewest: int = FEWEST
) -> Results:
    """Call ``part(options, index, of)`` for each of the parts that the scenes are dealt out to, and merge.

    Two processes for the suites' own models on a CPU, each on one thread, and `fewest` scenes or more; else one, here.
    The numbers do not depend on it: a scene's questions are drawn from its own seed.
    """
    names = (options.perception or "builtin:", options.reasoning or "builtin:")
    small = options.device == "cpu" and all(name.startswith("builtin:") for name in names)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(WORKERS, cores) if small and scenes >= fewest and options.parallel else 1
    if workers == 1:
        return part(options, 0, 1)
    with spawned(workers - 1) as pool:
        others = [pool.submit(part, options.portable(), index, workers) for index in range(1, workers)]
        results = part(options, 0, workers)
        for other in others:
            results.merge(other.result())
    return results
