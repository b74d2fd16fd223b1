"""The region of what a question asks about: all phrases of one frame grounded in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ....models import VisualFeatures
from ....models.loading import stop_ids
from ....perception import Perceiver
from ....perception.grounding import parse_answer
from ....regions.boxes import Box
from ...harness.batch_decoder import BatchDecoder, pick
from ...harness.cases import Case

LONGEST = 128  # tokens, as Perceiver.ground


class BatchGrounder:
    """Boxes by phrase, as `Perceiver.ground` gives them one by one. The frame is read once."""

    def __init__(self, perceiver: Perceiver):
        self._perceiver = perceiver
        self._decoder = BatchDecoder(
            perceiver.model, perceiver.tokenizer, None, stop_ids(perceiver.model, perceiver.tokenizer)
        )

    @torch.no_grad()
    def ground(self, phrases: Iterable[str], features: VisualFeatures) -> dict[str, list[Box]]:
        """The boxes of each phrase (without an article), in frame pixels; [] for what is not found."""
        perceiver = self._perceiver
        asked = {
            phrase: perceiver._ids(perceiver.ground_prompt.replace("{phrase}", phrase), features) for phrase in phrases
        }
        if not asked:
            return {}
        first = next(iter(asked.values()))
        pad = perceiver.model.config.image_token_id
        head = len(first) - first[::-1].index(pad)  # up to the last visual token: the same for every phrase
        embeds, positions, delta = perceiver._inputs(first, features)
        cache = self._decoder.read(embeds=embeds[:, :head], positions=positions[..., :head])
        lengths: dict[int, list[str]] = {}
        for phrase, ids in asked.items():
            lengths.setdefault(len(ids), []).append(phrase)
        found: dict[str, list[Box]] = {}
        for group in lengths.values():
            tails = [asked[phrase][head:] for phrase in group]
            own = pick(cache, [0] * len(group))
            answers = self._decoder.write(own, tails, LONGEST, rope=(positions.shape[0], delta))
            for phrase, answer in zip(group, answers, strict=True):
                found[phrase] = [item.box for item in parse_answer(answer, features.frame_size, phrase)]
        return {phrase: found[phrase] for phrase in asked}


class TrueBoxes:
    """Stands in for a `BatchGrounder`: the true boxes of the objects that a phrase fits."""

    def __init__(self, case: Case):
        self._case = case

    def ground(self, phrases: Iterable[str], features: VisualFeatures) -> dict[str, list[Box]]:
        """As `BatchGrounder.ground`."""
        known = [((o.name, f"{o.colour} object", o.shape), self._case.box(o)) for o in self._case.objects]
        return {phrase: [box for names, box in known if phrase in names] for phrase in phrases}


@dataclass(frozen=True)
class Found:
    """The region of a name as boxes, and whether perception found it by the name itself."""

    boxes: tuple[Box, ...]
    named: bool


def regions(grounder: BatchGrounder | TrueBoxes, names: Sequence[str], features: VisualFeatures) -> dict[str, Found]:
    """The region of each name ("red beaker"), by the rule of `pope`: what perception finds by that name; if nothing,
    all that it finds of the colour; if nothing, all that it finds of the shape; if nothing, no boxes."""
    found = grounder.ground(names, features)
    named = {name for name, boxes in found.items() if boxes}
    for part in (0, 1):
        wider = {name: _wider(name, part) for name, boxes in found.items() if not boxes}
        boxes = grounder.ground(dict.fromkeys(wider.values()), features)
        found |= {name: boxes[phrase] for name, phrase in wider.items()}
    return {name: Found(tuple(boxes), name in named) for name, boxes in found.items()}


def _wider(name: str, part: int) -> str:
    """The colour's or the shape's phrase: "red object", "beaker"."""
    colour, shape = name.split()
    return (f"{colour} object", shape)[part]
