"""Where a frame's tokens meet its masks, by frame stamp.

Both come in any order and from anywhere. Tokens are latest-wins: older ones that nobody took are dropped and counted.
Masks are kept for a few frames. Tokens that expect masks of their own wait for them, but not for ever; tokens that
expect none take the newest masks that another node gave, if those are not older than the limit.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

Tokens = TypeVar("Tokens")
Masks = TypeVar("Masks")


@dataclass(frozen=True)
class Meeting(Generic[Tokens, Masks]):
    """One frame's tokens with the masks to use for it. masks None: nothing to steer with.

    mask_age: nanoseconds from the masks' frame to this one; 0 for its own.
    late: masks of its own were expected and did not come in time.
    """

    stamp: int
    tokens: Tokens
    masks: Masks | None
    mask_age: int = 0
    late: bool = False


class Rendezvous(Generic[Tokens, Masks]):
    """A source for a lane. Stamps are integers in nanoseconds; wait in seconds; max_age in nanoseconds."""

    def __init__(self, wait: float = 0.5, max_age: int = 1_000_000_000, keep: int = 8) -> None:
        self.wait = wait
        self.max_age = max_age
        self._keep = keep
        self._ready = threading.Condition()
        self._tokens: tuple[int, Tokens, bool, float] | None = None
        self._waiting_since: float | None = None  # when tokens came that somebody waited for the masks of
        self._masks: OrderedDict[int, Masks] = OrderedDict()
        self._handed: OrderedDict[int, None] = OrderedDict()
        self._dropped = 0
        self._closed = False

    @property
    def dropped(self) -> int:
        """Frames whose tokens a later frame displaced, or that came after `close`."""
        with self._ready:
            return self._dropped

    @property
    def closed(self) -> bool:
        with self._ready:
            return self._closed

    def put_tokens(self, stamp: int, tokens: Tokens, expects_masks: bool) -> None:
        """A frame's tokens; they displace those that wait, and the masks that those expected."""
        with self._ready:
            if self._closed:
                self._dropped += 1
                return
            if self._tokens is not None:
                self._dropped += 1
                if self._tokens[2] and self._tokens[0] != stamp:
                    self._masks.pop(self._tokens[0], None)
            self._tokens = (stamp, tokens, expects_masks, time.monotonic())
            self._ready.notify_all()

    def put_masks(self, stamp: int, masks: Masks) -> None:
        """A frame's masks from a topic; later ones for the same stamp replace them.

        Masks of a frame that `put` has had are its echo, and ignored.
        """
        with self._ready:
            if not self._closed and stamp not in self._handed:
                self._store(stamp, masks)
                self._ready.notify_all()

    def put(self, stamp: int, tokens: Tokens, masks: Masks | None) -> None:
        """Tokens with their masks at once, as within one process; None: the frame has none of its own."""
        with self._ready:
            if masks is not None and not self._closed:
                self._store(stamp, masks)
                self._handed[stamp] = None
                while len(self._handed) > 8 * self._keep:
                    self._handed.popitem(last=False)
            self.put_tokens(stamp, tokens, masks is not None)

    def take(self, timeout: float | None = None) -> Meeting[Tokens, Masks] | None:
        """The latest tokens with their masks, or None: none came within `timeout` seconds, or it is closed."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._ready:
            while not self._closed:
                now = time.monotonic()
                if self._tokens is not None:
                    stamp, tokens, expects, came = self._tokens
                    # Tokens that displace others go on with their wait: a camera that is faster than it must not
                    # keep whoever takes from ever meeting a frame.
                    since = self._waiting_since = came if self._waiting_since is None else self._waiting_since
                    left = since + self.wait - now
                    if stamp in self._masks or not expects or left <= 0:
                        self._tokens = self._waiting_since = None
                        return self._meet(stamp, tokens, expects)
                else:
                    left = None
                if end is not None:
                    if now >= end:
                        return None
                    left = end - now if left is None else min(left, end - now)
                self._ready.wait(left)
            return None

    def reset(self, stamp: int) -> None:
        """Stamps have gone back to this one: forget masks of later frames. Its own may be here before its tokens."""
        with self._ready:
            for other in [other for other in self._masks if other > stamp]:
                del self._masks[other]

    def close(self) -> None:
        """Drop the tokens that wait and wake whoever waits."""
        with self._ready:
            self._dropped += self._tokens is not None
            self._tokens, self._closed = None, True
            self._masks.clear()
            self._ready.notify_all()

    def _store(self, stamp: int, masks: Masks) -> None:
        self._masks.pop(stamp, None)
        self._masks[stamp] = masks
        while len(self._masks) > self._keep:
            self._masks.popitem(last=False)

    def _meet(self, stamp: int, tokens: Tokens, expects: bool) -> Meeting[Tokens, Masks]:
        # Own masks are used once: unstamped cameras (all stamps 0) must not steer by an older frame's.
        if stamp in self._masks:
            masks = self._masks.pop(stamp) if expects else self._masks[stamp]
            return Meeting(stamp, tokens, masks)
        ages = [stamp - other for other in self._masks if 0 <= stamp - other <= self.max_age]
        if not ages:
            return Meeting(stamp, tokens, None, late=expects)
        return Meeting(stamp, tokens, self._masks[stamp - min(ages)], min(ages), late=expects)
