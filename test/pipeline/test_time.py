"""Deadlines by clocks that run, stand still or go back; traces by the monotonic clock."""

import pytest

from steer_ros.pipeline.deadline import Deadline
from steer_ros.pipeline.trace import StageTimes, Trace

MS = 1_000_000


class FakeClock:
    def __init__(self, now=0):
        self.now = now

    def __call__(self):
        return self.now


def test_a_deadline_counts_from_its_start():
    clock = FakeClock(100 * MS)
    deadline = Deadline(50, start=80 * MS, clock=clock)
    assert deadline.elapsed_ms == 20
    assert not deadline.passed
    clock.now = 130 * MS
    assert deadline.passed


def test_no_limit_never_passes():
    clock = FakeClock(10**18)
    assert not Deadline(0, start=0, clock=clock).passed


def test_time_that_stands_still_uses_up_nothing():
    deadline = Deadline(1, start=7, clock=FakeClock(7))
    assert not any(deadline.passed for _ in range(1000))


def test_time_that_goes_back_starts_the_count_anew():
    clock = FakeClock(1000 * MS)
    deadline = Deadline(50, start=1000 * MS, clock=clock)
    clock.now = 10 * MS
    assert not deadline.passed
    clock.now = 59 * MS
    assert not deadline.passed
    clock.now = 60 * MS
    assert deadline.passed


def test_stages_add_up_and_count_work_that_raises():
    clock = FakeClock()
    trace = Trace(clock)
    with trace.stage("encode"):
        clock.now += 0.25
    with pytest.raises(ValueError), trace.stage("encode"):
        clock.now += 0.5
        raise ValueError
    assert trace.stages == {"encode": 750.0}
    assert trace.elapsed == 750.0


def test_a_summary_has_mean_and_largest_of_the_last_turns():
    times = StageTimes(turns=2)
    assert times.summary() == {}
    for value in (100.0, 1.0, 3.0):
        times.add({"encode": value})
    assert times.summary() == {"encode": (2.0, 3.0)}
