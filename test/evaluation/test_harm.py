"""Suite harm: what a region costs the questions that are about something else."""

import numpy as np
import pytest
from evaluation_helpers import World

from steer_ros.evaluation.harness.cases import cases
from steer_ros.evaluation.harness.results import Results
from steer_ros.evaluation.harness.steering_setup import UNSTEERED, SteeringSetup
from steer_ros.evaluation.suites import harm
from steer_ros.lab.scenes.visible_objects import VisibleObject
from steer_ros.lab.seeds import HARM_SEEDS
from steer_ros.reasoning import Turn
from steer_ros.steering import SteeringConfig, make_law

RED = VisibleObject("object_1", "red", "cube", (0.1, 0.1, 0.3, 0.3))
BLUE = VisibleObject("object_2", "blue", "dish", (0.6, 0.6, 0.9, 0.8))
DUPLICATE = VisibleObject("object_3", "blue", "dish", (0.1, 0.6, 0.3, 0.9))
SETUP = SteeringSetup("test", SteeringConfig(make_law("conserving", 2.0)))


class Brittle(World):
    """Answers nothing but "No." while a region is steered to."""

    def generate(self, prompt, features, masks=None, **given) -> Turn:
        turn = super().generate(prompt, features, masks, **given)
        if masks is not None:
            turn.action = "No."
        return turn


def run(world, scenes=3):
    world.learn_seeds(HARM_SEEDS.start, 2 * scenes + 2)
    return harm.run(world.options(limit=scenes, setup=SETUP))


def test_a_reasoner_that_steering_does_not_harm():
    world = World("follow")
    rows = run(world)
    assert set(rows) == set(harm.KEYS)
    assert rows["off_region_loss"]["value"] == 0.0 == rows["loss_where"]["value"]
    assert rows["recall"]["value"] == rows["precision"]["value"] == 1.0
    assert rows["malformed"]["value"] == rows["repetition"]["value"] == rows["extreme_malformed"]["value"] == 0.0
    assert rows["latency_ratio"]["value"] == pytest.approx(1.0)
    assert world.encoded == 3


def test_harm_shows():
    rows = run(Brittle("follow"), scenes=8)  # three would not rule out chance
    assert rows["off_region_steered"]["value"] < 0.5 < rows["off_region_unsteered"]["value"]
    expected = rows["off_region_unsteered"]["value"] - rows["off_region_steered"]["value"]
    assert rows["off_region_loss"]["value"] == pytest.approx(expected)
    assert rows["off_region_loss"]["low"] > 0.0
    assert rows["recall"]["value"] == 0.0 and rows["recall_unsteered"]["value"] == 1.0
    assert rows["malformed"]["value"] > 0.0 == rows["malformed_unsteered"]["value"]


def test_questions_are_about_anything_but_the_region():
    asked = list(harm.off_region((RED, BLUE, DUPLICATE), RED, np.random.default_rng(0)))
    assert [kind for kind, _, _ in asked] == ["where", "pick", "exists", "exists"]
    assert asked[0][1].prompt == "Where is the blue dish?"
    assert asked[0][2] == {f"It is at the {o.place}." for o in (BLUE, DUPLICATE)}  # either of the duplicates
    assert [right for *_, right in asked[2:]] == [{"Yes."}, {"No."}]
    alone = list(harm.off_region((RED,), RED, np.random.default_rng(0)))
    assert [kind for kind, _, _ in alone] == ["exists"]


def test_regions_at_the_edge_of_sense():
    case = next(cases(World(), HARM_SEEDS.start, 1))
    whole, token, corner, strong = harm.extremes(case, case.objects[0], SETUP)
    assert (whole[1] == 127).all()
    assert (token[1] != 0).sum() == 4  # patches of one token
    assert corner[1][-1, -1] == 127 and (corner[1] != 0).sum() <= 9
    assert strong[0].config.law.alpha == 50.0 and SETUP.config.law.alpha == 2.0


def test_what_is_not_steered_has_no_extremes():
    results = Results()
    world = World("follow")
    world.learn_seeds(HARM_SEEDS.start, 3)
    harm.harm(world, next(cases(world, HARM_SEEDS.start, 1, names=2)), UNSTEERED, results)
    assert "extreme_malformed" not in results and "off_region_steered" in results
