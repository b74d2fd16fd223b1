"""Suite `vqa`: easy-VQA's questions about one image of a mosaic, which a region picks.

Each of easy-VQA's test questions is asked about its image alone, and about it among 4 and 9 images in a mosaic, where
nothing but the region says which of them is meant. The models (`train.py`) learnt from the set's training images,
without steering; the setting was chosen on training images that they did not see (`tune.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....lab.seeds import VQA_SEED
from ....models.features import VisualFeatures
from ....perception import Perceiver
from ....reasoning import Limits, Reasoner
from ....regions.mask import Mask, box_weights
from ....steering import SteeringConfig
from ...harness.eval_config import EvalConfig
from ...harness.intervals import Row, difference, share
from ...harness.steering_setup import UNSTEERED, SteeringSetup
from .data import COLOURS, SHAPES, Mosaic, Tile, VqaQuestion, draw_mosaic, load_tiles

PERCEPTION, REASONING = "builtin:vqa-vl", "builtin:vqa-r1"
QUESTIONS = 500  # the suite's own size
LONGEST = 32  # tokens of an answer; a right one has up to 20
SETUP = SteeringSetup(
    "ours",
    SteeringConfig.parse({"law": "conserving", "alpha": 6.0, "schedule": "confidence_threshold=0.9"}),
    "conserving, where the model is in doubt",
)
ANSWERS = frozenset(("yes", "no", *COLOURS, *SHAPES))

KEYS = {
    "single": "the image alone, steered to all of it, which changes nothing: accuracy",
    "mosaic2": "2x2 mosaic, steered to the image that is asked about: accuracy",
    "mosaic3": "3x3 mosaic, steered to the image that is asked about: accuracy",
    "mosaic2_unsteered": "2x2 mosaic, unsteered: accuracy",
    "mosaic3_unsteered": "3x3 mosaic, unsteered: accuracy",
    "mosaic3_crop": "the asked image cut out of the 3x3 mosaic and shown alone, unsteered: accuracy",
    "mosaic3_random_tile": "3x3 mosaic, steered to another image, at random: accuracy on the image asked about",
    "mosaic3_random_tile_followed": "the same, judged by what the image steered to shows",
    "mosaic3_whether": "3x3 mosaic, steered: accuracy on yes/no questions",
    "mosaic3_colour": "3x3 mosaic, steered: accuracy on questions for a colour",
    "mosaic3_shape": "3x3 mosaic, steered: accuracy on questions for a shape",
    "mosaic3_named": "3x3 mosaic, steered: the thought names colour and shape of the image asked about",
    "mosaic3_malformed": "3x3 mosaic, steered: answers cut short, or none of the set's answers",
    "mosaic3_loss": "single less mosaic3: what the mosaic costs",
    "mosaic3_gain": "mosaic3 less mosaic3_unsteered: what steering gives",
}


@dataclass(frozen=True)
class TileQuestion:
    """A question of the set about one of its images."""

    tile: Tile
    question: VqaQuestion
    answer: str


def draw_tile_questions(tiles: Sequence[Tile], count: int, seed: int) -> list[TileQuestion]:
    """`count` of the tiles' own questions, at random, none twice; all of them if there are fewer."""
    everything = [TileQuestion(tile, question, answer) for tile in tiles for question, answer in tile.asked]
    order = np.random.default_rng(seed).permutation(len(everything))
    return [everything[i] for i in order[:count]]


def tile_mask(features: VisualFeatures, mosaic: Mosaic, index: int) -> Mask:
    """The region of one tile of a mosaic."""
    box = mosaic.box(index)
    weights = box_weights(features.grid, features.frame_size, box)
    return Mask(weights, label="image", score=1.0, source="roi", box=box)


