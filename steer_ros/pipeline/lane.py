"""A lane: a thread with its CUDA stream; on a CPU, the thread alone.

Work that raises is reported and the lane goes on. Whoever waits for a result gets the result, the error, or, when the
lane stops, a cancellation: never nothing.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

import torch

T = TypeVar("T")


class Source(Protocol):
    """What a lane can serve: a Mailbox, a FrameSynchronizer."""

    @property
    def closed(self) -> bool: ...

    def take(self, timeout: float | None = None) -> Any: ...

    def close(self) -> None: ...


class Fence:
    """A point in one lane's work that another lane can wait for without stopping the host. On a CPU it is nothing."""

    def __init__(self, event: torch.cuda.Event | None = None) -> None:
        self._event = event

    def wait(self, *tensors: torch.Tensor) -> None:
        """Make the current stream wait for this point, and keep the memory of `tensors` until it has used them."""
        if self._event is None:
            return
        stream = torch.cuda.current_stream()
        stream.wait_event(self._event)
        for tensor in tensors:
            if tensor.is_cuda:
                tensor.record_stream(stream)


def fence(device: torch.device | str | None = None) -> Fence:
    """Mark the current stream's work so far on `device`."""
    if device is None or torch.device(device).type != "cuda":
        return Fence()
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(torch.device(device)))
    return Fence(event)


class Lane:
    """Runs submitted work in order on one thread, or serves a source until that is closed.

    on_error(lane name, exception) is told about work that raised in `serve`; it runs on the lane. Errors of submitted
    work go to its Future as well.
    """

    def __init__(
        self,
        name: str,
        device: torch.device | str = "cpu",
        on_error: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        self.name = name
        self.device = torch.device(device)
        self.errors = 0
        self._on_error = on_error
        self._jobs: queue.SimpleQueue[tuple[Future, Callable[[], Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stopping = False
        self._source: Source | None = None
        # A daemon: work that hangs in a driver must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"lane-{name}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, work: Callable[..., T], *args: Any) -> Future[T]:
        """Queue work. The Future is cancelled if the lane stops first, at once if it has stopped already."""
        future: Future[T] = Future()
        with self._lock:
            if self._stopping:
                future.cancel()
            else:
                self._jobs.put((future, lambda: work(*args)))
        return future

    def serve(self, source: Source, work: Callable[[Any], None]) -> Future[None]:
        """Take items from `source` and work on each, until the source is closed; `stop` closes it."""

        def loop() -> None:
            while not source.closed:
                item = source.take()
                if item is None:
                    continue
                try:
                    work(item)
                except BaseException as error:  # the lane outlives anything that its work does
                    self._report(error)
                del item  # frames and tokens are large: don't keep the last one while waiting

        with self._lock:
            if self._stopping:
                source.close()
            else:
                if self._source is not None and not self._source.closed:
                    raise RuntimeError(f"lane {self.name} already serves a source")
                self._source = source
        return self.submit(loop)

    def stop(self, timeout: float = 10.0) -> bool:
        """Close the served source, cancel what waits, end the thread. False: it works on after `timeout` seconds."""
        with self._lock:
            first, self._stopping = not self._stopping, True
            source = self._source
            if first:
                self._jobs.put(None)
        if source is not None:
            source.close()
        if threading.current_thread() is self._thread:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with self._stream():
            while (job := self._jobs.get()) is not None:
                self._work(*job)
                del job

    def _stream(self) -> contextlib.AbstractContextManager:
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        return torch.cuda.stream(torch.cuda.Stream(self.device))

    def _work(self, future: Future, work: Callable[[], Any]) -> None:
        if self._stopping:
            future.cancel()
            return
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = work()
        except BaseException as error:
            self._report(error)
            future.set_exception(error)
        else:
            future.set_result(result)

    def _report(self, error: BaseException) -> None:
        self.errors += 1
        if self._on_error is None:
            return
        with contextlib.suppress(Exception):  # a reporter that raises must not end the lane
            self._on_error(self.name, error)
