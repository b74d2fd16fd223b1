"""A lane goes on after errors, reports them, and never leaves anyone waiting."""

import threading
from concurrent.futures import CancelledError

import pytest
import torch

from steer_ros.pipeline.lane import Fence, Lane, fence
from steer_ros.pipeline.mailbox import Mailbox

BOUND = 30.0


@pytest.fixture
def reports():
    return []


@pytest.fixture
def lane(reports):
    lane = Lane("test", on_error=lambda name, error: reports.append((name, error)))
    yield lane
    assert lane.stop(BOUND)


def test_work_runs_in_order_on_one_thread_of_its_own(lane):
    futures = [lane.submit(lambda number=number: (number, threading.get_ident())) for number in range(20)]
    results = [future.result(BOUND) for future in futures]
    assert [number for number, _ in results] == list(range(20))
    assert len({ident for _, ident in results}) == 1
    assert results[0][1] != threading.get_ident()


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_is_reported_and_the_lane_goes_on(lane, reports, error):
    def fail():
        raise error

    with pytest.raises(type(error)):
        lane.submit(fail).result(BOUND)
    assert lane.submit(lambda: "alive").result(BOUND) == "alive"
    assert reports == [("test", error)]
    assert lane.errors == 1


def test_a_reporter_that_raises_does_not_end_the_lane():
    lane = Lane("test", on_error=lambda name, error: 1 / 0)
    assert isinstance(lane.submit(lambda: 1 / 0).exception(BOUND), ZeroDivisionError)
    assert lane.submit(lambda: 1).result(BOUND) == 1
    assert lane.stop(BOUND)


def test_served_items_that_fail_do_not_stop_the_rest(lane, reports):
    mailbox, done, seen = Mailbox(), threading.Event(), []

    def work(item):
        seen.append(item)
        if item == "bad":
            raise RuntimeError(item)
        done.set()

    serving = lane.serve(mailbox, work)
    mailbox.put("bad")
    while not seen:
        done.wait(0.01)
    mailbox.put("good")
    assert done.wait(BOUND)
    assert seen == ["bad", "good"]
    assert [str(error) for _, error in reports] == ["bad"]
    mailbox.close()
    assert serving.result(BOUND) is None


def test_stop_ends_serving_and_cancels_what_waits():
    lane = Lane("test")
    mailbox, busy = Mailbox(), threading.Event()
    serving = lane.serve(mailbox, lambda item: busy.set())
    mailbox.put(1)
    assert busy.wait(BOUND)
    waiting = lane.submit(lambda: "never")
    assert lane.stop(BOUND)
    assert not lane.alive
    assert serving.result(BOUND) is None
    with pytest.raises(CancelledError):
        waiting.result(BOUND)
    assert mailbox.closed


def test_a_stopped_lane_takes_no_work():
    lane = Lane("test")
    assert lane.stop(BOUND)
    assert lane.submit(lambda: 1).cancelled()
    mailbox = Mailbox()
    assert lane.serve(mailbox, print).cancelled()
    assert mailbox.closed
    assert lane.stop(BOUND)


def test_stop_is_bounded_when_work_hangs():
    lane, release, began = Lane("test"), threading.Event(), threading.Event()
    hanging = lane.submit(lambda: (began.set(), release.wait(BOUND)))
    waiting = lane.submit(lambda: "never")
    assert began.wait(BOUND)
    assert not lane.stop(timeout=0.01)
    release.set()
    assert lane.stop(BOUND)
    assert hanging.result(BOUND)
    assert waiting.cancelled()


def test_work_may_stop_its_own_lane():
    lane = Lane("test")
    assert lane.submit(lambda: lane.stop(BOUND)).result(BOUND)
    assert lane.stop(BOUND)


def test_a_lane_serves_one_source_at_a_time(lane):
    lane.serve(Mailbox(), print)
    with pytest.raises(RuntimeError, match="already serves"):
        lane.serve(Mailbox(), print)


def test_a_fence_on_a_cpu_is_nothing():
    tensor = torch.zeros(3)
    mark = fence(tensor.device)
    mark.wait(tensor)
    Fence().wait()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_fence_orders_the_streams_of_two_lanes():
    first, second = Lane("first", "cuda"), Lane("second", "cuda")

    def produce():
        product = torch.ones(2048, 2048, device="cuda")
        for _ in range(50):
            product = product @ product / 2048
        return product, fence("cuda"), torch.cuda.current_stream().cuda_stream

    def consume():
        product, mark, stream = first.submit(produce).result(BOUND)
        mark.wait(product)
        return float(product.sum()), stream, torch.cuda.current_stream().cuda_stream

    total, one, other = second.submit(consume).result(BOUND)
    assert total == 2048 * 2048
    assert len({one, other, torch.cuda.default_stream().cuda_stream}) == 3
    assert first.stop(BOUND)
    assert second.stop(BOUND)
