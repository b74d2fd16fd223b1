"""Where a frame's tokens meet its masks, by frame stamp.

Both come in any order and from anywhere. Tokens are latest-wins: older ones that nobody took are dropped and counted.
Masks that come by themselves are kept for a while. Tokens that expect masks of their own wait for them, but not for
ever; tokens that expect none take the newest masks that another node gave, if those are not older than the limit.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

Tokens = TypeVar("Tokens")
Masks = TypeVar("Masks")


KEEP = 256  # masks that came by themselves: 8 s of a detector at 30 Hz, for a perception that is that slow


@dataclass(frozen=True)
class Meeting(Generic[Tokens, Masks]):
    """One frame's tokens with the masks to use for it. masks None: nothing to steer with.

    mask_age: nanoseconds from the masks' frame to this one; 0 for its own.
    late: masks of its own were expected and did not come in time.
    missed: nanoseconds from the nearest frame that another node gave masks of, where none of them is of use: too old
        (a node that fell silent is missed at every frame), or of a later frame (negative).
    """

    stamp: int
    tokens: Tokens
    masks: Masks | None
    mask_age: int = 0
    late: bool = False
    missed: int | None = None


@dataclass(frozen=True)
class _Waiting(Generic[Tokens, Masks]):
    """Tokens that wait for whoever takes them. repeated: the frame before had the same stamp. masks: their own, where
    they came together."""

    stamp: int
    tokens: Tokens
    expects: bool
    repeated: bool
    came: float
    masks: Masks | None = None


class Rendezvous(Generic[Tokens, Masks]):
    """A source for a lane. Stamps are integers in nanoseconds; wait in seconds; max_age in nanoseconds.

    A camera without stamps (all of them 0) gives frames that can't be told apart. Masks given together with tokens
    are safe all the same. Masks that come by themselves steer one frame that expects them, and where frames displace
    one another some go without; frames that expect none they steer for max_age after they came.
    """

    def __init__(self, wait: float = 0.5, max_age: int = 1_000_000_000, keep: int = KEEP) -> None:
        self.wait = wait
        self.max_age = max_age
        self._keep = keep
        self._ready = threading.Condition()
        self._waiting: _Waiting[Tokens, Masks] | None = None
        self._waiting_since: float | None = None  # when tokens came that somebody waited for the masks of
        self._masks: OrderedDict[int, tuple[Masks, float]] = OrderedDict()  # stamp -> masks, when they came
        self._own: OrderedDict[int, None] = OrderedDict()  # frames that have masks of their own
        self._latest: int | None = None  # the frame that came last
        self._expects = False  # whether that one has masks of its own
        self._given: int | None = None  # the last frame that another node, surely, gave masks of
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
            if not expects_masks:
                self._own.pop(stamp, None)
            self._put(stamp, tokens, expects_masks, None)

    def put_masks(self, stamp: int, masks: Masks) -> None:
        """A frame's masks from a topic; later ones for the same stamp replace them.

        Masks of a frame that `put` gives its own masks are their echo, and not used.
        """
        with self._ready:
            if self._closed:
                return
            self._masks.pop(stamp, None)
            self._masks[stamp] = masks, time.monotonic()
            _trim(self._masks, self._keep)
            if not self._expects and stamp not in self._own:  # else they may be a lost frame's own
                self._given = stamp
            self._ready.notify_all()

    def put(self, stamp: int, tokens: Tokens, masks: Masks | None) -> None:
        """Tokens with their masks at once, as within one process; None: the frame has none of its own."""
        with self._ready:
            if masks is None and stamp != self._latest:  # (the same again: the echo of the last may be on its way)
                self._own.pop(stamp, None)
            self._put(stamp, tokens, masks is not None, masks)

    def take(self, timeout: float | None = None) -> Meeting[Tokens, Masks] | None:
        """The latest tokens with their masks, or None: none came within `timeout` seconds, or it is closed."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._ready:
            while not self._closed:
                now, left = time.monotonic(), None
                if (here := self._waiting) is not None:
                    # Tokens that displace others go on with their wait: a camera that is faster than it must not
                    # keep whoever takes from ever meeting a frame.
                    since = self._waiting_since = here.came if self._waiting_since is None else self._waiting_since
                    left = since + self.wait - now
                    if not here.expects or here.masks is not None or here.stamp in self._masks or left <= 0:
                        self._waiting = self._waiting_since = None
                        return self._meet(here)
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
            self._dropped += self._waiting is not None
            self._waiting, self._closed = None, True
            self._masks.clear()
            self._ready.notify_all()

    def _put(self, stamp: int, tokens: Tokens, expects: bool, masks: Masks | None) -> None:
        if self._closed:
            self._dropped += 1
            return
        if self._waiting is not None:
            self._dropped += 1
            if self._waiting.expects:
                self._masks.pop(self._waiting.stamp, None)
        if expects:
            given, latest = self._given, self._latest
            if latest is None or (given is not None and latest < given <= stamp):
                self._given = None  # masks that came since were perception's own, the first of them a lost frame's
            self._own.pop(stamp, None)
            self._own[stamp] = None
            _trim(self._own, KEEP)
        self._waiting = _Waiting(stamp, tokens, expects, stamp == self._latest, time.monotonic(), masks)
        self._latest, self._expects = stamp, expects
        self._ready.notify_all()

    def _meet(self, here: _Waiting[Tokens, Masks]) -> Meeting[Tokens, Masks]:
        stamp = here.stamp
        if here.masks is not None:
            return Meeting(stamp, here.tokens, here.masks)
        if here.expects and stamp in self._masks:  # used once: without stamps, the next frame's are others
            return Meeting(stamp, here.tokens, self._masks.pop(stamp)[0])
        ages: dict[int, int] = {}  # of masks that may be used, how old they are
        for other, (_, came) in self._masks.items():
            if here.expects or other not in self._own:
                since = max(0, int((here.came - came) * 1e9))
                ages[other] = since if here.repeated and other == stamp else stamp - other
        fresh = [other for other, age in ages.items() if 0 <= age <= self.max_age]
        for other in [other for other in self._masks if stamp - other > self.max_age]:
            del self._masks[other]  # of no use to any later frame
        if fresh:
            best = min(fresh, key=ages.__getitem__)
            return Meeting(stamp, here.tokens, self._masks[best][0], stamp - best, here.expects)
        if not here.expects and self._given is not None:
            ages.setdefault(self._given, stamp - self._given)
        missed = min(ages.values(), key=abs, default=None)
        return Meeting(stamp, here.tokens, None, late=here.expects, missed=missed)


def _trim(kept: OrderedDict[int, object], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)
