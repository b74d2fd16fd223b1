"""The instructions that lab-r1 learns, and their answers in R1's format.

Open instructions leave the object open: any object of the scene is a right answer, drawn at random in training, so
which one a trained model talks about is decided by its attention alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .referring_expressions import ABSENT_NOUNS
from .scene import COLOURS, SHAPES
from .visible_objects import VisibleObject, matching

OPEN = {
    "pick": (
        "Pick up one object.",
        "Pick up an object.",
        "Take something from the bench.",
        "Choose an object and pick it up.",
    ),
    "describe": ("Describe one object.", "Describe an object.", "What is on the bench?", "What do you see?"),
    "colour": ("What colour is it?", "What color is it?", "What colour is the object?"),
    "shape": ("What shape is it?", "What kind of object is it?", "What is it?"),
    "where": ("Where is it?", "Where is the object?"),
}


PLACED = ("describe", "where")  # the open instructions whose answers say a place
OPENING = "I look at the"  # what a thought says before it names the object that the instruction leaves open


@dataclass(frozen=True)
class Dialogue:
    """One question with its answer; ``task`` names its kind, ``target`` the object that it is about."""

    task: str
    prompt: str
    thought: str
    action: str
    target: VisibleObject | None = None

    @property
    def answer(self) -> str:
        """What follows ``<think>\\n``, up to the end of the sentence."""
        return f"{self.thought}\n</think>\n\n{self.action}"


def article(word: str) -> str:
    """``a`` or ``an``."""
    return "an" if word[0] in "aeiou" else "a"


def open_thought(task: str, target: VisibleObject) -> str:
    """The thought before the answer to an open instruction about ``target``.

    Where the answer says a place, the thought has read it off already: a place is learnt where attention is on the
    object anyway, and hardly at all where the object must be looked up again by its name.
    """
    place = f" at the {target.place}" if task in PLACED else ""
    return f"{OPENING} {target.name}{place}."


def open_action(task: str, target: VisibleObject) -> str:
    """The whole, well-formed answer to an open instruction about ``target``."""
    return {
        "pick": f"Pick up the {target.name}.",
        "describe": f"There is {article(target.name)} {target.name} at the {target.place}.",
        "colour": f"It is {target.colour}.",
        "shape": f"It is {article(target.shape)} {target.shape}.",
        "where": f"It is at the {target.place}.",
    }[task]


def open_dialogue(rng: np.random.Generator, objects: Sequence[VisibleObject]) -> Dialogue:
    """An instruction that leaves the object open, answered for a random one."""
    task = str(rng.choice(list(OPEN), p=(0.29, 0.30, 0.09, 0.09, 0.23)))
    target = objects[int(rng.integers(len(objects)))]
    prompt = str(rng.choice(OPEN[task]))
    return Dialogue(task, prompt, open_thought(task, target), open_action(task, target), target)


def exists_dialogue(rng: np.random.Generator, objects: Sequence[VisibleObject]) -> Dialogue:
    """ "Is there a …?" with even chances of yes and no; half of the wrong ones have one word right."""
    target = objects[int(rng.integers(len(objects)))]
    form = rng.random()
    if rng.random() < 0.5:
        colour, shape = target.colour, target.shape
    else:
        colour, shape = _absent(rng, objects, target)
    if form < 0.12:
        present = colour in {o.colour for o in objects}
        thing, found = f"{colour} object", matching(objects, colour) if present else []
    elif form < 0.24:
        thing, found = shape, matching(objects, None, shape)
    elif form < 0.28:
        thing, found = str(rng.choice(ABSENT_NOUNS)), []
    else:
        thing, found = f"{colour} {shape}", matching(objects, colour, shape)
    return exists_answer(thing, found)


def exists_answer(thing: str, found: Sequence[VisibleObject]) -> Dialogue:
    """The question whether ``thing`` is there, answered by what was found."""
    prompt = f"Is there {article(thing)} {thing}?"
    if found:
        return Dialogue("exists", prompt, f"I look for the {thing}. I see it.", "Yes.", found[0])
    return Dialogue("exists", prompt, f"I look for the {thing}. I do not see it.", "No.")


def named_dialogue(rng: np.random.Generator, objects: Sequence[VisibleObject]) -> Dialogue:
    """An instruction that names its object, which now and then is not there."""
    target = objects[int(rng.integers(len(objects)))]
    colour, shape = target.colour, target.shape
    if rng.random() < 0.2:
        colour, shape = _absent(rng, objects, target)
    name = f"{colour} {shape}"
    found = matching(objects, colour, shape)
    where = rng.random() < 0.6
    prompt = f"Where is the {name}?" if where else f"Pick up the {name}."
    if not found:
        return Dialogue("named", prompt, f"I look for the {name}. I do not see it.", f"There is no {name}.")
    target = found[int(rng.integers(len(found)))]
    if where:
        thought, action = f"I look for the {name}. I see it at the {target.place}.", f"It is at the {target.place}."
    else:
        thought, action = f"I look for the {name}. I see it.", f"Pick up the {name}."
    return Dialogue("named", prompt, thought, action, target)


def draw_dialogue(rng: np.random.Generator, objects: Sequence[VisibleObject]) -> Dialogue:
    """The training mix: half open, a third yes or no, the rest named."""
    draw = rng.random()
    if draw < 0.5:
        return open_dialogue(rng, objects)
    return exists_dialogue(rng, objects) if draw < 0.84 else named_dialogue(rng, objects)


def _absent(rng: np.random.Generator, objects: Sequence[VisibleObject], near: VisibleObject) -> tuple[str, str]:
    """A colour and shape that the scene does not hold together; half of them share a word with ``near``."""
    names = {o.name for o in objects}
    while True:
        colour, shape = str(rng.choice(COLOURS)), str(rng.choice(SHAPES))
        draw = rng.random()
        if draw < 0.3:
            colour = near.colour
        elif draw < 0.6:
            shape = near.shape
        if f"{colour} {shape}" not in names:
            return colour, shape
