"""Suite `harm`: what steering breaks. A region is steered to while the question is about something else.

For each object of each held-out scene as the region: where another object is, to pick it up (both by name), whether
something is there (half of it is), each asked steered and, right after or right before, unsteered. `off_region_loss`
is how much accuracy the region costs, paired. From the same answers come the recall and precision of yes, malformed
and repeating answers, and the time of a token with steering over that without, side by side.

`extreme_malformed` asks "Pick up one object." with regions at the edge of sense: the whole frame, one token, a corner
of the frame, and the object's own at a strength of 50.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ...lab.scenes.instructions import OPEN, Dialogue, exists_answer
from ...lab.scenes.visible_objects import VisibleObject, matching
from ...lab.seeds import HARM_SEEDS
from ...reasoning import Reasoner
from ..harness.answer_grammar import another, malformed, repeats
from ..harness.cases import Case, cases, check
from ..harness.eval_config import EvalConfig
from ..harness.intervals import Row, bootstrap
from ..harness.results import Results, run_parallel
from ..harness.steering_setup import UNSTEERED, SteeringSetup
from ..harness.turns import ask
from .refer import absent_near

SALT = 3
SCENES = 40  # some 150 objects, 1,800 turns
STRONG = 50.0

KEYS = {
    "off_region_loss": "accuracy of questions about something else than the region: unsteered less steered",
    "off_region_steered": "accuracy steered",
    "off_region_unsteered": "accuracy unsteered: the same questions",
    "loss_where": '… of "Where is the red beaker?"',
    "loss_pick": '… of "Pick up the red beaker."',
    "loss_exists": '… of "Is there a red beaker?"',
    "recall": "yes, steered, to what is there but not in the region",
    "recall_unsteered": "the same without steering",
    "precision": "of the steered yeses, those to what is there",
    "precision_unsteered": "the same without steering",
    "malformed": "answers that the grammar does not have, or that were cut; steered",
    "malformed_unsteered": "the same without steering",
    "repetition": "answers that go round in circles; steered",
    "repetition_unsteered": "the same without steering",
    "extreme_malformed": "malformed, of regions at the edge of sense: whole frame, one token, a corner, strength 50",
    "latency_ratio": "time of a token with steering over that without, question by question",
}


def run(options: EvalConfig) -> dict[str, Row]:
    """Ask and judge. Keys: see KEYS."""
    check(options, SCENES)
    results = run_parallel(options, part, options.size(SCENES))
    rows = results.shares(KEYS)
    rows["off_region_loss"] = results.paired_difference("off_region_unsteered", "off_region_steered")
    for kind in ("where", "pick", "exists"):
        if f"{kind}_unsteered" in results:
            rows[f"loss_{kind}"] = results.paired_difference(f"{kind}_unsteered", f"{kind}_steered")
    rows["latency_ratio"] = latency_ratio(results)
    return {key: rows[key] for key in KEYS if key in rows}


def part(options: EvalConfig, index: int, of: int) -> Results:
    """The questions about every of-th scene from `index` on."""
    perceiver, reasoner = options.perceiver(), options.reasoner()
    setup, results, count = options.setup_for(reasoner), Results(), options.size(SCENES)
    first = options.first_seed(HARM_SEEDS.start)
    for done, case in enumerate(cases(perceiver, first, count, options.data, names=2, part=(index, of)), 1):
        harm(reasoner, case, setup, results)
        if done % 5 == 0:
            options.progress(f"harm: {done * of} of {count} scenes")
    return results


def latency_ratio(results: Results) -> Row:
    """Time of a token steered over that unsteered, summed over the questions."""
    columns = [results.values(f"{what}_{how}") for how in ("steered", "unsteered") for what in ("ms", "tokens")]
    return bootstrap(
        lambda ms, n, ms0, n0: float((ms.sum() / n.sum()) / (ms0.sum() / n0.sum())),
        *columns,
        groups=results.scenes("ms_steered"),
    )


def harm(reasoner: Reasoner, case: Case, setup: SteeringSetup, results: Results) -> None:
    """All questions about one scene."""
    rng = case.rng(SALT)
    for index, target in enumerate(case.objects):
        weights = case.weights(target)
        for number, (kind, question, right) in enumerate(off_region(case.objects, target, rng)):
            asked = [("steered", setup, weights), ("unsteered", UNSTEERED, None)]
            turns = {}
            for how, with_, region in asked if (index + number) % 2 else reversed(asked):
                turns[how] = ask(reasoner, case.features, question.prompt, with_, region)
            for how, turn in turns.items():
                suffix, action = "" if how == "steered" else "_unsteered", turn.action.strip()
                hit = action in right
                results.add(f"ms_{how}", turn.timings["prefill"] + turn.timings["decode"], case.scene)
                results.add(f"tokens_{how}", len(turn.output_ids), case.scene)
                results.add(f"off_region_{how}", hit, case.scene)
                results.add(f"{kind}_{how}", hit, case.scene)
                form = "exists" if kind == "exists" else "named"
                results.add(f"malformed{suffix}", malformed(form, turn), case.scene)
                results.add(f"repetition{suffix}", repeats(turn), case.scene)
                if kind == "exists" and question.action == "Yes.":
                    results.add(f"recall{suffix}", action == "Yes.", case.scene)
                if kind == "exists" and action == "Yes.":
                    results.add(f"precision{suffix}", question.action == "Yes.", case.scene)
        if index == 0 and setup.steers:
            for how, region in extremes(case, target, setup):
                turn = ask(reasoner, case.features, OPEN["pick"][0], how, region)
                results.add("extreme_malformed", malformed("pick", turn), case.scene)


def off_region(
    objects: tuple[VisibleObject, ...], region: VisibleObject, rng: np.random.Generator
) -> Iterator[tuple[str, Dialogue, set[str]]]:
    """(kind, question, right actions) about anything but the region's object."""
    other = another(objects, region)
    if other is not None:
        same = matching(objects, other.colour, other.shape)
        places = {f"It is at the {obj.place}." for obj in same}
        yield "where", Dialogue("named", f"Where is the {other.name}?", "", ""), places
        picked = f"Pick up the {other.name}."
        yield "pick", Dialogue("named", picked, "", picked), {picked}
        question = exists_answer(other.name, same)
        yield "exists", question, {question.action}
    thing = absent_near(objects, region, rng)
    if thing is not None:
        question = exists_answer(thing, [])
        yield "exists", question, {question.action}


def extremes(case: Case, target: VisibleObject, setup: SteeringSetup) -> Iterator[tuple[SteeringSetup, np.ndarray]]:
    """(setup, weights) at the edge of sense."""
    width, height = case.features.frame_size
    side = (width / case.features.grid.token_cols, height / case.features.grid.token_rows)
    yield setup, case.weights((0.0, 0.0, float(width), float(height)))
    row, col = case.features.grid.token_rows // 2, case.features.grid.token_cols // 2
    yield setup, case.weights((col * side[0], row * side[1], (col + 1) * side[0], (row + 1) * side[1]))
    yield setup, case.weights((width - 1.5 * side[0], height - 1.5 * side[1], width + 40.0, height + 40.0))
    strong = replace(setup.config, law=replace(setup.config.law, alpha=STRONG))
    yield replace(setup, config=strong), case.weights(target)
