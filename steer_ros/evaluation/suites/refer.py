"""Suite `refer`: is what the region holds named rightly, and are questions about it answered rightly?

After ROC and RTC (ControlMLLM), with the questions that lab-r1 was trained on. `naming` asks what the region holds
without naming it, among the other objects of the scene: its colour, its shape, and its name. `yes_no` is "Is there a
…?", for the region's own object or for something that the whole scene lacks and that shares a word with the region's
object, half each: so what is true of the region is true of the scene, and steering can only help or harm. "Is it a
beaker?" is a question that lab-r1 does not know, and is not asked.

Controls: the same questions unsteered, and steered to a region of the same size elsewhere in the frame.
"""

from __future__ import annotations

import numpy as np

from ...lab.scenes.instructions import OPEN, exists_answer
from ...lab.scenes.scene import COLOURS, SHAPES
from ...lab.scenes.visible_objects import VisibleObject, matching
from ...lab.seeds import REFER_SEEDS
from ...reasoning import Reasoner, Turn
from ..harness.answer_grammar import action_matches, mentions
from ..harness.cases import Case, cases, check
from ..harness.eval_config import EvalConfig
from ..harness.intervals import Row
from ..harness.results import Results, run_parallel
from ..harness.steering_setup import UNSTEERED, SteeringSetup
from ..harness.turns import ask

SALT = 2
SCENES = 40  # some 160 objects, 1,600 turns
ASKED = {"colour": "colour", "shape": "shape", "name": "describe"}  # what is asked → the open instruction for it

KEYS = {
    "naming": "what the region holds is named rightly: colour, shape and name together",
    "naming_colour": "its colour",
    "naming_shape": 'its shape ("What is it?")',
    "naming_name": "colour and shape in the description of one object, its place aside",
    "naming_unsteered": "naming without steering: the same questions",
    "naming_random_region": "naming of the object while a region of the same size elsewhere is steered to",
    "yes_no": '"Is there a …?" about the region\'s object, or about what is neither in it nor in the scene',
    "yes_no_unsteered": "the same without steering",
    "yes_no_random_region": "the same, steered to a region of the same size elsewhere",
    "yes_share": "how often the steered answer is yes (half of them should be)",
    "yes_share_unsteered": "how often the unsteered answer is yes",
    "elsewhere_no": "no to what the scene has, but not in the region: how far a yes or no is about the region alone",
}


def run(options: EvalConfig) -> dict[str, Row]:
    """Ask and judge. Keys: see KEYS."""
    check(options, SCENES)
    return run_parallel(options, part, options.size(SCENES)).shares(KEYS)


def part(options: EvalConfig, index: int, of: int) -> Results:
    """The questions about every of-th scene from `index` on."""
    perceiver, reasoner = options.perceiver(), options.reasoner()
    setup, results, count = options.setup_for(reasoner), Results(), options.size(SCENES)
    first = options.first_seed(REFER_SEEDS.start)
    for done, case in enumerate(cases(perceiver, first, count, options.data, names=2, part=(index, of)), 1):
        refer(reasoner, case, setup, results)
        if done % 5 == 0:
            options.progress(f"refer: {done * of} of {count} scenes")
    return results


def refer(reasoner: Reasoner, case: Case, setup: SteeringSetup, results: Results) -> None:
    """All questions about one scene."""
    rng = case.rng(SALT)
    prompts = {what: str(rng.choice(OPEN[kind])) for what, kind in ASKED.items()}
    plain = {what: ask(reasoner, case.features, prompt, UNSTEERED, None) for what, prompt in prompts.items()}
    for target in case.objects:
        weights, elsewhere = case.weights(target), case.weights(case.elsewhere(target, rng))
        for what, prompt in prompts.items():
            hit = named(what, ask(reasoner, case.features, prompt, setup, weights), target)
            results.add("naming", hit, case.scene)
            results.add(f"naming_{what}", hit, case.scene)
            results.add("naming_unsteered", named(what, plain[what], target), case.scene)
            other = ask(reasoner, case.features, prompt, setup, elsewhere)
            results.add("naming_random_region", named(what, other, target), case.scene)
        _yes_no(reasoner, case, target, weights, elsewhere, setup, rng, results)


def named(what: str, turn: Turn, target: VisibleObject) -> bool:
    """Whether the answer gives the target's colour, shape or name."""
    if what == "name":
        return mentions(turn.action) == [target.name]
    return action_matches(ASKED[what], turn, target)


def _yes_no(
    reasoner: Reasoner,
    case: Case,
    target: VisibleObject,
    weights: np.ndarray,
    elsewhere: np.ndarray,
    setup: SteeringSetup,
    rng: np.random.Generator,
    results: Results,
) -> None:
    there = bool(rng.random() < 0.5)
    thing = target.name if there else absent_near(case.objects, target, rng)
    if thing is None:
        return
    question = exists_answer(thing, [target] if there else [])
    for key, how, region in (
        ("", setup, weights),
        ("_unsteered", UNSTEERED, None),
        ("_random_region", setup, elsewhere),
    ):
        action = ask(reasoner, case.features, question.prompt, how, region).action.strip()
        results.add(f"yes_no{key}", action == question.action, case.scene)
        results.add(f"yes_share{key}", action == "Yes.", case.scene)
    others = [obj.name for obj in case.objects if obj.name != target.name]
    if others:
        prompt = exists_answer(str(rng.choice(others)), [target]).prompt
        action = ask(reasoner, case.features, prompt, setup, weights).action.strip()
        results.add("elsewhere_no", action == "No.", case.scene)


def absent_near(objects: tuple[VisibleObject, ...], target: VisibleObject, rng: np.random.Generator) -> str | None:
    """A name that no object of the scene bears, with one of the target's two words; None if there is none."""
    near = [(colour, target.shape) for colour in COLOURS] + [(target.colour, shape) for shape in SHAPES]
    free = [f"{colour} {shape}" for colour, shape in near if not matching(objects, colour, shape)]
    return str(rng.choice(free)) if free else None
