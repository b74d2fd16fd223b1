"""Suite redirect: its judgement, its switches, its strengths, and regions at the edge of sense."""

import numpy as np
import pytest
from evaluation_helpers import World

from steer_ros.evaluation.harness.answer_grammar import (
    KINDS,
    action_matches,
    another,
    exact_match,
    first_mention,
    malformed,
    repeats,
)
from steer_ros.evaluation.harness.cases import cases
from steer_ros.evaluation.harness.steering_setup import (
    STEPS,
    UNSTEERED,
    SteeringSetup,
    default_setup,
    discovered_heads,
    override,
    random_heads,
    scaled,
)
from steer_ros.evaluation.harness.turns import LONGEST, ask
from steer_ros.evaluation.suites import redirect
from steer_ros.lab.scenes.instructions import OPEN, open_action, open_thought
from steer_ros.lab.scenes.visible_objects import VisibleObject
from steer_ros.lab.seeds import REDIRECT_SEEDS
from steer_ros.perception import Perceiver
from steer_ros.reasoning import Reasoner, Turn
from steer_ros.regions.mask import box_weights
from steer_ros.steering import Gate, SteeringConfig, make_law
from steer_ros.steering.head_gains import HeadGainNet
from steer_ros.steering.schedule import Schedule
from steer_ros.steering.steering_file import SteeringFile

RED = VisibleObject("object_1", "red", "cube", (0.1, 0.1, 0.3, 0.3))
BLUE = VisibleObject("object_2", "blue", "dish", (0.6, 0.6, 0.9, 0.8))


