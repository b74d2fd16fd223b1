"""Whether an answer that is being written must be begun anew: because it is over-steered (a loop, a malformed answer,
attention that left image or text), or because its region moved elsewhere. `steering/guard.py` has the settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import Tensor

from ..steering import Guard, Law

MAX_MOVES = 3  # how often in a turn the answer is begun anew because the region moved
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


def find_loop(guard: Guard, ids: Sequence[int], decode: Callable[[list[int]], str]) -> str:
    """What is wrong if the answer's last tokens go round in a loop, else "".

    Args:
        ids: the answer's token ids so far.
        decode: token ids → their text.
    """
    size = len(ids)
    for period in range(1, min(guard.max_period, size // guard.min_repeats) + 1):
        repeats = max(guard.min_repeats, -(-guard.min_repeated_tokens // period))
        if not _ends_in_repeats(ids, period, repeats):
            continue
        text = decode(list(ids[size - period :]))
        if not any(letter.isalpha() for letter in text):
            repeats = max(repeats, -(-guard.min_repeated_symbols // period))
            if not _ends_in_repeats(ids, period, repeats):
                continue
        return f"repetition: {_shown(text)} {repeats} times in a row"
    return ""


def find_malformed(guard: Guard, thought: str, action: str, stray_control_tokens: int = 0) -> str:
    """What is wrong with an answer that the model itself brought to its end, else "".

    Args:
        stray_control_tokens: how many control tokens it has where none belong.
    """
    if stray_control_tokens:
        return f"malformed answer: {stray_control_tokens} control tokens within it"
    if not action:
        return "malformed answer: it ended without an action"
    if _SIGN_FIRST.match(action):
        return f"malformed answer: the action begins with {action[0]!r}"
    words = _BY_PAIRS.sub("", action)
    stutter = next((m for m in _STUTTER.finditer(words) if m[1].lower() not in _MAY_DOUBLE), None)
    if stutter is not None:
        return f"malformed answer: {_shown(stutter[1])} twice in a row"
    if guard.well_formed is not None and not guard.well_formed(thought, action):
        return f"malformed answer: {_shown(action)} is refused by well_formed"
    return ""


def find_collapse(guard: Guard, law: Law, before: float | None, after: float | None) -> str:
    """What is wrong if the law took nearly all attention from the image or from the text, else "".

    Args:
        before, after: V's mean share of a steered row's attention without and with the law; None: not measured.
    """
    if before is None or after is None or law.name == "target":
        return ""
    for what, had, kept in (("image", before, after), ("text", 1 - before, 1 - after)):
        if kept < guard.collapse * had and had > 0.01:
            return f"visual share collapsed: the {what} went from {had:.2f} to {max(0.0, kept):.2f} of the attention"
    return ""


def region_moved(old: Tensor, new: Tensor) -> bool:
    """Whether the region is another place now: less than half of the keys that either has are both's.

    old, new: weights by key position, the same shape. An answer says early what it looks at and repeats it from its
    own text later, so a look that moves comes too late for what is written. A region that comes or goes has not moved.
    """
    old, new = old > 0, new > 0
    both, either = int((old & new).sum()), int((old | new).sum())
    return bool(old.any()) and bool(new.any()) and 2 * both < either


def _ends_in_repeats(ids: Sequence[int], period: int, repeats: int) -> bool:
    span = period * repeats
    if span > len(ids):
        return False
    tail = ids[len(ids) - span :]
    return all(tail[i] == tail[i + period] for i in range(span - period))


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 40 else text[:37] + "...")
