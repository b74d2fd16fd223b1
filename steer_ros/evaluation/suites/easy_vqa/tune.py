"""How strongly to steer the vqa suite's models: accuracy on 3x3 mosaics of images kept from training, by strength.

    python -m steer_ros.evaluation.suites.easy_vqa.tune

`suite.SETUP` was chosen by it; no test image takes part.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch

from ....commands.arguments import whole_number
from ....lab.seeds import VQA_SEED
from ....perception import Perceiver
from ....reasoning import Reasoner
from ....steering import SETPOINT_LAWS, Schedule, SteeringConfig
from ...harness.intervals import Row, share
from ...harness.steering_setup import UNSTEERED, SteeringSetup
from .data import Tile, draw_mosaic, load_tiles
from .suite import PERCEPTION, REASONING, Judge, TileQuestion, draw_tile_questions, tile_mask

STRENGTHS = {
    "additive": (1.0, 2.0, 4.0, 8.0),
    "conserving": (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0),
    "share": (0.7, 0.9, 0.97, 0.99),
}


def by_setup(
    perceiver: Perceiver,
    reasoner: Reasoner,
    setups: Sequence[SteeringSetup],
    tiles: Sequence[Tile],
    asked: Sequence[TileQuestion],
    seed: int = VQA_SEED,
) -> list[Row]:
    """Accuracy on the same questions about the same 3x3 mosaics, steered in each of the ways."""
    rng = np.random.default_rng([seed, 2])
    judges = [Judge(perceiver, reasoner, setup) for setup in setups]
    hits: list[list[bool]] = [[] for _ in setups]
    for one in asked:
        mosaic = draw_mosaic(rng, tiles, 3, one.tile)
        features = perceiver.encode(mosaic.image)
        index = next(i for i, tile in enumerate(mosaic.tiles) if tile is one.tile)
        mask = tile_mask(features, mosaic, index)
        for found, judge in zip(hits, judges):
            found.append(judge.ask(one.question, features, mask)[0] == one.answer)
    return [share(found, [one.tile.id for one in asked]) for found in hits]


def _setup(law: str, strength: float, schedule: str) -> SteeringSetup:
    number = "setpoint" if law in SETPOINT_LAWS else "alpha"
    config = SteeringConfig.parse({"law": law, number: strength, "schedule": schedule})
    return SteeringSetup(f"{law} {strength:g} {schedule}", config)


def _schedule(text: str) -> str:
    try:
        Schedule.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """The command: one line for each setting."""
    parser = argparse.ArgumentParser(prog="python -m steer_ros.evaluation.suites.easy_vqa.tune", description=__doc__)
    parser.add_argument("--perception", default=PERCEPTION, help="vision-language model")
    parser.add_argument("--reasoning", default=REASONING, help="reasoner")
    parser.add_argument("--questions", type=whole_number(1), default=150, help="about images kept from training")
    parser.add_argument("--laws", nargs="+", default=list(STRENGTHS), choices=list(STRENGTHS), help="to be compared")
    schedules = ["constant", "confidence_threshold=0.9"]
    parser.add_argument("--schedules", nargs="+", type=_schedule, default=schedules, help="to be compared")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    perceiver, reasoner = Perceiver.from_pretrained(args.perception), Reasoner.from_pretrained(args.reasoning)
    tiles = load_tiles("tune")
    asked = draw_tile_questions(tiles, args.questions, VQA_SEED)
    ways = [(law, strength, run) for run in args.schedules for law in args.laws for strength in STRENGTHS[law]]
    setups = [UNSTEERED, *(_setup(*way) for way in ways)]
    for setup, row in zip(setups, by_setup(perceiver, reasoner, setups, tiles, asked)):
        print(f"{setup.name:24} {row['value']:.3f}  {row['low']:.3f} - {row['high']:.3f}  n {row['n']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
