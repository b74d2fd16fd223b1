"""Prompts to masks: a place is its area, a thing is grounded, what names neither shows by saliency."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..models.features import VisualFeatures
from ..regions.mask import FULL, Mask, box_weights, union
from ..regions.phrases import area_box, parse_phrase, select
from .grounding import Grounding

# A saliency below this part of its peak is background: attention is never quite zero anywhere.
_SALIENCY_THRESHOLD = 0.5


class Grounder(Protocol):
    """What finding regions needs of a vision-language model; a Perceiver has it."""

    def ground(self, phrase: str, features: VisualFeatures) -> list[Grounding]: ...

    def saliency(self, prompt: str, features: VisualFeatures) -> np.ndarray: ...


def find_regions(grounder: Grounder, prompt: str, features: VisualFeatures) -> list[Mask]:
    """See Perceiver.detect_regions."""
    phrase = parse_phrase(prompt)
    if phrase.noun:
        found = grounder.ground(phrase.noun, features)
        chosen = select(phrase, [(item.box, item.score) for item in found], features.frame_size)
        return [_box_mask(features, found[i].box, found[i].label, found[i].score, "grounding") for i in chosen]
    if phrase.area:
        box = area_box(phrase.area, features.frame_size)
        return [_box_mask(features, box, phrase.area, 1.0, "phrase")]
    saliency = grounder.saliency(prompt, features)
    salient = saliency >= _SALIENCY_THRESHOLD
    weights = np.where(salient, np.rint(saliency * FULL), 0).astype(np.int8)
    return [Mask(weights, score=float(saliency[salient].mean()), source="saliency")]


def merge_regions(masks: list[Mask], prompt: str, features: VisualFeatures) -> Mask:
    """The union of one frame's masks; without any, an empty mask labelled with the prompt."""
    if len(masks) == 1:
        return masks[0]
    if not masks:
        weights = np.zeros((features.grid.rows, features.grid.cols), np.int8)
        return Mask(weights, label=prompt, score=0.0, source="grounding")
    corners = np.array([mask.box for mask in masks])
    box = tuple(float(value) for value in (*corners[:, :2].min(0), *corners[:, 2:].max(0)))
    return Mask(
        union([mask.weights for mask in masks]),
        label=masks[0].label,
        score=max(mask.score for mask in masks),
        source=masks[0].source,
        box=box,
    )


def _box_mask(features: VisualFeatures, box, label: str, score: float, source: str) -> Mask:
    weights = box_weights(features.grid, features.frame_size, box)
    return Mask(weights, label=label, score=score, source=source, box=box)
