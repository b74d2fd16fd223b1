"""Which frames are in order: a few out of order are late; a longer way back is a reset."""

from hypothesis import given
from hypothesis import strategies as st

from steer_ros.pipeline.stamp_order import MAX_LATE_IN_A_ROW, MAX_LATENESS, StampOrder, StampStatus

NEW, DUPLICATE, LATE, RESET = StampStatus


def statuses(*stamps):
    order = StampOrder()
    return [order.take(stamp) for stamp in stamps]


def test_statuses():
    assert statuses(100, 200, 200, 300) == [NEW, NEW, DUPLICATE, NEW]
    assert statuses(100, 300, 200, 400) == [NEW, NEW, LATE, NEW]
    assert statuses(100, 200, 100, 200) == [NEW, NEW, RESET, NEW]  # a bag of two frames, again
    assert statuses(200, 100, 300) == [NEW, RESET, NEW]
    assert statuses(0, 3 * MAX_LATENESS, 2 * MAX_LATENESS) == [NEW, NEW, RESET]
    assert statuses(0, 0) == [NEW, DUPLICATE]
    late = [200 + i for i in range(MAX_LATE_IN_A_ROW + 1)]
    assert statuses(100, 900, *late) == [NEW, NEW, *[LATE] * MAX_LATE_IN_A_ROW, RESET]


@given(st.lists(st.integers(0, 3 * MAX_LATENESS), max_size=30))
def test_stamps_that_are_not_late_grow_until_a_reset(stamps):
    order, newest, late = StampOrder(), None, 0
    for stamp in stamps:
        status = order.take(stamp)
        late = late + 1 if status is LATE else 0
        assert late <= MAX_LATE_IN_A_ROW
        if status is LATE:
            continue
        if newest is not None:
            assert (stamp < newest, stamp == newest) == (status is RESET, status is DUPLICATE)
        newest = stamp
