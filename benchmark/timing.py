"""How long a call takes: interleaved rounds, their median, warm and with K and V cold.

On a GPU a batch of calls is captured as a CUDA graph and its replay timed with events, so that what is measured is
the device's time and not Python's: in a turn attention runs inside captured graphs too. "Warm" repeats one call on
the same K and V; "cold" goes round copies of K and V that together exceed the L2 cache twice, as layers do.
On a CPU, which other processes share, the fastest round counts in place of the median, and each batch begins with a
call that is not timed: what ran before it has filled the caches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)
BATCH_US = {"cuda": 1000.0, "cpu": 500.0}  # a batch takes about this long, and has 1 to 50 calls
MAX_COPIES = 256


@dataclass(frozen=True)
class Times:
    """Microseconds for one call; cold is None where K and V were not copied. spread: the
    middle half of the warm rounds, relative to their median. graphed: False if timed by launching."""

    warm_us: float
    cold_us: float | None
    spread: float
    graphed: bool


@dataclass
class _Batch:
    run: Callable[[], None]
    first: Callable[[], object]
    calls: int
    graphed: bool
    times: list[float]


def copies_to_flush(device: torch.device, call_bytes: int) -> int:
    """How many copies of K and V exceed the card's L2 cache twice; 1 on a CPU."""
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(MAX_COPIES, max(4, math.ceil(2 * cache / call_bytes)))


def time_calls(calls: Mapping[Key, Sequence[Callable]], device: torch.device, rounds: int) -> dict[Key, Times]:
    """Time each list of calls (one for each copy of K and V) in turn, `rounds` times over."""
    warm, cold = {}, {}
    for key, copies in calls.items():
        n = max(1, min(50, round(BATCH_US[device.type] / _estimate_us(copies[0], device))))
        warm[key] = _batch([copies[0]] * n, device)
        if len(copies) > 1:
            cold[key] = _batch(copies, device)
    for _ in range(rounds):
        for batches in (warm, cold):
            for batch in batches.values():
                batch.times.append(_run_us(batch.run, batch.first, device) / batch.calls)
    middle = median if device.type == "cuda" else min
    return {key: _times(warm[key], cold.get(key), middle) for key in calls}


def time_once(calls: Sequence[Callable], device: torch.device, rounds: int = 5) -> float:
    """Microseconds for one call of a batch that holds each call once."""
    batch = _batch(calls, device)
    return min(_run_us(batch.run, batch.first, device) for _ in range(rounds)) / batch.calls


def _times(warm: _Batch, cold: _Batch | None, middle: Callable[[list[float]], float]) -> Times:
    ordered = sorted(warm.times)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    graphed = warm.graphed and (cold is None or cold.graphed)
    spread = (high - low) / median(ordered)
    return Times(middle(ordered), None if cold is None else middle(cold.times), spread, graphed)


def _estimate_us(call: Callable, device: torch.device) -> float:
    for _ in range(3):  # compiles, allocates, chooses
        call()
    return _run_us(call, call, device)


def _batch(calls: Sequence[Callable], device: torch.device) -> _Batch:
    def launch() -> None:
        for call in calls:
            call()

    if device.type != "cuda":
        return _Batch(launch, calls[0], len(calls), False, [])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        launch()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            launch()
    except RuntimeError:
        torch.cuda.synchronize()
        return _Batch(launch, calls[0], len(calls), False, [])
    graph.replay()
    return _Batch(graph.replay, calls[0], len(calls), True, [])


def _run_us(run: Callable[[], object], first: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        first()
        begun = time.perf_counter()
        run()
        return (time.perf_counter() - begun) * 1e6
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3
