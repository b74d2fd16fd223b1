"""Which frames come in their turn: a few out of order are late, a longer way back is a new time."""

from hypothesis import given
from hypothesis import strategies as st

from steer_ros.pipeline.stamp_order import LATE, MOST_LATE, FrameOrder, Standing


def turns(*stamps):
    order = FrameOrder()
    return [order.take(stamp) for stamp in stamps]


def test_turns():
    assert turns(100, 200, 200, 300) == [Standing.NEXT, Standing.NEXT, Standing.SAME, Standing.NEXT]
    assert turns(100, 300, 200, 400) == [Standing.NEXT, Standing.NEXT, Standing.LATE, Standing.NEXT]
    assert turns(100, 200, 100, 200) == [
        Standing.NEXT,
        Standing.NEXT,
        Standing.BACK,
        Standing.NEXT,
    ]  # a bag of two frames, again
    assert turns(200, 100, 300) == [Standing.NEXT, Standing.BACK, Standing.NEXT]
    assert turns(0, 3 * LATE, 2 * LATE) == [Standing.NEXT, Standing.NEXT, Standing.BACK]
    assert turns(0, 0) == [Standing.NEXT, Standing.SAME]
    late = [200 + i for i in range(MOST_LATE + 1)]
    assert turns(100, 900, *late) == [Standing.NEXT, Standing.NEXT, *[Standing.LATE] * MOST_LATE, Standing.BACK]


@given(st.lists(st.integers(0, 3 * LATE), max_size=30))
def test_what_is_taken_goes_on_until_time_goes_back(stamps):
    order, newest, late = FrameOrder(), None, 0
    for stamp in stamps:
        turn = order.take(stamp)
        late = late + 1 if turn is Standing.LATE else 0
        assert late <= MOST_LATE
        if turn is Standing.LATE:
            continue
        if newest is not None:
            assert (stamp < newest, stamp == newest) == (turn is Standing.BACK, turn is Standing.SAME)
        newest = stamp
