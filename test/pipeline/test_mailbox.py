"""One slot, latest wins, every drop counted, nobody left waiting."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer_ros.pipeline.mailbox import Mailbox

BOUND = 30.0  # seconds after which a test that waits has failed


@given(st.lists(st.sampled_from(["put", "take", "clear", "close"]), max_size=40))
def test_any_sequence_keeps_the_latest_and_counts_the_rest(steps):
    mailbox = Mailbox()
    waiting, dropped, taken, closed = None, 0, 0, False
    for number, step in enumerate(steps):
        if step == "put":
            if closed:
                dropped += 1
            else:
                dropped += waiting is not None
                waiting = number
            mailbox.put(number)
        elif step == "take":
            assert mailbox.take(timeout=0) == waiting
            taken += waiting is not None
            waiting = None
        else:
            dropped += waiting is not None
            waiting = None
            closed = closed or step == "close"
            mailbox.clear() if step == "clear" else mailbox.close()
    assert mailbox.dropped == dropped
    assert steps.count("put") == taken + dropped + (waiting is not None)
    assert mailbox.closed == closed


def test_put_says_whether_it_displaced():
    mailbox = Mailbox()
    assert mailbox.put("a")
    assert not mailbox.put("b")
    assert mailbox.take() == "b"


def test_a_false_item_is_an_item():
    mailbox = Mailbox()
    mailbox.put(0)
    assert mailbox.take(timeout=0) == 0
    assert mailbox.take(timeout=0) is None


def test_close_wakes_everyone_who_waits():
    mailbox = Mailbox()
    waiters = [threading.Thread(target=mailbox.take) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    mailbox.close()
    for waiter in waiters:
        waiter.join(BOUND)
        assert not waiter.is_alive()


@pytest.mark.parametrize("items", [1000])
def test_threads_lose_nothing_uncounted(items):
    mailbox = Mailbox()
    taken = []

    def reader():
        while (item := mailbox.take()) is not None:
            taken.append(item)

    thread = threading.Thread(target=reader)
    thread.start()
    for item in range(1, items + 1):
        mailbox.put(item)
    while mailbox.dropped + len(taken) < items:
        mailbox.take(timeout=0.001) and taken.append(items)
    mailbox.close()
    thread.join(BOUND)
    assert len(taken) + mailbox.dropped == items
    assert taken == sorted(taken)
