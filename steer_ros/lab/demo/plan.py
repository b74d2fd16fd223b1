"""The demo's plan: a bag of bench clips, what to look for in each part of it, and what counts as a hit.

In each scene `look_for` goes through the objects, each for an equal share of the frames. A model that always talks
about the same object of a scene, whichever that is, is right in one part of as many as the scene has objects: what
steering adds is measured against that, not against luck.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bag import write_bag
from ..scenes.clip import make_clip
from ..scenes.ground_truth import BagTruth
from ..scenes.instructions import open_action
from ..scenes.referring_expressions import referring_phrase
from ..scenes.render import RenderedScene
from ..scenes.visible_objects import VisibleObject
from ..seeds import FIRST_TRAINING_SEED

INSTRUCTION = "Pick up one object."  # names none
TASK = "pick"


@dataclass(frozen=True)
class Part:
    """Frames of one scene with one thing to look for: stamps in nanoseconds, and the phrase."""

    scene: int
    stamps: tuple[int, ...]
    look_for: str


@dataclass(frozen=True)
class DemoPlan:
    """The bag with its truth, and its parts in the order of their stamps."""

    bag: Path
    truth: BagTruth
    parts: tuple[Part, ...]

    def script(self, alpha: float | str) -> list[dict[str, Any]]:
        """The script of a run of that strength; the scripts of two runs differ only in the value of one step."""
        start = self.parts[0].stamps[0]
        strength = {"stamp_ns": start, "node": "reasoning", "parameter": "steering.alpha", "value": alpha}
        said = {"stamp_ns": start, "node": "reasoning", "parameter": "instruction", "value": INSTRUCTION}
        look_for = [
            {"stamp_ns": part.stamps[0], "node": "perception", "parameter": "look_for", "value": part.look_for}
            for part in self.parts
        ]
        return [strength, said, *look_for]

    def part_of(self, stamp: int) -> Part:
        """The part that a frame belongs to."""
        return next(part for part in self.parts if stamp in part.stamps)


def make_plan(bag: Path, seed: int, *, frames: int = 48, scenes: int = 3, objects: int = 4) -> DemoPlan:
    """Write the bag and its truth, and say what to look for when.

    Args:
        bag: the bag's folder; a bag that is there is replaced.
        seed: the first scene's; the others follow it. Training seeds begin at 900,000.
        frames: of the whole bag; each object of each scene gets an equal share.
        objects: on each bench, no two of the same colour and shape.

    Raises:
        ValueError: numbers that do not go together.
        BagError: the bag can't be written.
    """
    if not 0 <= seed <= FIRST_TRAINING_SEED - scenes:
        raise ValueError(f"seed={seed}: accepted are 0 to {FIRST_TRAINING_SEED - scenes}, below the training seeds")
    if not 2 <= objects <= 6:
        raise ValueError(f"objects={objects}: accepted are 2 to 6")
    if scenes < 1 or frames < scenes * objects:
        raise ValueError(f"frames={frames}, scenes={scenes}: each object of each scene needs a frame")
    lengths = [len(part) for part in np.array_split(np.arange(frames), scenes)]
    clips = [list(make_clip(seed + i, n, objects=objects, duplicates=0.0)) for i, n in enumerate(lengths)]
    truth = write_bag(bag, (frame for clip in clips for frame in clip), force=True)
    stamps = iter(truth.frames)
    parts: list[Part] = []
    for number, clip in enumerate(clips):
        parts += _parts(number, clip, [next(stamps) for _ in clip], truth)
    return DemoPlan(bag, truth, tuple(parts))


def _parts(number: int, clip: Sequence[RenderedScene], stamps: Sequence[int], truth: BagTruth) -> list[Part]:
    """Each object in turn; one that is hidden when its turn comes is put off as long as another can be seen."""
    left = [o.id for o in clip[0].objects]
    parts = []
    for frames in np.array_split(np.arange(len(clip)), len(left)):
        visible = {obj.id: obj for obj in truth.visible_objects(stamps[frames[0]])}
        chosen = next((name for name in left if name in visible), left[0])
        left.remove(chosen)
        thing = next(o for o in clip[0].objects if o.id == chosen)
        parts.append(Part(number, tuple(stamps[i] for i in frames), thing.name))
    return parts


def meant(look_for: str, objects: Sequence[VisibleObject]) -> list[VisibleObject]:
    """The objects that a phrase means: the one it refers to, or all of that name; none is visible: ``[]``."""
    referred = []
    for obj in objects:
        try:
            phrase = referring_phrase(obj, objects)
        except ValueError:  # no place word tells it from its duplicates: only their common name means them
            continue
        if phrase == look_for:
            referred.append(obj)
    return referred or [obj for obj in objects if obj.name == look_for]


def is_hit(action: str, look_for: str, objects: Sequence[VisibleObject]) -> bool | None:
    """Whether an action is whole, well-formed and about what ``look_for`` means; ``None``: it can't be seen."""
    things = meant(look_for, objects)
    return any(action == open_action(TASK, thing) for thing in things) if things else None


def judge(plan: DemoPlan, turns: Sequence[Mapping[str, Any]]) -> list[bool | None]:
    """A verdict on each turn (``stamp_ns``, ``text``): hit, miss, or ``None`` where there is nothing to hit."""
    return [
        is_hit(turn["text"], plan.part_of(turn["stamp_ns"]).look_for, plan.truth.visible_objects(turn["stamp_ns"]))
        for turn in turns
    ]


def share(verdicts: Sequence[bool | None]) -> float:
    """Hits in percent of the judged turns.

    Raises:
        ValueError: there is nothing to judge.
    """
    judged = [verdict for verdict in verdicts if verdict is not None]
    if not judged:
        raise ValueError("no frame shows what is looked for: there is nothing to judge")
    return 100.0 * sum(judged) / len(judged)
