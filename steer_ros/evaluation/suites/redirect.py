"""Suite `redirect`: the region moves from object to object of a scene; does the answer follow, whole?

Each object of each held-out scene is the region once (its true box), and each open instruction is asked: the answer is
right when its action is, word for word, the one about that object, and its thought names that object and no other.
The main number is that of the instructions whose answers name an object ("pick", "describe"); the others ("What colour
is it?") are reported by kind. The unsteered answer to the same question is judged the same way, and so is the one
steered to a region of the same size elsewhere.

Two switches while the answer is written: `switch_followed` moves the region to another object right after the thought
has named the first, and asks that the action be about the new one; `switch_early` moves it at a token drawn at random
before the name begins, and asks that everything after be about the new one. With the guard on, an answer whose region
moves away is begun anew under the new one; `switch_unguarded` is what attention alone does to the words that follow.

Strength: five settings from half to twice the setting's own (see `steering_setup.scaled`), on the same questions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...lab.scenes.instructions import OPEN, OPENING
from ...lab.scenes.visible_objects import VisibleObject
from ...lab.seeds import REDIRECT_SEEDS
from ...perception import Perceiver
from ...reasoning import Reasoner
from ...regions.boxes import iou
from ..harness.answer_grammar import (
    KINDS,
    NAMING,
    action_matches,
    action_matches_strictly,
    another,
    exact_match,
    first_mention,
    malformed,
)
from ..harness.cases import Case, cases, check
from ..harness.eval_config import EvalConfig
from ..harness.intervals import Row, worst
from ..harness.results import Results, run_parallel
from ..harness.steering_setup import STEPS, UNSTEERED, SteeringSetup, scaled
from ..harness.turns import after_tokens, ask, ask_switching, named_one, opening_tokens

SALT = 1
SCENES = 40  # some 160 objects, 2,000 turns
MEAN_AREA = 0.035  # of a lab object's box in the frame; only the strength of share and target is counted from it

KEYS = {
    "whole_answer": "answers right from first word to last, of pick and describe, region from the true box",
    "whole_pick": '… of "Pick up one object." and the like',
    "whole_describe": '… of "Describe one object.", place included (two thirds of the image share their border)',
    "exact_describe": "… by the third that the centre lies in, border or not",
    "whole_colour": '… of "What colour is it?"',
    "whole_shape": '… of "What shape is it?"',
    "whole_where": '… of "Where is it?"',
    "first_mention": "the first object named is the region's, pick and describe",
    "malformed": "answers of any kind that the grammar does not have, or that were cut",
    "unsteered": "whole_answer without steering: the same questions, greedy",
    "unsteered_malformed": "malformed without steering",
    "wrong_region": "whole_answer (pick) about the object while a region of the same size elsewhere is steered to",
    "perceived": "whole_answer (pick) with the region that perception grounds for the object's name",
    "perceived_found": "perception's box overlaps an object of that name (IoU of at least 0.5)",
    "range4x_min": "whole_answer at the worst of five strengths from half to twice the setting's",
    **{f"range4x_{i + 1}": f"… at {step:.3g} times the strength" for i, step in enumerate(STEPS)},
    "switch_followed": "region moved after the thought's first mention: the action is right about the new object",
    "switch_unguarded": "the same without the guard, which begins an answer anew when its region moves away",
    "switch_early": "region moved at a random token before the name: the whole answer is about the new object",
}


def run(options: EvalConfig) -> dict[str, Row]:
    """Ask and judge. Keys: see KEYS; those of strength and switches are left out where nothing is steered."""
    check(options, SCENES)
    results = run_parallel(options, part, options.size(SCENES))
    rows = results.shares(KEYS)
    points = [rows[key] for key in rows if key.startswith("range4x_")]
    if points:
        rows["range4x_min"] = worst(points)
    return {key: rows[key] for key in KEYS if key in rows}


def part(options: EvalConfig, index: int, of: int) -> Results:
    """The questions about every of-th scene from `index` on."""
    perceiver, reasoner = options.perceiver(), options.reasoner()
    setup, results, count = options.setup_for(reasoner), Results(), options.size(SCENES)
    first = options.first_seed(REDIRECT_SEEDS.start)
    for done, case in enumerate(cases(perceiver, first, count, options.data, names=2, part=(index, of)), 1):
        redirect(perceiver, reasoner, case, setup, results)
        if done % 5 == 0:
            options.progress(f"redirect: {done * of} of {count} scenes")
    return results


def redirect(perceiver: Perceiver, reasoner: Reasoner, case: Case, setup: SteeringSetup, results: Results) -> None:
    """All questions about one scene."""
    features, scene, rng = case.features, case.scene, case.rng(SALT)
    prompts = {kind: str(rng.choice(OPEN[kind])) for kind in KINDS}
    plain = {kind: ask(reasoner, features, prompts[kind], UNSTEERED, None) for kind in KINDS}
    for kind, turn in plain.items():
        results.add("unsteered_malformed", malformed(kind, turn), scene)
    for index, target in enumerate(case.objects):
        weights = case.weights(target)
        right = {}
        for kind in KINDS:
            turn = ask(reasoner, features, prompts[kind], setup, weights)
            right[kind] = exact_match(kind, turn, target)
            results.add(f"whole_{kind}", right[kind], scene)
            if kind == "describe":
                results.add("exact_describe", right[kind] and action_matches_strictly(kind, turn, target), scene)
            results.add("malformed", malformed(kind, turn), scene)
            if kind in NAMING:
                results.add("whole_answer", right[kind], scene)
                results.add("first_mention", first_mention(turn) == target.name, scene)
                results.add("unsteered", exact_match(kind, plain[kind], target), scene)
        elsewhere = case.weights(case.elsewhere(target, rng))
        results.add(
            "wrong_region",
            exact_match("pick", ask(reasoner, features, prompts["pick"], setup, elsewhere), target),
            scene,
        )
        _perceived(perceiver, reasoner, case, target, prompts["pick"], setup, results)
        if not setup.steers:
            continue
        kind = NAMING[index % len(NAMING)]
        for number, step in enumerate(STEPS):
            hit = right[kind]
            if step != 1.0:
                turn = ask(reasoner, features, prompts[kind], scaled(setup, step, MEAN_AREA), weights)
                hit = exact_match(kind, turn, target)
            results.add(f"range4x_{number + 1}", hit, scene)
        _switches(reasoner, case, target, kind, prompts[kind], setup, rng, results)


def _perceived(
    perceiver: Perceiver,
    reasoner: Reasoner,
    case: Case,
    target: VisibleObject,
    prompt: str,
    setup: SteeringSetup,
    results: Results,
) -> None:
    """The same with the region from perception: the first box that it grounds for the object's name."""
    found = perceiver.ground(target.name, case.features)
    same = [case.box(obj) for obj in case.objects if obj.name == target.name]
    results.add("perceived_found", bool(found) and any(iou(found[0].box, box) >= 0.5 for box in same), case.scene)
    weights = case.weights(found[0].box) if found else None
    turn = ask(reasoner, case.features, prompt, setup, weights)
    results.add("perceived", exact_match("pick", turn, target), case.scene)


def _switches(
    reasoner: Reasoner,
    case: Case,
    target: VisibleObject,
    kind: str,
    prompt: str,
    setup: SteeringSetup,
    rng: np.random.Generator,
    results: Results,
) -> None:
    """The region moves to another object while the answer is written."""
    other = another(case.objects, target)
    if other is None:
        return
    first, second = case.weights(target), case.weights(other)
    turn, switched = ask_switching(reasoner, case.features, prompt, setup, first, second, named_one)
    results.add("switch_followed", switched and action_matches(kind, turn, other), case.scene)
    turn, switched = ask_switching(
        reasoner,
        case.features,
        prompt,
        replace(setup, config=replace(setup.config, guard=None)),
        first,
        second,
        named_one,
    )
    results.add("switch_unguarded", switched and action_matches(kind, turn, other), case.scene)
    due = after_tokens(int(rng.integers(1, opening_tokens(reasoner, OPENING) + 1)))
    turn, switched = ask_switching(reasoner, case.features, prompt, setup, first, second, due)
    results.add("switch_early", switched and exact_match(kind, turn, other), case.scene)