def turn(thought, action, **more):
    return Turn("", thought=thought, action=action, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_answer_of_each_kind_is_whole_and_well_formed(kind):
    answer = turn(open_thought(kind, RED), open_action(kind, RED))
    assert exact_match(kind, answer, RED) and not exact_match(kind, answer, BLUE)
    assert action_matches(kind, answer, RED) and not malformed(kind, answer) and not repeats(answer)
    assert first_mention(answer) == "red cube"


@pytest.mark.parametrize(
    ("thought", "action", "is_whole", "is_malformed"),
    [
        ("I look at the red cube.", "Pick up the red cube.", True, False),
        ("I look at the blue dish.", "Pick up the red cube.", False, False),  # well-formed, and not all about it
        ("I look at the red cube.", "Pick up the red red cube.", False, True),
        ("I look at the red cube. red cube.", "Pick up the red cube.", True, True),
        ("", "Pick up the red cube.", False, True),
        ("I look at the red cube.", "", False, True),
        ("I look at the red cube.", "Pick up the red cube. Pick up the red cube.", False, True),
        ("I look at the red cube.", "There is a red cube at the top.", False, True),  # another kind's answer
    ],
)
def test_whole_and_malformed(thought, action, is_whole, is_malformed):
    answer = turn(thought, action)
    assert exact_match("pick", answer, RED) is is_whole
    assert malformed("pick", answer) is is_malformed


def test_an_answer_that_was_cut_is_malformed():
    assert malformed("pick", turn("I look at the red cube.", "Pick up the red cube.", cut_short=True))


@pytest.mark.parametrize(
    ("text", "circles"),
    [
        ("look look", True),
        ("I see it. I see it. I see it. now", True),
        ("I look for the red cube. I do not see it.", False),
    ],
)
def test_repetition(text, circles):
    assert repeats(turn(text, "")) is circles
    assert repeats(turn("", text)) is circles


def test_the_object_that_the_region_moves_to_has_another_name():
    duplicate = VisibleObject("object_3", "red", "cube", (0.7, 0.1, 0.9, 0.3))
    assert another((RED, duplicate, BLUE), RED) is BLUE
    assert another((RED, duplicate), RED) is None


def run(mood, **given):
    world = World(mood)
    world.learn_seeds(REDIRECT_SEEDS.start, 6)
    setup = SteeringSetup("test", SteeringConfig(make_law("conserving", 2.0)))
    return world, redirect.run(world.options(limit=2, setup=setup, **given))


def test_a_reasoner_that_follows_is_right_everywhere():
    world, rows = run("follow")
    assert set(rows) == set(redirect.KEYS)
    for key in ("whole_answer", "first_mention", "perceived", "perceived_found", "switch_early", "range4x_min"):
        assert rows[key]["value"] == 1.0, key
    assert rows["switch_followed"]["value"] == 1.0
    assert rows["malformed"]["value"] == 0.0
    assert rows["unsteered"]["value"] < 0.8
    assert rows["whole_answer"]["n"] == 2 * rows["whole_pick"]["n"]
    assert world.encoded == 2  # one scene's features are encoded once


def test_a_deaf_reasoner_is_right_by_chance_alone():
    _, rows = run("deaf")
    for key in ("whole_answer", "range4x_min"):
        assert rows[key]["value"] == pytest.approx(rows["unsteered"]["value"], abs=0.2)
    assert rows["switch_followed"]["value"] < 1.0 and rows["malformed"]["value"] == 0.0


def test_babble_is_malformed():
    _, rows = run("mute")
    assert rows["malformed"]["value"] == 1.0 and rows["whole_answer"]["value"] == 0.0
    assert rows["switch_followed"]["value"] == 0.0  # the thought named nothing: the switch never came


def test_the_strengths_are_five_over_a_fourfold_range():
    world, _ = run("follow")
    alphas = {asked["config"].law.alpha for asked in world.asked if asked["mask"] is not None}
    assert sorted(alphas) == pytest.approx([2.0 * step for step in STEPS])
    assert max(alphas) / min(alphas) == pytest.approx(4.0)


def test_nothing_to_steer_has_no_strength_and_no_switch():
    world = World("follow")
    world.learn_seeds(REDIRECT_SEEDS.start, 3)
    rows = redirect.run(world.options(limit=1, setup=UNSTEERED))
    assert "range4x_min" not in rows and "switch_followed" not in rows
    assert rows["whole_answer"]["value"] == rows["unsteered"]["value"]
    with pytest.raises(ValueError, match="does not steer"):
        scaled(UNSTEERED, 2.0, 0.05)


def test_strength_of_share_and_target_is_what_takes_a_typical_region_to_the_setpoint():
    setup = SteeringSetup("share", SteeringConfig(make_law("share", 0.0, 0.9)))
    half, double = scaled(setup, 0.5, 0.05), scaled(setup, 2.0, 0.05)
    bias = np.log(0.9 / 0.1) - np.log(0.05 / 0.95)
    for scale, found in ((0.5, half), (2.0, double)):
        odds = found.config.law.setpoint / (1 - found.config.law.setpoint)
        assert np.log(odds) - np.log(0.05 / 0.95) == pytest.approx(scale * bias)
    assert scaled(setup, 1.0, 0.05).config.law.setpoint == pytest.approx(0.9)
    assert (
        scaled(SteeringSetup("x", SteeringConfig(make_law("additive", 50.0))), 2.0, 0.05).config.law.alpha == 64.0
    )  # bounded


def test_defaults_and_overrides():
    assert str(default_setup(World())) == "conserving, alpha 2"
    world, net = World(), HeadGainNet()
    config = SteeringConfig(make_law("additive", 3.0), Gate((1,)), Schedule(confidence_threshold=0.9), net)
    world.steering_file = SteeringFile(config)
    own = default_setup(world)
    assert own.config == config
    assert str(own) == (
        "additive, alpha 3, learnt gains for each head, gate layers=1, schedule confidence_threshold=0.9"
    )
    assert override(own, {"gate": "all"}).config.head_gains is net
    assert override(own, {"alpha": 2.0}).config.head_gains is None
    base = SteeringSetup("ours", SteeringConfig(make_law("conserving", 4.0), Gate.parse("layers=1")))
    assert override(base, {"alpha": None, "law": None}) is base
    assert str(override(base, {"alpha": 6})) == "conserving, alpha 6, gate layers=1"
    assert str(override(base, {"law": "additive"})) == "additive, alpha 2, gate layers=1"
    assert str(override(base, {"law": "share", "setpoint": 0.8})) == "share, setpoint 0.8, gate layers=1"
    for wrong in ({"alpha": 65.0}, {"alpha": float("nan")}, {"law": "share"}, {"gate": "rows=1"}, {"schedule": "x"}):
        with pytest.raises(ValueError, match=next(iter(wrong)) if "law" not in wrong else "setpoint"):
            override(base, wrong)


def test_the_model_s_own_setting_never_leaks_into_another_method_s():
    """What generate is not told it takes from the model's steering.json: so it is told everything."""
    config = SteeringConfig(make_law("additive", 2.0), guard=None)
    assert SteeringSetup("bare", config).arguments(np.zeros((2, 2), np.int8))["config"] is config
    plain = UNSTEERED.arguments(np.zeros((2, 2), np.int8))
    assert plain["masks"] is None and plain["config"].law.name == "none" and plain["config"].guard is None


def test_the_heads_that_a_model_s_gate_names():
    world = World()
    assert discovered_heads(world) == ()
    assert len(set(random_heads(world, 5))) == 5 and random_heads(world, 5) == random_heads(world, 5)
    world.steering_file = SteeringFile(SteeringConfig(make_law("conserving", 2.0), Gate(pairs=((0, 1), (3, 2)))))
    assert discovered_heads(world) == ((0, 1), (3, 2))
    world.steering_file = SteeringFile(SteeringConfig(make_law("conserving", 2.0)))
    assert discovered_heads(world) == ()  # all of them is no discovery
    world.steering_file = SteeringFile(SteeringConfig(make_law("conserving", 2.0)), heads=Gate(pairs=((1, 1),)))
    assert discovered_heads(world) == ((1, 1),)  # whatever the search then preferred


@pytest.fixture(scope="module")
def pair():
    perceiver, reasoner = Perceiver.from_pretrained("builtin:lab-vl"), Reasoner.from_pretrained("builtin:lab-r1")
    yield perceiver, reasoner, next(cases(perceiver, REDIRECT_SEEDS.start, 1, names=2))
    reasoner.close()


def region(case, box):
    return box_weights(case.features.grid, case.features.frame_size, box)


@pytest.mark.parametrize("law", ["conserving", "additive"])
def test_an_empty_region_leaves_the_answer_and_says_so(pair, law):
    _, reasoner, case = pair
    prompt = OPEN["pick"][0]
    setup = SteeringSetup("test", SteeringConfig(make_law(law, 2.0)))
    plain = ask(reasoner, case.features, prompt, UNSTEERED, None)
    steered = ask(reasoner, case.features, prompt, setup, np.zeros((24, 24), np.int8))
    assert (steered.thought, steered.action) == (plain.thought, plain.action)
    assert steered.steered is False and "0" in steered.unsteered_why


def test_the_whole_frame_as_region_moves_nothing_and_says_so(pair):
    _, reasoner, case = pair
    prompt, setup = OPEN["pick"][0], SteeringSetup("test", SteeringConfig(make_law("conserving", 2.0)))
    plain = ask(reasoner, case.features, prompt, UNSTEERED, None)
    steered = ask(reasoner, case.features, prompt, setup, region(case, (0, 0, 336, 336)))
    assert (steered.thought, steered.action) == (plain.thought, plain.action)
    assert steered.steered is False and "same" in steered.unsteered_why


@pytest.mark.parametrize(
    ("box", "alpha"),
    [
        ((140, 140, 168, 168), 2.0),  # one token
        ((-40, -40, 20, 20), 2.0),  # over the border
        ((300, 300, 336, 400), 2.0),
        ((40, 40, 120, 120), 50.0),
        ((140, 140, 168, 168), 50.0),
    ],
)
@pytest.mark.parametrize("law", ["conserving", "additive"])
def test_small_regions_borders_and_great_strength_are_bounded(pair, law, box, alpha):
    _, reasoner, case = pair
    steered = ask(
        reasoner,
        case.features,
        OPEN["pick"][0],
        SteeringSetup("test", SteeringConfig(make_law(law, alpha))),
        region(case, box),
    )
    assert 0 < len(steered.output_ids) <= LONGEST
    assert steered.steered or steered.rollbacks  # what breaks the answer is taken back within the turn


def test_a_region_outside_the_frame_is_refused(pair):
    with pytest.raises(ValueError, match="overlaps the frame"):
        region(pair[2], (400, 0, 500, 100))
