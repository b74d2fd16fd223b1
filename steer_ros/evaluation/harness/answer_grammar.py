"""What an answer of the lab's grammar says: the objects it names, whether it is an exact match, or malformed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from ...lab.scenes.instructions import OPENING, PLACED, open_action
from ...lab.scenes.scene import COLOURS, SHAPES
from ...lab.scenes.visible_objects import VisibleObject
from ...reasoning import Turn

# The open instructions whose answers name an object by colour and shape; the others say one thing about it.
NAMING = ("pick", "describe")
KINDS = (*NAMING, "colour", "shape", "where")
BORDER = 0.02  # of the image's side: 7 px of the bench's 336, a quarter of a visual token

_COLOUR, _SHAPE = f"(?:{'|'.join(COLOURS)})", f"(?:{'|'.join(SHAPES)})"
_PLACE = "(?:center|(?:top|bottom)(?: left| right)?|left|right)"
_NAME = re.compile(rf"\b({_COLOUR}) ({_SHAPE})\b")
_THING = r"(?:[a-z]+ )?[a-z]+"
_THOUGHTS = {
    "open": re.compile(rf"{OPENING} {_COLOUR} {_SHAPE}(?: at the {_PLACE})?\."),
    "closed": re.compile(rf"I look for the {_THING}\. (?:I do not see it|I see it(?: at the {_PLACE})?)\."),
}
_ACTIONS = {
    "pick": re.compile(rf"Pick up the {_COLOUR} {_SHAPE}\."),
    "describe": re.compile(rf"There is an? {_COLOUR} {_SHAPE} at the {_PLACE}\."),
    "colour": re.compile(rf"It is {_COLOUR}\."),
    "shape": re.compile(rf"It is an? {_SHAPE}\."),
    "where": re.compile(rf"It is at the {_PLACE}\."),
    "exists": re.compile(r"(?:Yes|No)\."),
    "named": re.compile(rf"(?:It is at the {_PLACE}|Pick up the {_COLOUR} {_SHAPE}|There is no {_COLOUR} {_SHAPE})\."),
}


def mentions(text: str) -> list[str]:
    """The objects that a text names by colour and shape, in order: ``["red beaker", …]``."""
    return [" ".join(found) for found in _NAME.findall(text)]


def first_mention(turn: Turn) -> str:
    """The first object that the answer names, thought first; "" if it names none."""
    return next(iter(mentions(f"{turn.thought} {turn.action}")), "")


def exact_match(kind: str, turn: Turn, target: VisibleObject) -> bool:
    """Whether an answer to an open instruction is right from first word to last: the action is word for word the one
    about the target, and the thought names the target and no other object."""
    named = mentions(turn.thought)
    return action_matches(kind, turn, target) and bool(named) and set(named) == {target.name}


def action_matches(kind: str, turn: Turn, target: VisibleObject) -> bool:
    """Whether the action, thought aside, is word for word the one about the target.

    A place is right if the object's centre lies in it, or within `BORDER` of it: an object on the border of two thirds
    of the image is as well at the one as at the other.
    """
    said = turn.action.strip()
    if kind not in PLACED:
        return said == open_action(kind, target)
    return any(said == open_action(kind, near) for near in _about(target))


def action_matches_strictly(kind: str, turn: Turn, target: VisibleObject) -> bool:
    """The same, without leniency at the border."""
    return turn.action.strip() == open_action(kind, target)


def _about(target: VisibleObject) -> list[VisibleObject]:
    """The target with its centre at the corners of a square of half side `BORDER` about it."""
    x0, y0, x1, y1 = target.box
    shifts = (-BORDER, 0.0, BORDER)
    return [replace(target, box=(x0 + dx, y0 + dy, x1 + dx, y1 + dy)) for dx in shifts for dy in shifts]


def malformed(kind: str, turn: Turn) -> bool:
    """Whether thought or action is none that the grammar has for such an instruction, whatever it is about."""
    thought = _THOUGHTS["open" if kind in KINDS else "closed"]
    well = thought.fullmatch(turn.thought.strip()) and _ACTIONS[kind].fullmatch(turn.action.strip())
    return not well or turn.cut_short


def repeats(turn: Turn) -> bool:
    """Whether thought or action goes round in circles: a word twice running, or three words thrice."""
    for text in (turn.thought, turn.action):
        words = re.findall(r"\w+", text.lower())
        threes = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
        if any(a == b for a, b in pairwise(words)) or any(threes.count(t) >= 3 for t in threes):
            return True
    return False


def another(objects: Sequence[VisibleObject], target: VisibleObject) -> VisibleObject | None:
    """The next object of the scene, in its order, that has another name than the target; None if there is none."""
    at = next(i for i, obj in enumerate(objects) if obj is target)
    return next((o for o in (*objects[at + 1 :], *objects[:at]) if o.name != target.name), None)
