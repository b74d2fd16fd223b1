"""The methods that the comparison sets side by side: what each does to attention, to the frame or to the prompt.

Strengths of the others' methods are not ours to choose badly: where a method has `strengths`, its own is the one of
them that does best on tuning scenes that nothing is judged on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ...lab.scenes.visible_objects import VisibleObject
from ...models import VisualFeatures
from ...perception import Perceiver
from ...reasoning import Reasoner
from ...regions.boxes import Box
from ...steering import Gate, SteeringConfig, make_law
from ..harness.cases import Case
from ..harness.steering_setup import UNSTEERED, SteeringSetup, discovered_heads, random_heads

SATURATED = 16.0  # e^16: where a head looks at the region at all, it looks nowhere else in the frame
PASTA = math.log(100.0)  # PASTA's own: the attention paid to the rest is multiplied by 0.01
RANDOM_HEADS = 8  # how many, where the model's gate does not say
CONTEXT = 0.25  # this part of the box's longer side is shown on each side of it, unless the tuning scenes choose
PEN = (255, 0, 0)  # RGB of the drawn box: red, as in the visual prompts of the literature

DESCRIPTIONS = {
    "unsteered": "greedy; the model does not know the region",
    "additive": "the research note: +2 on the region's scores, all heads",
    "additive_tuned": "the same at the best alpha",
    "gaze_heads": "Gaze Heads' recipe: a saturated bias on the heads that `tune heads` found for the model",
    "random_heads": "its control: the same on as many heads drawn at random",
    "pasta": "PASTA-style: the rest of the frame down-weighted, all heads",
    "spotlight": "SpotLight-style log(t/p): each row's look at the region brought to a set share of all attention, on "
    "all heads (by the target law, which holds back rows that look at it more, where SpotLight leaves those)",
    "gaze_heads_tuned": "the same heads, the bias at the best alpha below saturation",
    "crop": "the region alone as the frame, with as much around it as does best",
    "blanked": "the region in its place, with as much around it as does best; the rest in the frame's median colour",
    "drawn_box": "a red box drawn on the frame",
    "box_in_words": 'the place in words: "Look at the top left. …"',
    "ours": "what the model's steering.json says (conserving, alpha 2, if there is none), or the call's options",
}


@dataclass(frozen=True)
class Method:
    """One way to point at a region.

    frame: "whole" as it is, "crop" the region alone, "blank" all but the region blanked, "drawn" with a box drawn on
    it. words: whether the prompt says where the region is. context: what is shown around a region, in parts of its
    longer side. strengths: among which the tuning scenes choose, contexts for a crop; () for a setting that stands.
    """

    name: str
    setup: SteeringSetup = UNSTEERED
    frame: str = "whole"
    words: bool = False
    context: float = CONTEXT
    strengths: tuple[float, ...] = ()

    def at(self, strength: float) -> Method:
        """The method at one of its strengths: alpha, the setpoint of a law that has one, or a context."""
        if self.frame != "whole":
            return replace(self, context=strength, strengths=())
        number = "setpoint" if self.setup.config.law.has_setpoint else "alpha"
        config = self.setup.config.override(**{number: strength})
        return replace(self, setup=replace(self.setup, config=config), strengths=())

    def prompt(self, text: str, case: Case, target: VisibleObject) -> str:
        """What is asked: the text, or the text after the region's place in words."""
        return f"Look at the {target.place}. {text}" if self.words else text

    def features(self, perceiver: Perceiver, case: Case, target: VisibleObject) -> VisualFeatures:
        """The frame that the method shows: the scene's own, encoded already, or one of its making."""
        if self.frame == "whole":
            return case.features
        box = case.box(target)
        if self.frame == "drawn":
            return perceiver.encode(drawn(case.image, box))
        return perceiver.encode((crop if self.frame == "crop" else blanked)(case.image, box, self.context))

    def weights(self, case: Case, target: VisibleObject) -> np.ndarray | None:
        """The region's weights, for a method that steers."""
        return case.weights(target) if self.setup.steers else None


def methods(reasoner: Reasoner, ours: SteeringSetup) -> list[Method]:
    """All that are compared, ours last. Without discovered heads, random ones stand alone."""
    heads = discovered_heads(reasoner)
    few = random_heads(reasoner, len(heads) or RANDOM_HEADS)
    saturated = (4.0, 8.0, SATURATED)
    steered = [
        Method("additive", _setup("additive", 2.0)),
        Method("additive_tuned", _setup("additive", 2.0), strengths=(1.0, 1.5, 2.0, 2.5, 3.0, 4.0)),
        Method("gaze_heads", _setup("additive", SATURATED, heads), strengths=saturated),
        Method("gaze_heads_tuned", _setup("additive", 2.0, heads), strengths=(1.0, 1.5, 2.0, 3.0)),
        Method("random_heads", _setup("additive", SATURATED, few), strengths=saturated),
        Method("pasta", replace(_setup("additive", PASTA), weights="rest"), strengths=(1.0, 2.0, 3.0, PASTA)),
        Method(
            "spotlight",
            SteeringSetup("target", SteeringConfig(make_law("target", 0.0, 0.1), guard=None)),
            strengths=(0.02, 0.05, 0.1, 0.3),
        ),
    ]
    return [
        Method("unsteered"),
        *(method for method in steered if heads or not method.name.startswith("gaze_heads")),
        Method("crop", frame="crop", strengths=(0.25, 0.5, 1.0, 2.0)),
        Method("blanked", frame="blank", strengths=(0.0, 0.25, 0.5, 1.0)),
        Method("drawn_box", frame="drawn"),
        Method("box_in_words", words=True),
        Method("ours", ours),
    ]


def crop(image: np.ndarray, box: Box, context: float = CONTEXT) -> np.ndarray:
    """The square around a box with some context, clipped to the frame: uint8 [height, width, 3]."""
    height, width = image.shape[:2]
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half = max(box[2] - box[0], box[3] - box[1]) * (0.5 + context)
    x0, x1 = max(0, round(x - half)), min(width, round(x + half))
    y0, y1 = max(0, round(y - half)), min(height, round(y + half))
    return np.ascontiguousarray(image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)])


def blanked(image: np.ndarray, box: Box, context: float = CONTEXT) -> np.ndarray:
    """The frame in its median colour, but for the box and some context: uint8 [height, width, 3]."""
    made = np.empty_like(image)
    made[:] = np.median(image.reshape(-1, 3), axis=0)
    more = context * max(box[2] - box[0], box[3] - box[1])
    x0, y0 = (max(0, round(side - more)) for side in box[:2])
    x1, y1 = (round(side + more) for side in box[2:])
    made[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return made


def drawn(image: np.ndarray, box: Box) -> np.ndarray:
    """The frame with the box drawn on it, 3 pixels wide."""
    copy = image.copy()
    corners = [round(side) for side in box]
    cv2.rectangle(copy, (corners[0], corners[1]), (corners[2] - 1, corners[3] - 1), PEN, 3)
    return copy


def _setup(law: str, alpha: float, heads: tuple[tuple[int, int], ...] = ()) -> SteeringSetup:
    gate = Gate(pairs=heads) if heads else Gate()
    return SteeringSetup(law, SteeringConfig(make_law(law, alpha), gate, guard=None))
