"""Tokens meet the masks of their frame, whatever comes first; they never wait for ever."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer_ros.pipeline.synchronizer import Meeting, Rendezvous

BOUND = 30.0
SECOND = 1_000_000_000


@pytest.mark.parametrize("masks_first", [True, False])
def test_tokens_meet_their_own_masks(masks_first):
    place = Rendezvous(wait=BOUND)
    if masks_first:
        place.put_masks(5, "masks")
        place.put_tokens(5, "tokens", expects_masks=True)
        assert place.take(0) == Meeting(5, "tokens", "masks")
        return
    place.put_tokens(5, "tokens", expects_masks=True)
    assert place.take(0) is None
    place.put_masks(4, "others")
    assert place.take(0) is None
    place.put_masks(5, "masks")
    assert place.take(0) == Meeting(5, "tokens", "masks")
    assert place.dropped == 0


@given(st.lists(st.tuples(st.sampled_from(["tokens", "masks", "both", "take"]), st.integers(0, 5)), max_size=40))
def test_whatever_comes_a_meeting_never_mixes_frames(steps):
    place = Rendezvous(wait=BOUND, max_age=0)
    given_tokens, met = 0, 0
    for step, stamp in steps:
        if step == "tokens":
            place.put_tokens(stamp, ("tokens", stamp), expects_masks=True)
        elif step == "masks":
            place.put_masks(stamp, ("masks", stamp))
        elif step == "both":
            place.put(stamp, ("tokens", stamp), ("masks", stamp))
        given_tokens += step in ("tokens", "both")
        if step == "take" and (meeting := place.take(0)) is not None:
            met += 1
            assert meeting.tokens == ("tokens", meeting.stamp)
            assert meeting.masks == ("masks", meeting.stamp)
    place.close()
    assert met + place.dropped == given_tokens


def test_later_tokens_displace_and_count():
    place = Rendezvous()
    for stamp in range(4):
        place.put(stamp, f"tokens {stamp}", f"masks {stamp}")
    assert place.take(0) == Meeting(3, "tokens 3", "masks 3")
    assert place.dropped == 3
    place.put_tokens(4, "tokens", expects_masks=False)
    assert place.take(0).masks is None, "masks of a displaced frame must not steer another"


def test_masks_that_do_not_come_leave_the_turn_unsteered():
    place = Rendezvous(wait=0.01)
    place.put_tokens(5, "tokens", expects_masks=True)
    assert place.take(BOUND) == Meeting(5, "tokens", None, late=True)


def test_frames_that_come_faster_than_the_wait_do_not_put_it_off_for_ever():
    place = Rendezvous(wait=0.05)
    place.put_tokens(0, "tokens", expects_masks=True)
    met, stamp, end = None, 0, time.monotonic() + BOUND
    while met is None and time.monotonic() < end:
        stamp += 1
        met = place.take(0.005)
        place.put_tokens(stamp, "tokens", expects_masks=True)
    assert met is not None and met.late
    place.put_masks(stamp, "masks")
    assert place.take(0) == Meeting(stamp, "tokens", "masks")  # the next ones are in time again


@pytest.mark.parametrize(("age", "steers"), [(0, True), (SECOND, True), (SECOND + 1, False), (-1, False)])
def test_another_nodes_masks_steer_while_they_are_fresh(age, steers):
    place = Rendezvous(max_age=SECOND)
    place.put_masks(10 * SECOND, "masks")
    for _ in range(2):
        place.put_tokens(10 * SECOND + age, "tokens", expects_masks=False)
        meeting = place.take(0)
        assert meeting.masks == ("masks" if steers else None)
        assert meeting.mask_age == (age if steers else 0)


def test_the_freshest_masks_win():
    place = Rendezvous(max_age=SECOND)
    for stamp in (3, 1, 2):
        place.put_masks(stamp, f"masks {stamp}")
    place.put_tokens(4, "tokens", expects_masks=False)
    assert place.take(0).masks == "masks 3"


def test_own_masks_are_used_once_so_that_an_unstamped_camera_is_safe():
    place = Rendezvous(wait=0.01)
    place.put_masks(0, "masks")
    place.put_tokens(0, "tokens", expects_masks=True)
    assert place.take(0).masks == "masks"
    place.put_tokens(0, "tokens", expects_masks=True)
    assert place.take(BOUND).masks is None


def test_a_dropped_frames_masks_do_not_outlive_it_without_stamps():
    place = Rendezvous(max_age=SECOND)
    place.put(0, "tokens 1", "masks 1")
    place.put(0, "tokens 2", None)  # nobody says any more where to look
    for number in (2, 3):
        assert place.take(0) == Meeting(0, f"tokens {number}", None)
        place.put_masks(0, "echo")
        place.put(0, "tokens 3", None)


def test_without_stamps_a_frame_does_not_meet_the_masks_of_one_that_it_displaced():
    place = Rendezvous(wait=BOUND)
    for number in (1, 2):
        place.put_tokens(0, f"tokens {number}", expects_masks=True)
        assert place.take(0) is None
        if number == 1:
            place.put_masks(0, "masks 1")
    place.put_masks(0, "masks 2")
    assert place.take(0) == Meeting(0, "tokens 2", "masks 2")


def test_without_stamps_another_nodes_masks_age_by_when_they_came():
    place = Rendezvous(max_age=1)
    place.put_masks(0, "masks")
    met = []
    for _ in range(2):
        place.put_tokens(0, "tokens", expects_masks=False)
        met.append(place.take(0).masks)
    assert met == ["masks", None]


def test_without_stamps_another_nodes_masks_may_come_after_the_tokens():
    place = Rendezvous(max_age=60 * SECOND)
    place.put_tokens(0, "own", expects_masks=True)  # what was looked for once does not shut others out
    place.put_masks(0, "own masks")
    assert place.take(0).masks == "own masks"
    for number in range(3):
        place.put_tokens(0, "tokens", expects_masks=False)
        place.put_masks(0, f"masks {number}")
        assert place.take(0).masks == f"masks {number}"


def test_an_echo_in_flight_while_time_goes_back_is_an_echo():
    place = Rendezvous(max_age=SECOND)
    place.put(5 * SECOND, "tokens", "masks")
    place.reset(SECOND)
    place.put_masks(5 * SECOND, "echo")
    place.put(5 * SECOND + 1, "tokens", None)
    assert place.take(0).masks is None


def test_own_masks_that_came_too_late_do_not_steer_the_frames_after():
    place = Rendezvous(wait=0.0, max_age=SECOND)
    place.put_tokens(1, "tokens", expects_masks=True)
    assert place.take(BOUND).late
    place.put_masks(1, "masks")
    place.put_tokens(2, "tokens", expects_masks=False)
    assert place.take(0) == Meeting(2, "tokens", None)


def test_another_nodes_masks_wait_for_tokens_that_take_long():
    place = Rendezvous(max_age=SECOND)
    for frame in range(60):  # 30 Hz, and a perception that takes two seconds
        place.put_masks(frame * SECOND // 30, f"masks {frame}")
    place.put_tokens(10 * SECOND // 30, "tokens", expects_masks=False)
    assert place.take(0).masks == "masks 10"


@pytest.mark.parametrize("off", [SECOND + 1, -5])
def test_masks_that_are_of_no_use_are_told(off):
    place = Rendezvous(max_age=SECOND)
    place.put_masks(10 * SECOND, "masks")
    place.put_tokens(10 * SECOND + off, "tokens", expects_masks=False)
    assert place.take(0) == Meeting(10 * SECOND + off, "tokens", None, missed=off)
    place.put_tokens(20 * SECOND, "tokens", expects_masks=False)
    assert place.take(0).missed == 10 * SECOND


def test_another_node_that_falls_silent_is_missed_at_every_frame():
    place = Rendezvous(max_age=SECOND)

    def meet(stamp):
        place.put_tokens(stamp, "tokens", expects_masks=False)
        return place.take(0)

    assert meet(SECOND) == Meeting(SECOND, "tokens", None)
    place.put_masks(SECOND, "masks")
    assert meet(2 * SECOND).masks == "masks"
    assert [meet(stamp * SECOND).missed for stamp in (3, 4, 90)] == [2 * SECOND, 3 * SECOND, 89 * SECOND]
    place.put_masks(90 * SECOND, "masks")  # it is back
    assert meet(90 * SECOND + 5).masks == "masks"
    assert meet(92 * SECOND).missed == 2 * SECOND
    place.reset(0)  # a bag begins anew: the node may give its masks again, and until then is missed
    assert meet(1) == Meeting(1, "tokens", None, missed=1 - 90 * SECOND)
    place.put_masks(1, "masks")
    assert meet(2).masks == "masks"


def test_masks_before_the_first_frame_are_another_nodes_unless_that_has_its_own():
    for own in (True, False):
        place = Rendezvous(wait=0.0, max_age=SECOND)
        place.put_masks(1, "masks")
        place.put_tokens(2, "tokens", expects_masks=own)
        place.take(0)
        for stamp in (8 * SECOND, 9 * SECOND):
            place.put_tokens(stamp, "tokens", expects_masks=False)
            missed = place.take(0).missed
        assert missed == (None if own else 9 * SECOND - 1)


def test_masks_of_frames_that_were_lost_are_no_other_nodes():
    place = Rendezvous(wait=0.0, max_age=SECOND)
    place.put_tokens(1, "tokens", expects_masks=True)
    place.put_masks(1, "masks")
    place.take(0)
    place.put_masks(2, "masks of a frame whose tokens never come")
    for stamp in (3 * SECOND, 4 * SECOND, 5 * SECOND):  # perception is told to look for nothing
        place.put_tokens(stamp, "tokens", expects_masks=False)
        missed = place.take(0).missed
    assert missed is None


def test_a_frame_that_is_lost_as_perception_begins_to_look_is_no_other_nodes():
    place = Rendezvous(wait=0.0, max_age=SECOND)
    place.put_tokens(1 * SECOND, "tokens", expects_masks=False)
    place.take(0)
    place.put_masks(2 * SECOND, "masks of a frame whose tokens never come")
    for stamp in (3 * SECOND, 4 * SECOND):
        place.put_masks(stamp, "masks")
        place.put_tokens(stamp, "tokens", expects_masks=True)
        assert place.take(0).masks == "masks"
    for stamp in (10 * SECOND, 11 * SECOND):  # it looks for nothing again
        place.put_tokens(stamp, "tokens", expects_masks=False)
        missed = place.take(0).missed
    assert missed is None


def test_a_bag_that_begins_anew_may_get_masks_from_another_node():
    place = Rendezvous(max_age=SECOND)
    for stamp in (1, 2):
        place.put(stamp, "tokens", "masks")
        assert place.take(0).masks == "masks"
    place.reset(1)
    place.put_masks(1, "of another node")
    place.put(1, "tokens", None)
    assert place.take(0).masks == "of another node"


def test_the_echo_of_masks_handed_over_is_ignored():
    place = Rendezvous(max_age=SECOND)
    place.put(1, "tokens", "masks")
    assert place.take(0).masks == "masks"
    place.put_masks(1, "echo")
    place.put_tokens(2, "tokens", expects_masks=False)
    assert place.take(0).masks is None


def test_reset_forgets_masks_of_another_time():
    place = Rendezvous(wait=BOUND, max_age=SECOND)
    place.put_masks(8, "masks of before")
    place.put_masks(3, "masks")  # the new time's own, come before their tokens
    place.reset(3)
    place.put_tokens(3, "tokens", expects_masks=True)
    assert place.take(0).masks == "masks"
    place.put_tokens(9, "tokens", expects_masks=False)
    assert place.take(0).masks is None


def test_close_wakes_whoever_waits_and_takes_nothing_more():
    place = Rendezvous(wait=BOUND)
    place.put_tokens(1, "tokens", expects_masks=True)
    results = []
    waiter = threading.Thread(target=lambda: results.append(place.take()))
    waiter.start()
    place.close()
    waiter.join(BOUND)
    assert results == [None]
    place.put(2, "tokens", "masks")
    assert place.take(0) is None
    assert place.dropped == 2
    assert place.closed
