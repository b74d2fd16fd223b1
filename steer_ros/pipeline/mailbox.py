"""A mailbox of one slot: the latest item wins, and what it displaced is counted."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """One slot between a callback that puts and a lane that takes. Safe for any number of threads."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._item: T | None = None
        self._full = False
        self._closed = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Items that a later one displaced, or that came after `close`."""
        with self._ready:
            return self._dropped

    @property
    def closed(self) -> bool:
        with self._ready:
            return self._closed

    def put(self, item: T) -> bool:
        """Leave an item, displacing the one that waits. False: an item was dropped, the old one or this one."""
        with self._ready:
            if self._closed:
                self._dropped += 1
                return False
            displaced = self._full
            self._dropped += displaced
            self._item, self._full = item, True
            self._ready.notify()
            return not displaced

    def take(self, timeout: float | None = None) -> T | None:
        """The waiting item, or None: nothing came within `timeout` seconds, or the mailbox is closed."""
        with self._ready:
            self._ready.wait_for(lambda: self._full or self._closed, timeout)
            if not self._full:
                return None
            item, self._item, self._full = self._item, None, False
            return item

    def clear(self) -> None:
        """Drop the waiting item, and count it."""
        with self._ready:
            self._dropped += self._full
            self._item, self._full = None, False

    def close(self) -> None:
        """Drop the waiting item and wake everyone who waits. A closed mailbox stays closed."""
        with self._ready:
            self._dropped += self._full
            self._item, self._full, self._closed = None, False, True
            self._ready.notify_all()
