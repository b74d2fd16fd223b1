"""`steer-ros examine`: how good the built-in models are, unsteered and steered, on scenes they were not trained on."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict

import numpy as np

from ..commands.arguments import output_file, renamed_to, whole_number
from ..lab.scenes.instructions import OPEN, exists_dialogue, open_action, open_dialogue
from ..lab.scenes.render import SIDE, RenderedScene, render
from ..lab.scenes.scene import COLOURS, SHAPES, make_scene
from ..lab.scenes.visible_objects import VisibleObject, matching, visible_objects_of
from ..lab.seeds import EXAMINE_SEEDS, FIRST_TRAINING_SEED
from ..models.loading import ModelLoadError
from ..perception.perceiver import Perceiver
from ..reasoning.reasoner import Reasoner
from ..regions.boxes import iou
from ..regions.mask import Mask, box_weights
from ..steering import Law, UnsteerableModelError, make_law
from ..steering.laws import LAW_NAMES
from .harness.intervals import wilson


def object_in_action(task: str, action: str, objects: tuple[VisibleObject, ...]) -> VisibleObject | None:
    """The object of the scene that a whole, well-formed answer is about; ``None`` for any other text."""
    return next((o for o in objects if action.strip() == open_action(task, o)), None)


def names_only_what_is_there(text: str, objects: tuple[VisibleObject, ...]) -> bool:
    """Whether a text names at least one object by colour and shape, and none that the scene does not hold."""
    named = re.findall(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b", text)
    return bool(named) and all(matching(objects, colour, shape) for colour, shape in named)


def examine_grounding(perceiver: Perceiver, frame: RenderedScene, features, rng, judged: dict) -> None:
    """One named object of the frame: is it found, and how well does the box fit?"""
    objects = visible_objects_of(frame)
    target = objects[int(rng.integers(len(objects)))]
    found = perceiver.ground(target.name, features)
    same = [o for o in frame.objects if o.name == target.name and o.box is not None]
    judged["grounding_found"].append(bool(found))
    if not found:
        judged["grounding_pointing"].append(False)
        judged["grounding_iou"].append(0.0)
        return
    x, y = ((found[0].box[i] + found[0].box[i + 2]) / 2 for i in (0, 1))
    row, col = min(int(y), frame.image.shape[0] - 1), min(int(x), frame.image.shape[1] - 1)
    judged["grounding_pointing"].append(any(bool(o.mask[row, col]) for o in same))
    judged["grounding_iou"].append(max(iou(found[0].box, o.box) for o in same))
    judged["grounding_no_false_box"].append(all(any(iou(g.box, o.box) > 0.1 for o in same) for g in found))
    absent = next(
        (f"{o.colour} {g.shape}" for o in objects for g in objects if not matching(objects, o.colour, g.shape)),
        None,
    )
    if absent:
        judged["grounding_absent_refused"].append(not perceiver.ground(absent, features))


def examine_steering(reasoner: Reasoner, frame: RenderedScene, features, rng, law: Law, judged: dict) -> None:
    """One object of the frame, its true box as the region, and an instruction that leaves the object open."""
    objects = visible_objects_of(frame)
    target = objects[int(rng.integers(len(objects)))]
    frame_size = features.frame_size
    box = tuple(float(c * side) for c, side in zip(target.box, frame_size * 2))
    mask = Mask(
        weights=box_weights(features.grid, frame_size, box),
        label=target.name,
        track_id=target.id,
        score=1.0,
        strength=1.0,
        source="roi",
        box=box,
    )
    for name, steering in (("follows_unsteered", None), ("follows_steered", mask)):
        turn = reasoner.generate(OPEN["pick"][0], features, steering, measure_focus=False, config={"law": law})
        judged[name].append(turn.action.strip() == open_action("pick", target))


def examine(
    perceiver: Perceiver,
    reasoner: Reasoner,
    scenes: int,
    seed: int = EXAMINE_SEEDS.start,
    law: Law | None = None,
    frame_size: tuple[int, int] = (SIDE, SIDE),
) -> dict[str, dict]:
    """Run the examination.

    Args:
        law: how the one steered measure, ``follows_steered``, is steered; ``None``: conserving, alpha 2.
        frame_size: (width, height) of the frames in pixels.

    Returns:
        ``{measure: {"value", "n", "low", "high"}}``; shares as 0-1 with 95% intervals.
    """
    judged: dict[str, list] = defaultdict(list)
    rng = np.random.default_rng(seed)
    for index in range(scenes):
        frame = render(make_scene(seed + index), *frame_size)
        objects = visible_objects_of(frame)
        features = perceiver.encode(frame.image)
        examine_grounding(perceiver, frame, features, rng, judged)
        dialogue = open_dialogue(rng, objects)
        turn = reasoner.generate(prompt=dialogue.prompt, frames=features)
        named = object_in_action(dialogue.task, turn.action, objects)
        judged["open_in_scene"].append(named is not None)
        judged["open_names_one"].append(names_only_what_is_there(f"{turn.thought} {turn.action}", objects))
        judged[f"open_in_scene_{dialogue.task}"].append(named is not None)
        question = exists_dialogue(rng, objects)
        turn = reasoner.generate(prompt=question.prompt, frames=features)
        judged["yes_no"].append(turn.action.strip() == question.action)
        judged["yes_share"].append(turn.action.strip() == "Yes.")
        examine_steering(reasoner, frame, features, rng, law or make_law("conserving", 2.0), judged)
    result = {}
    for name, values in sorted(judged.items()):
        n, mean = len(values), float(np.mean(values))
        if name == "grounding_iou":
            spread = 1.96 * float(np.std(values)) / np.sqrt(n)
            low, high = mean - spread, mean + spread
        else:
            low, high = wilson(float(np.sum(values)), n)
        result[name] = {"value": mean, "n": n, "low": low, "high": high}
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``steer-ros examine``."""
    parser.add_argument("--perception", default="builtin:lab-vl", help="vision-language model")
    parser.add_argument("--reasoning", default="builtin:lab-r1", help="reasoner")
    parser.add_argument("--scenes", type=whole_number(1), default=300, help="held-out scenes")
    seed = whole_number(0, FIRST_TRAINING_SEED - 1)
    parser.add_argument(
        "--seed", type=seed, default=EXAMINE_SEEDS.start, help="first scene's seed; training's are not taken"
    )
    side = whole_number(28, 4096)
    parser.add_argument("--width", type=side, default=SIDE, help="of the frames, pixels")
    parser.add_argument("--height", type=side, default=SIDE, help="of the frames, pixels")
    parser.add_argument("--law", choices=LAW_NAMES, default="conserving", help="of the steered measure")
    parser.add_argument("--alpha", type=float, help="alpha of the steered measure; default: the law's usual one")
    parser.add_argument("--setpoint", type=float, help="what share and target aim at")
    parser.add_argument("--mark", type=renamed_to("--setpoint"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=output_file, help="also write the result here")


def main(args: argparse.Namespace) -> int:
    """Examine, print a table, write JSON when asked."""
    try:
        if args.seed + args.scenes > FIRST_TRAINING_SEED:
            raise ValueError(
                f"--scenes: {args.scenes}; accepted are scenes whose seeds stay below {FIRST_TRAINING_SEED}"
            )
        given = {} if args.alpha is None else {"alpha": args.alpha}
        law = make_law(args.law, setpoint=args.setpoint, **given)
        perceiver, reasoner = Perceiver.from_pretrained(args.perception), Reasoner.from_pretrained(args.reasoning)
    except (ValueError, ModelLoadError, UnsteerableModelError) as error:
        print(f"steer-ros examine: {error}", file=sys.stderr)
        return 2
    result = examine(perceiver, reasoner, args.scenes, args.seed, law, (args.width, args.height))
    print(f"{'measure':28} {'value':>7} {'95% interval':>16} {'n':>5}")
    for name, row in result.items():
        print(f"{name:28} {row['value']:7.3f} {row['low']:7.3f} - {row['high']:.3f} {row['n']:5d}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0
