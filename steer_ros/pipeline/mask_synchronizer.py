"""Pairs a frame's tokens with its masks, by frame stamp.

Both may arrive in any order. Tokens are latest-wins: older ones that nobody took are dropped and counted. Masks that
arrive by themselves are kept for a while. Tokens that expect masks of their own wait for them, but not for ever;
tokens that expect none get the newest masks that another node published, if those are within the age limit.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

Tokens = TypeVar("Tokens")
Masks = TypeVar("Masks")


KEEP = 256  # masks that arrived by themselves: 8 s of a detector at 30 Hz, for perception as slow as that


@dataclass(frozen=True)
class SyncedFrame(Generic[Tokens, Masks]):
    """One frame's tokens with the masks to steer by. masks None: there is nothing to steer by.

    mask_age: nanoseconds from the masks' frame to this one; 0 for its own.
    late: the frame expected masks of its own, and they did not arrive in time.
    nearest_age: set when another node publishes masks but none of them can be used: how old the nearest ones are, in
        nanoseconds. They are too old (as for every frame once that node has fallen silent), or of a later frame
        (negative).
    """

    stamp: int
    tokens: Tokens
    masks: Masks | None
    mask_age: int = 0
    late: bool = False
    nearest_age: int | None = None


@dataclass(frozen=True)
class _PendingTokens(Generic[Tokens, Masks]):
    """Tokens that nobody has taken yet. repeated: the frame before had the same stamp. masks: their own, if both were
    put together."""

    stamp: int
    tokens: Tokens
    expects_masks: bool
    repeated: bool
    arrived: float
    masks: Masks | None = None


class FrameSynchronizer(Generic[Tokens, Masks]):
    """A source for a lane. Stamps are integers in nanoseconds; wait in seconds; max_age in nanoseconds.

    Frames of a camera without stamps (all of them 0) can't be told apart. Masks put together with tokens are still
    safe. Masks that arrive by themselves are used for one frame that expects them, so some frames get none when frames
    displace one another; frames that expect none use them until max_age after their arrival.
    """

    def __init__(self, wait: float = 0.5, max_age: int = 1_000_000_000, keep: int = KEEP) -> None:
        self.wait = wait
        self.max_age = max_age
        self._keep = keep
        self._ready = threading.Condition()
        self._pending: _PendingTokens[Tokens, Masks] | None = None
        self._pending_since: float | None = None  # since when tokens have been waiting for their masks
        self._masks: OrderedDict[int, tuple[Masks, float]] = OrderedDict()  # stamp -> masks, arrival
        self._own: OrderedDict[int, None] = OrderedDict()  # stamps of frames that have masks of their own
        self._latest: int | None = None  # the stamp of the last frame
        self._expects_masks = False  # whether that frame has masks of its own
        self._external_stamp: int | None = None  # of the last masks that surely came from another node
        self._dropped = 0
        self._closed = False

    @property
    def dropped(self) -> int:
        """Frames whose tokens were displaced by a later frame, or arrived after `close`."""
        with self._ready:
            return self._dropped

    @property
    def closed(self) -> bool:
        with self._ready:
            return self._closed

    def put_tokens(self, stamp: int, tokens: Tokens, expects_masks: bool) -> None:
        """A frame's tokens; they displace those that are pending, and the masks that those expected."""
        with self._ready:
            if not expects_masks:
                self._own.pop(stamp, None)
            self._put(stamp, tokens, expects_masks, None)

    def put_masks(self, stamp: int, masks: Masks) -> None:
        """A frame's masks from a topic; later ones for the same stamp replace them.

        Masks of a frame whose masks were given to `put` are an echo of those, and not used.
        """
        with self._ready:
            if self._closed:
                return
            self._masks.pop(stamp, None)
            self._masks[stamp] = masks, time.monotonic()
            _trim(self._masks, self._keep)
            if (
                not self._expects_masks and stamp not in self._own
            ):  # otherwise they may be the own masks of a lost frame
                self._external_stamp = stamp
            self._ready.notify_all()

    def put(self, stamp: int, tokens: Tokens, masks: Masks | None) -> None:
        """Tokens with their masks at once, as within one process; None: the frame has none of its own."""
        with self._ready:
            if masks is None and stamp != self._latest:  # (for the same stamp, an echo may still be on its way)
                self._own.pop(stamp, None)
            self._put(stamp, tokens, masks is not None, masks)

    def take(self, timeout: float | None = None) -> SyncedFrame[Tokens, Masks] | None:
        """The latest tokens with their masks; None if none arrive within `timeout` seconds, or after `close`."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._ready:
            while not self._closed:
                now, left = time.monotonic(), None
                if (pending := self._pending) is not None:
                    # Tokens that displace others inherit their wait: otherwise a camera faster than `wait` would keep
                    # the taker waiting for ever.
                    if self._pending_since is None:
                        self._pending_since = pending.arrived
                    left = self._pending_since + self.wait - now
                    masks_here = pending.masks is not None or pending.stamp in self._masks
                    if not pending.expects_masks or masks_here or left <= 0:
                        self._pending = self._pending_since = None
                        return self._sync(pending)
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
        """Drop the pending tokens and wake whoever waits."""
        with self._ready:
            self._dropped += self._pending is not None
            self._pending, self._closed = None, True
            self._masks.clear()
            self._ready.notify_all()

    def _put(self, stamp: int, tokens: Tokens, expects_masks: bool, masks: Masks | None) -> None:
        if self._closed:
            self._dropped += 1
            return
        if self._pending is not None:
            self._dropped += 1
            if self._pending.expects_masks:
                self._masks.pop(self._pending.stamp, None)
        if expects_masks:
            external, latest = self._external_stamp, self._latest
            if latest is None or (external is not None and latest < external <= stamp):
                self._external_stamp = None  # those masks were perception's own, of a frame that was lost
            self._own.pop(stamp, None)
            self._own[stamp] = None
            _trim(self._own, KEEP)
        self._pending = _PendingTokens(stamp, tokens, expects_masks, stamp == self._latest, time.monotonic(), masks)
        self._latest, self._expects_masks = stamp, expects_masks
        self._ready.notify_all()

    def _sync(self, pending: _PendingTokens[Tokens, Masks]) -> SyncedFrame[Tokens, Masks]:
        stamp = pending.stamp
        if pending.masks is not None:
            return SyncedFrame(stamp, pending.tokens, pending.masks)
        if pending.expects_masks and stamp in self._masks:  # used once: without stamps, the next frame has others
            return SyncedFrame(stamp, pending.tokens, self._masks.pop(stamp)[0])
        ages: dict[int, int] = {}  # stamp -> age, of masks that may be used
        for other, (_, arrived) in self._masks.items():
            if pending.expects_masks or other not in self._own:
                since = max(0, int((pending.arrived - arrived) * 1e9))
                ages[other] = since if pending.repeated and other == stamp else stamp - other
        fresh = [other for other, age in ages.items() if 0 <= age <= self.max_age]
        for other in [other for other in self._masks if stamp - other > self.max_age]:
            del self._masks[other]  # of no use to any later frame
        if fresh:
            best = min(fresh, key=ages.__getitem__)
            return SyncedFrame(stamp, pending.tokens, self._masks[best][0], stamp - best, pending.expects_masks)
        if not pending.expects_masks and self._external_stamp is not None:
            ages.setdefault(self._external_stamp, stamp - self._external_stamp)
        nearest_age = min(ages.values(), key=abs, default=None)
        return SyncedFrame(stamp, pending.tokens, None, late=pending.expects_masks, nearest_age=nearest_age)


def _trim(kept: OrderedDict[int, object], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)