class Judge:
    """Asks the models and says what came of it."""

    def __init__(self, perceiver: Perceiver, reasoner: Reasoner, setup: SteeringSetup):
        self.perceiver, self.reasoner, self.setup = perceiver, reasoner, setup

    def ask(self, question: VqaQuestion, features: VisualFeatures, mask: Mask | None = None) -> tuple[str, str, bool]:
        """Action and thought of one greedy turn, and whether it is whole; steered to `mask` if there is one."""
        setup = UNSTEERED if mask is None else self.setup
        turn = self.reasoner.generate(
            question.text,
            features,
            limits=Limits(max_new_tokens=LONGEST),
            measure_focus=False,
            **setup.arguments(mask),
        )
        return turn.action.strip(), turn.thought, not turn.cut_short

    def mosaic(self, asked: TileQuestion, mosaic: Mosaic, other: int | None = None) -> dict[str, bool]:
        """What is measured on one question about one mosaic; `other` is a tile that it is wrongly steered to."""
        index = next(i for i, tile in enumerate(mosaic.tiles) if tile is asked.tile)
        features = self.perceiver.encode(mosaic.image)
        action, thought, whole = self.ask(asked.question, features, tile_mask(features, mosaic, index))
        found = {
            "": action == asked.answer,
            f"_{asked.question.kind}": action == asked.answer,
            "_malformed": not whole or action not in ANSWERS,
            "_unsteered": self.ask(asked.question, features)[0] == asked.answer,
        }
        if asked.tile.kind:
            found["_named"] = asked.tile.name in thought
        if other is None:
            return found
        x0, y0, x1, y1 = (round(side) for side in mosaic.box(index))
        crop = self.perceiver.encode(np.ascontiguousarray(mosaic.image[y0:y1, x0:x1]))
        found["_crop"] = self.ask(asked.question, crop)[0] == asked.answer
        astray = self.ask(asked.question, features, tile_mask(features, mosaic, other))[0]
        found["_random_tile"] = astray == asked.answer
        there = mosaic.tiles[other]
        if there.kind and (asked.question.kind == "whether" or there.has(asked.question.word or there.shape)):
            found["_random_tile_followed"] = astray == there.answer(asked.question)
        return found


def measure(judge: Judge, tiles: Sequence[Tile], asked: Sequence[TileQuestion], seed: int, say=None) -> dict[str, Row]:
    """The rows of KEYS, for questions about `tiles`, whose neighbours in the mosaics come from them too."""
    hits: dict[str, list[bool]] = defaultdict(list)
    groups: dict[str, list[int]] = defaultdict(list)

    def note(key: str, hit: bool, one: TileQuestion) -> None:
        hits[key].append(hit)
        groups[key].append(one.tile.id)

    rng = np.random.default_rng([seed, 1])
    for number, one in enumerate(asked):
        alone = Mosaic((one.tile,))
        features = judge.perceiver.encode(alone.image)
        note("single", judge.ask(one.question, features, tile_mask(features, alone, 0))[0] == one.answer, one)
        for side in (2, 3):
            mosaic = draw_mosaic(rng, tiles, side, one.tile)
            others = [i for i, tile in enumerate(mosaic.tiles) if tile is not one.tile]
            other = int(rng.choice(others)) if side == 3 else None
            for key, hit in judge.mosaic(one, mosaic, other).items():
                note(f"mosaic{side}{key}", hit, one)
        if say is not None and (number + 1) % 100 == 0:
            say(f"vqa: {number + 1} of {len(asked)} questions")
    rows = {key: share(hits[key], groups[key]) for key in KEYS if key in hits}
    rows["mosaic3_loss"] = difference(hits["single"], hits["mosaic3"], groups["single"])
    rows["mosaic3_gain"] = difference(hits["mosaic3"], hits["mosaic3_unsteered"], groups["single"])
    return rows


def run(options: EvalConfig) -> dict[str, Row]:
    """The suite, on easy-VQA's test split."""
    perceiver, reasoner = options.perceiver(PERCEPTION), options.reasoner(REASONING)
    tiles = load_tiles("test")
    seed = options.first_seed(VQA_SEED)
    asked = draw_tile_questions(tiles, options.size(QUESTIONS), seed)
    judge = Judge(perceiver, reasoner, options.setup_for(reasoner, untuned=SETUP))
    return measure(judge, tiles, asked, seed, options.progress)
