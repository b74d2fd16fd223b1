"""A command's other processes: spawned, and gone as soon as it fails or is interrupted."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def spawned(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of that many processes; an exception ends what they do."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_end_quietly) as pool:
        try:
            yield pool
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _end_quietly() -> None:
    """Ctrl-C reaches every process of a terminal; the first says that it was interrupted."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
