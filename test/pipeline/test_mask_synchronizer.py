"""Tokens are paired with the masks of their frame, whichever arrive first; they never wait for ever."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer_ros.pipeline.mask_synchronizer import FrameSynchronizer, SyncedFrame

BOUND = 30.0
SECOND = 1_000_000_000


@pytest.mark.parametrize("masks_first", [True, False])
def test_tokens_get_their_own_masks(masks_first):
    synchronizer = FrameSynchronizer(wait=BOUND)
    if masks_first:
        synchronizer.put_masks(5, "masks")
        synchronizer.put_tokens(5, "tokens", expects_masks=True)
        assert synchronizer.take(0) == SyncedFrame(5, "tokens", "masks")
        return
    synchronizer.put_tokens(5, "tokens", expects_masks=True)
    assert synchronizer.take(0) is None
    synchronizer.put_masks(4, "others")
    assert synchronizer.take(0) is None
    synchronizer.put_masks(5, "masks")
    assert synchronizer.take(0) == SyncedFrame(5, "tokens", "masks")
    assert synchronizer.dropped == 0


@given(st.lists(st.tuples(st.sampled_from(["tokens", "masks", "both", "take"]), st.integers(0, 5)), max_size=40))
def test_a_synced_frame_never_mixes_frames(steps):
    synchronizer = FrameSynchronizer(wait=BOUND, max_age=0)
    given_tokens, synced = 0, 0
    for step, stamp in steps:
        if step == "tokens":
            synchronizer.put_tokens(stamp, ("tokens", stamp), expects_masks=True)
        elif step == "masks":
            synchronizer.put_masks(stamp, ("masks", stamp))
        elif step == "both":
            synchronizer.put(stamp, ("tokens", stamp), ("masks", stamp))
        given_tokens += step in ("tokens", "both")
        if step == "take" and (frame := synchronizer.take(0)) is not None:
            synced += 1
            assert frame.tokens == ("tokens", frame.stamp)
            assert frame.masks == ("masks", frame.stamp)
    synchronizer.close()
    assert synced + synchronizer.dropped == given_tokens


def test_later_tokens_displace_and_count():
    synchronizer = FrameSynchronizer()
    for stamp in range(4):
        synchronizer.put(stamp, f"tokens {stamp}", f"masks {stamp}")
    assert synchronizer.take(0) == SyncedFrame(3, "tokens 3", "masks 3")
    assert synchronizer.dropped == 3
    synchronizer.put_tokens(4, "tokens", expects_masks=False)
    assert synchronizer.take(0).masks is None, "masks of a displaced frame must not steer another"


def test_masks_that_do_not_come_leave_the_turn_unsteered():
    synchronizer = FrameSynchronizer(wait=0.01)
    synchronizer.put_tokens(5, "tokens", expects_masks=True)
    assert synchronizer.take(BOUND) == SyncedFrame(5, "tokens", None, late=True)


def test_frames_that_come_faster_than_the_wait_do_not_put_it_off_for_ever():
    synchronizer = FrameSynchronizer(wait=0.05)
    synchronizer.put_tokens(0, "tokens", expects_masks=True)
    synced, stamp, end = None, 0, time.monotonic() + BOUND
    while synced is None and time.monotonic() < end:
        stamp += 1
        synced = synchronizer.take(0.005)
        synchronizer.put_tokens(stamp, "tokens", expects_masks=True)
    assert synced is not None and synced.late
    synchronizer.put_masks(stamp, "masks")
    assert synchronizer.take(0) == SyncedFrame(stamp, "tokens", "masks")  # the next ones are in time again


@pytest.mark.parametrize(("age", "steers"), [(0, True), (SECOND, True), (SECOND + 1, False), (-1, False)])
def test_another_nodes_masks_steer_while_they_are_fresh(age, steers):
    synchronizer = FrameSynchronizer(max_age=SECOND)
    synchronizer.put_masks(10 * SECOND, "masks")
    for _ in range(2):
        synchronizer.put_tokens(10 * SECOND + age, "tokens", expects_masks=False)
        frame = synchronizer.take(0)
        assert frame.masks == ("masks" if steers else None)
        assert frame.mask_age == (age if steers else 0)


def test_the_freshest_masks_win():
    synchronizer = FrameSynchronizer(max_age=SECOND)
    for stamp in (3, 1, 2):
        synchronizer.put_masks(stamp, f"masks {stamp}")
    synchronizer.put_tokens(4, "tokens", expects_masks=False)
    assert synchronizer.take(0).masks == "masks 3"


def test_own_masks_are_used_once_so_that_an_unstamped_camera_is_safe():
    synchronizer = FrameSynchronizer(wait=0.01)
    synchronizer.put_masks(0, "masks")
    synchronizer.put_tokens(0, "tokens", expects_masks=True)
    assert synchronizer.take(0).masks == "masks"
    synchronizer.put_tokens(0, "tokens", expects_masks=True)
    assert synchronizer.take(BOUND).masks is None


def test_a_dropped_frames_masks_do_not_outlive_it_without_stamps():
    synchronizer = FrameSynchronizer(max_age=SECOND)
    synchronizer.put(0, "tokens 1", "masks 1")
    synchronizer.put(0, "tokens 2", None)  # nobody says any more where to look
    for number in (2, 3):
        assert synchronizer.take(0) == SyncedFrame(0, f"tokens {number}", None)
        synchronizer.put_masks(0, "echo")
        synchronizer.put(0, "tokens 3", None)


def test_without_stamps_a_frame_does_not_get_the_masks_of_one_that_it_displaced():
    synchronizer = FrameSynchronizer(wait=BOUND)
    for number in (1, 2):
        synchronizer.put_tokens(0, f"tokens {number}", expects_masks=True)
        assert synchronizer.take(0) is None
        if number == 1:
            synchronizer.put_masks(0, "masks 1")
    synchronizer.put_masks(0, "masks 2")
    assert synchronizer.take(0) == SyncedFrame(0, "tokens 2", "masks 2")


def test_without_stamps_another_nodes_masks_age_by_when_they_came():
    synchronizer = FrameSynchronizer(max_age=1)
    synchronizer.put_masks(0, "masks")
    synced = []
    for _ in range(2):
        synchronizer.put_tokens(0, "tokens", expects_masks=False)
        synced.append(synchronizer.take(0).masks)
    assert synced == ["masks", None]


def test_without_stamps_another_nodes_masks_may_come_after_the_tokens():
    synchronizer = FrameSynchronizer(max_age=60 * SECOND)
    synchronizer.put_tokens(0, "own", expects_masks=True)  # what was looked for once does not shut others out
    synchronizer.put_masks(0, "own masks")
    assert synchronizer.take(0).masks == "own masks"
    for number in range(3):
        synchronizer.put_tokens(0, "tokens", expects_masks=False)
        synchronizer.put_masks(0, f"masks {number}")
        assert synchronizer.take(0).masks == f"masks {number}"


def test_an_echo_in_flight_while_time_goes_back_is_an_echo():
    synchronizer = FrameSynchronizer(max_age=SECOND)
    synchronizer.put(5 * SECOND, "tokens", "masks")
    synchronizer.reset(SECOND)
    synchronizer.put_masks(5 * SECOND, "echo")
    synchronizer.put(5 * SECOND + 1, "tokens", None)
    assert synchronizer.take(0).masks is None


def test_own_masks_that_came_too_late_do_not_steer_the_frames_after():
    synchronizer = FrameSynchronizer(wait=0.0, max_age=SECOND)
    synchronizer.put_tokens(1, "tokens", expects_masks=True)
    assert synchronizer.take(BOUND).late
    synchronizer.put_masks(1, "masks")
    synchronizer.put_tokens(2, "tokens", expects_masks=False)
    assert synchronizer.take(0) == SyncedFrame(2, "tokens", None)


def test_another_nodes_masks_wait_for_tokens_that_take_long():
    synchronizer = FrameSynchronizer(max_age=SECOND)
    for frame in range(60):  # 30 Hz, and a perception that takes two seconds
        synchronizer.put_masks(frame * SECOND // 30, f"masks {frame}")
    synchronizer.put_tokens(10 * SECOND // 30, "tokens", expects_masks=False)
    assert synchronizer.take(0).masks == "masks 10"


@pytest.mark.parametrize("off", [SECOND + 1, -5])
def test_masks_of_no_use_are_reported_with_their_age(off):
    synchronizer = FrameSynchronizer(max_age=SECOND)
    synchronizer.put_masks(10 * SECOND, "masks")
    synchronizer.put_tokens(10 * SECOND + off, "tokens", expects_masks=False)
    assert synchronizer.take(0) == SyncedFrame(10 * SECOND + off, "tokens", None, nearest_age=off)
    synchronizer.put_tokens(20 * SECOND, "tokens", expects_masks=False)
    assert synchronizer.take(0).nearest_age == 10 * SECOND


def test_another_node_that_falls_silent_is_reported_at_every_frame():
    synchronizer = FrameSynchronizer(max_age=SECOND)

    def sync(stamp):
        synchronizer.put_tokens(stamp, "tokens", expects_masks=False)
        return synchronizer.take(0)

    assert sync(SECOND) == SyncedFrame(SECOND, "tokens", None)
    synchronizer.put_masks(SECOND, "masks")
    assert sync(2 * SECOND).masks == "masks"
    assert [sync(stamp * SECOND).nearest_age for stamp in (3, 4, 90)] == [2 * SECOND, 3 * SECOND, 89 * SECOND]
    synchronizer.put_masks(90 * SECOND, "masks")  # it is back
    assert sync(90 * SECOND + 5).masks == "masks"
    assert sync(92 * SECOND).nearest_age == 2 * SECOND
    synchronizer.reset(0)  # a bag starts again: the node may publish its masks again; until then it is reported
    assert sync(1) == SyncedFrame(1, "tokens", None, nearest_age=1 - 90 * SECOND)
    synchronizer.put_masks(1, "masks")
    assert sync(2).masks == "masks"


def test_masks_before_the_first_frame_are_another_nodes_unless_that_has_its_own():
    for own in (True, False):
        synchronizer = FrameSynchronizer(wait=0.0, max_age=SECOND)
        synchronizer.put_masks(1, "masks")
        synchronizer.put_tokens(2, "tokens", expects_masks=own)
        synchronizer.take(0)
        for stamp in (8 * SECOND, 9 * SECOND):
            synchronizer.put_tokens(stamp, "tokens", expects_masks=False)
            nearest_age = synchronizer.take(0).nearest_age
        assert nearest_age == (None if own else 9 * SECOND - 1)


def test_masks_of_frames_that_were_lost_are_no_other_nodes():
    synchronizer = FrameSynchronizer(wait=0.0, max_age=SECOND)
    synchronizer.put_tokens(1, "tokens", expects_masks=True)
    synchronizer.put_masks(1, "masks")
    synchronizer.take(0)
    synchronizer.put_masks(2, "masks of a frame whose tokens never come")
    for stamp in (3 * SECOND, 4 * SECOND, 5 * SECOND):  # perception is told to look for nothing
        synchronizer.put_tokens(stamp, "tokens", expects_masks=False)
        nearest_age = synchronizer.take(0).nearest_age
    assert nearest_age is None


def test_a_frame_that_is_lost_as_perception_begins_to_look_is_no_other_nodes():
    synchronizer = FrameSynchronizer(wait=0.0, max_age=SECOND)
    synchronizer.put_tokens(1 * SECOND, "tokens", expects_masks=False)
    synchronizer.take(0)
    synchronizer.put_masks(2 * SECOND, "masks of a frame whose tokens never come")
    for stamp in (3 * SECOND, 4 * SECOND):
        synchronizer.put_masks(stamp, "masks")
        synchronizer.put_tokens(stamp, "tokens", expects_masks=True)
        assert synchronizer.take(0).masks == "masks"
    for stamp in (10 * SECOND, 11 * SECOND):  # it looks for nothing again
        synchronizer.put_tokens(stamp, "tokens", expects_masks=False)
        nearest_age = synchronizer.take(0).nearest_age
    assert nearest_age is None


def test_a_bag_that_starts_again_may_get_masks_from_another_node():
    synchronizer = FrameSynchronizer(max_age=SECOND)
    for stamp in (1, 2):
        synchronizer.put(stamp, "tokens", "masks")
        assert synchronizer.take(0).masks == "masks"
    synchronizer.reset(1)
    synchronizer.put_masks(1, "of another node")
    synchronizer.put(1, "tokens", None)
    assert synchronizer.take(0).masks == "of another node"


def test_the_echo_of_masks_handed_over_is_ignored():
    synchronizer = FrameSynchronizer(max_age=SECOND)
    synchronizer.put(1, "tokens", "masks")
    assert synchronizer.take(0).masks == "masks"
    synchronizer.put_masks(1, "echo")
    synchronizer.put_tokens(2, "tokens", expects_masks=False)
    assert synchronizer.take(0).masks is None


def test_reset_forgets_masks_of_another_time():
    synchronizer = FrameSynchronizer(wait=BOUND, max_age=SECOND)
    synchronizer.put_masks(8, "masks of before")
    synchronizer.put_masks(3, "masks")  # the new time's own, come before their tokens
    synchronizer.reset(3)
    synchronizer.put_tokens(3, "tokens", expects_masks=True)
    assert synchronizer.take(0).masks == "masks"
    synchronizer.put_tokens(9, "tokens", expects_masks=False)
    assert synchronizer.take(0).masks is None


def test_close_wakes_whoever_waits_and_takes_nothing_more():
    synchronizer = FrameSynchronizer(wait=BOUND)
    synchronizer.put_tokens(1, "tokens", expects_masks=True)
    results = []
    waiter = threading.Thread(target=lambda: results.append(synchronizer.take()))
    waiter.start()
    synchronizer.close()
    waiter.join(BOUND)
    assert results == [None]
    synchronizer.put(2, "tokens", "masks")
    assert synchronizer.take(0) is None
    assert synchronizer.dropped == 2
    assert synchronizer.closed
