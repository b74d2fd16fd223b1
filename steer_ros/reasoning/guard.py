"""When an answer being written must be begun anew: over-steering (loops, a malformed answer, attention that left image
or text), and a region that moved away under it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real

from torch import Tensor

from ..steering.laws import Law

PLAIN = 0.0
MOVES = 3  # how often in a turn the answer is begun anew because the region moved
MOVED = "the region moved"

# Words that language itself doubles; any other word or short phrase twice in a row is a stutter.
_MAY_DOUBLE = frozenset(
    ("that", "had", "is", "so", "very", "no", "yes", "now", "there", "bye", "really", "much", "far")
    + ("in", "on", "out", "up", "down", "over", "her")
)
_STUTTER = re.compile(r"(?i)\b([^\W\d_]+(?:[^\S\n]+[^\W\d_]+){0,3})[^\S\n]+\1\b")
_BY_PAIRS = re.compile(  # "step by step by step", "round and round and round"
    r"(?i)\b(?:([^\W\d_]+)(?: (?:by|after) \1\b)+|(round|on|over|again|up|down|more|out|around)(?: and \2\b)+)"
)
_SIGN_FIRST = re.compile(r"^[.,;:!?)\]}]")


@dataclass(frozen=True)
class Guard:
    """What counts as over-steering, and how far a turn is then rolled back.

    scales: parts of the strength tried one after the other within a turn, from 1 down to 0 (plain attention): as
        many rollbacks as steps. The last one is not judged any more.
    copies, tokens: a loop is a unit of up to `longest` tokens that stands at least `copies` times in a row and
        fills at least `tokens` of them; one without a letter (digits, dots, rules) `signs` of them.
    collapse: the law has bent too far when image or text keep less than this part of the attention that they had
        (additive leaves text e^-α of it at the worst: 0.14 at 2). Not judged for "target", which is asked to take it
        from both.
    every: tokens from one look at the attention to the next (it waits for the device).
    follow_moves: whether an answer is begun anew, with the strength that it has, when a new mask moves the region (see
        `moved`); at most MOVES times a turn. A mask that moves it less counts from the next token on.
    well_formed: what the caller knows of a good answer: (thought, action) → bool. None: anything goes that is not
        malformed on its face.
    """

    scales: tuple[float, ...] = (1.0, 0.5, PLAIN)
    copies: int = 3
    tokens: int = 6
    longest: int = 32
    signs: int = 16
    collapse: float = 0.1
    every: int = 8
    follow_moves: bool = True
    well_formed: Callable[[str, str], bool] | None = None

    def __post_init__(self) -> None:
        scales = tuple(self.scales) if isinstance(self.scales, (tuple, list)) else ()
        real = all(isinstance(s, Real) and not isinstance(s, bool) and 0 <= s <= 1 for s in scales)
        if not scales or not real or list(scales) != sorted(set(scales), reverse=True):
            raise ValueError(f"guard scales: {self.scales!r}; accepted are falling numbers from 1 to 0, at least one")
        object.__setattr__(self, "scales", tuple(float(s) for s in scales))
        for name, least in (("copies", 2), ("tokens", 2), ("longest", 1), ("signs", 2), ("every", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"guard {name}: {value!r}; accepted are whole numbers from {least}")
        if isinstance(self.collapse, bool) or not isinstance(self.collapse, Real) or not 0 <= self.collapse < 1:
            raise ValueError(f"guard collapse: {self.collapse!r}; accepted are numbers from 0 to below 1")
        if not isinstance(self.follow_moves, bool):
            raise ValueError(f"guard follow_moves: {self.follow_moves!r}; accepted are True and False")
        if self.well_formed is not None and not callable(self.well_formed):
            raise ValueError(f"guard well_formed: {self.well_formed!r}; accepted is a function or None")

    def loop(self, ids: Sequence[int], spell: Callable[[list[int]], str]) -> str:
        """What is wrong if the answer's last tokens go round in a loop, else "". spell: ids → their text."""
        size = len(ids)
        for unit in range(1, min(self.longest, size // self.copies) + 1):
            copies = max(self.copies, -(-self.tokens // unit))
            if not _ends_in_copies(ids, unit, copies):
                continue
            text = spell(list(ids[size - unit :]))
            if not any(letter.isalpha() for letter in text):
                copies = max(copies, -(-self.signs // unit))
                if not _ends_in_copies(ids, unit, copies):
                    continue
            return f"repetition: {_shown(text)} {copies} times in a row"
        return ""

    def malformed(self, thought: str, action: str, strays: int = 0) -> str:
        """What is wrong with an answer that the model itself brought to its end, else "".

        strays: control tokens in it that have no place there.
        """
        if strays:
            return f"malformed answer: {strays} control tokens within it"
        if not action:
            return "malformed answer: it ended without an action"
        if _SIGN_FIRST.match(action):
            return f"malformed answer: the action begins with {action[0]!r}"
        words = _BY_PAIRS.sub("", action)
        stutter = next((m for m in _STUTTER.finditer(words) if m[1].lower() not in _MAY_DOUBLE), None)
        if stutter is not None:
            return f"malformed answer: {_shown(stutter[1])} twice in a row"
        if self.well_formed is not None and not self.well_formed(thought, action):
            return f"malformed answer: {_shown(action)} is refused by well_formed"
        return ""

    def collapsed(self, law: Law, before: float | None, after: float | None) -> str:
        """What is wrong if the law took nearly all attention from the image or from the text, else "".

        before, after: V's mean share of a steered row's attention without and with the law; None: not measured.
        """
        if before is None or after is None or law.name == "target":
            return ""
        for what, had, kept in (("image", before, after), ("text", 1 - before, 1 - after)):
            if kept < self.collapse * had and had > 0.01:
                return (
                    f"visual share collapsed: the {what} went from {had:.2f} to {max(0.0, kept):.2f} of the attention"
                )
        return ""


def moved(old: Tensor, new: Tensor) -> bool:
    """Whether the region is another place now: less than half of the keys that either has are both's.

    old, new: weights by key position, the same shape. An answer says early what it looks at and repeats it from its
    own text later, so a look that moves comes too late for what is written. A region that comes or goes has not moved.
    """
    old, new = old > 0, new > 0
    both, either = int((old & new).sum()), int((old | new).sum())
    return bool(old.any()) and bool(new.any()) and 2 * both < either


def as_guard(guard: Guard | bool) -> Guard | None:
    """A guard; True for the usual one, False for none. ValueError for anything else."""
    if isinstance(guard, Guard):
        return guard
    if isinstance(guard, bool):
        return Guard() if guard else None
    raise ValueError(f"guard: {guard!r}; accepted are True, False and a Guard")


def _ends_in_copies(ids: Sequence[int], unit: int, copies: int) -> bool:
    span = unit * copies
    if span > len(ids):
        return False
    tail = ids[len(ids) - span :]
    return all(tail[i] == tail[i + unit] for i in range(span - unit))


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 40 else text[:37] + "...")
