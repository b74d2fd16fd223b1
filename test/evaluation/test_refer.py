"""Suite refer: naming what the region holds, and yes or no about it."""

import numpy as np
import pytest
from evaluation_helpers import World

from steer_ros.evaluation.harness.steering_setup import SteeringSetup
from steer_ros.evaluation.suites import refer
from steer_ros.lab.scenes.scene import COLOURS
from steer_ros.lab.scenes.visible_objects import VisibleObject, matching
from steer_ros.lab.seeds import REFER_SEEDS
from steer_ros.reasoning import Turn
from steer_ros.steering import SteeringConfig, make_law

RED = VisibleObject("object_1", "red", "cube", (0.1, 0.1, 0.3, 0.3))
SETUP = SteeringSetup("test", SteeringConfig(make_law("conserving", 2.0)))


def run(mood):
    world = World(mood)
    world.learn_seeds(REFER_SEEDS.start, 8)
    return world, refer.run(world.options(limit=3, setup=SETUP))


def test_a_reasoner_that_follows_names_everything():
    world, rows = run("follow")
    assert set(rows) == set(refer.KEYS)
    assert rows["naming"]["value"] == 1.0 and rows["naming_name"]["value"] == 1.0
    assert rows["naming"]["n"] == sum(rows[f"naming_{what}"]["n"] for what in ("colour", "shape", "name"))
    assert rows["naming_unsteered"]["value"] < 1.0 and rows["naming_random_region"]["value"] < 1.0
    assert rows["yes_no"]["value"] == 1.0  # the paper reasoner answers about the scene
    assert rows["elsewhere_no"]["value"] == 0.0
    assert 0.2 < rows["yes_share"]["value"] < 0.8
    assert world.encoded == 3


def test_a_deaf_reasoner_names_by_chance():
    _, rows = run("deaf")
    assert rows["naming"] == rows["naming_unsteered"]


@pytest.mark.parametrize(
    ("what", "action", "right"),
    [
        ("colour", "It is red.", True),
        ("colour", "It is blue.", False),
        ("shape", "It is a cube.", True),
        ("name", "There is a red cube at the bottom.", True),  # its place aside
        ("name", "There is a red cube and a red cube.", False),
        ("name", "There is a blue cube at the top left.", False),
    ],
)
def test_naming(what, action, right):
    assert refer.named(what, Turn("", action=action), RED) is right


def test_what_is_asked_for_in_vain_is_near_the_region_s_object_and_nowhere_in_the_scene():
    objects = (RED, VisibleObject("object_2", "red", "dish", (0.5, 0.5, 0.7, 0.6)))
    for seed in range(50):
        colour, shape = refer.absent_near(objects, RED, np.random.default_rng(seed)).split()
        assert not matching(objects, colour, shape) and (colour == "red" or shape == "cube")
    everything = tuple(
        VisibleObject("x", c, s, RED.box) for c in COLOURS for s in ("beaker", "flask", "vial", "dish", "cube")
    )
    assert refer.absent_near(everything, RED, np.random.default_rng(0)) is None
