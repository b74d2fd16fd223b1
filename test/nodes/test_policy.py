"""The node's laws, schedule and policy: what the reasoner is asked for, held actions, rollbacks and warnings."""

import math

import pytest
from rclpy.parameter import Parameter
from ros_helpers import Bench
from ros_loop import Loop, report

from steer_ros.msg import ActionText
from steer_ros.steering import make_law

LABEL = {"look_for": "red square"}


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


def test_a_contradicting_action_is_published_with_a_warning(bench):
    loop = Loop(bench, True, perception=LABEL)
    loop.reasoner.action = "Pick up the blue one."
    answer = loop.send()
    assert (answer.text, answer.cut_short) == ("Pick up the blue one.", False)
    (warning,) = answer.warnings
    assert warning.startswith("contradiction: ") and "blue" in warning and "red square" in warning
    bench.wait(lambda: loop.texts, "the action")
    _, values = report(loop, loop.reasoning)
    assert values["contradiction"] == "1" and values["last_refusal"] == warning


@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
def test_by_policy_it_is_held_back_and_said_so(bench, together):
    loop = Loop(bench, together, perception=LABEL, reasoning={"policy": "hold"})
    loop.reasoner.action = "Pick up the blue one."
    answer = loop.send()
    assert (answer.text, answer.cut_short, answer.cut_reason) == ("", True, ActionText.CUT_CONTRADICTION)
    assert "held back" in answer.warnings[0]
    assert list(answer.region_labels) == ["red square"] and answer.law == "conserving"
    loop.reasoner.action = None
    assert loop.send().text == "Pick up the red one."
    bench.wait(lambda: loop.texts, "the action")
    assert [text.data for text in loop.texts] == ["Pick up the red one."]  # what was held never came
    _, values = report(loop, loop.reasoning)
    assert values["turns_cut_contradiction"] == "1"


def test_holding_needs_a_contradiction(bench):
    loop = Loop(bench, True, reasoning={"policy": "hold"})
    assert loop.send().text == "Pick up the blue one."  # no region at all
    loop.perception.parameters["look_for"] = "left"
    loop.reasoner.action = "Pick up the blue one."
    assert loop.send().text == "Pick up the blue one."  # a place says nothing of the object
    loop.perception.parameters["look_for"] = "red square"
    loop.reasoner.action = "Pick up the thing."
    assert loop.send().text == "Pick up the thing."
    loop.reasoner.action = "Pick up the blue one."
    assert loop.send().text == ""
    loop.reasoning.parameters["policy"] = "publish"
    assert loop.send().text == "Pick up the blue one."


@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
def test_an_action_whose_region_is_missing_is_told_and_by_policy_held_back(bench, together):
    loop = Loop(bench, together, perception={"look_for": "green square"})  # there is none
    answer = loop.send()
    assert (answer.text, answer.cut_reason) == ("Pick up the blue one.", "")
    (warning,) = answer.warnings
    assert warning.startswith("region missing: nothing was found")
    loop.reasoning.parameters["policy"] = "hold"
    answer = loop.send()
    assert (answer.text, answer.cut_short, answer.cut_reason) == ("", True, ActionText.CUT_REGION_MISSING)
    assert "held back" in answer.warnings[0]
    loop.reasoner.action = "No."
    assert loop.send().text == "No."  # which is true, and moves nothing
    loop.reasoner.action = "There is no green square."
    assert loop.send().text == "There is no green square."
    loop.reasoner.action = "No, pick up the blue one."
    assert loop.send().text == ""
    loop.reasoner.action = None
    loop.perception.parameters["look_for"] = ""
    assert loop.send().text == "Pick up the blue one."  # nobody said where to look
    bench.wait(lambda: len(loop.texts) == 4, "the actions")
    assert report(loop, loop.reasoning)[1]["region_missing"] == "5"


def test_a_box_where_there_is_no_frame_is_a_missing_region(bench):
    loop = Loop(bench, True, reasoning={"policy": "hold"})
    loop.perception._region_source.set_roi((500.0, 500.0, 510.0, 510.0))
    for _ in range(2):
        answer = loop.send()
        assert (answer.text, answer.cut_reason) == ("", ActionText.CUT_REGION_MISSING)
    loop.perception._region_source.set_roi((4.0, 4.0, 32.0, 32.0))
    assert loop.send().text


def test_the_policy_judges_by_the_strength_that_the_turn_had(bench):
    loop = Loop(bench, True, perception=LABEL, reasoning={"policy": "hold"})
    loop.reasoner.action = "Pick up the blue one."
    loop.reasoner.before_token = lambda: loop.reasoning.parameters.__setitem__("steering.alpha", -8.0)
    assert loop.send().cut_reason == ActionText.CUT_CONTRADICTION


def test_a_negative_strength_turns_away_from_the_region_and_so_does_the_policy(bench):
    loop = Loop(bench, True, perception=LABEL, reasoning={"policy": "hold", "steering.alpha": -8.0})
    loop.reasoner.action = "Pick up the blue one."
    answer = loop.send()
    assert (answer.text, answer.alpha) == ("Pick up the blue one.", -8.0) and not answer.warnings
    loop.reasoning.parameters["steering.alpha"] = -1e-9
    loop.reasoner.steers = False  # its schedule left this answer alone
    answer = loop.send()
    assert (answer.text, answer.law) == ("Pick up the blue one.", "")


def test_a_cut_action_keeps_its_own_reason(bench):
    loop = Loop(bench, True, perception=LABEL, reasoning={"policy": "hold"})
    loop.reasoner.action = ""
    answer = loop.send()
    assert (answer.text, answer.cut_reason) == ("", "") and not answer.warnings


def test_laws_with_a_setpoint_get_it_and_no_tilt(bench):
    parameters = {"steering.law": "share", "steering.setpoint": 1, "steering.alpha": 3.0}
    loop = Loop(bench, True, perception=LABEL, reasoning=parameters)
    answer = loop.send()
    assert (answer.law, answer.alpha, answer.setpoint) == ("share", 0.0, 1.0)
    loop.reasoning.parameters["steering.setpoint"] = 0.25
    loop.reasoning.parameters["steering.law"] = "target"
    answer = loop.send()
    assert (answer.law, answer.alpha, answer.setpoint) == ("target", 0.0, 0.25)
    loop.reasoning.parameters["steering.law"] = "additive"
    answer = loop.send()
    assert (answer.law, answer.alpha) == ("additive", 3.0) and math.isnan(answer.setpoint)
    laws = [call["config"].law for call in loop.reasoner.calls]
    assert laws == [make_law("share", 0.0, 1.0), make_law("target", 0.0, 0.25), make_law("additive", 3.0)]


def test_steering_is_the_models_own_where_nothing_is_said(bench):
    loop = Loop(bench, True, perception=LABEL)
    own = loop.reasoner.config
    loop.send()
    assert loop.reasoner.calls[-1]["config"] == own
    _, values = report(loop, loop.reasoning)
    assert (values["steering"], values["steering_from"]) == (str(own), "the model's steering.json")
    loop.reasoning.parameters["steering.law"] = "additive"  # another law begins with its usual alpha
    loop.reasoning.parameters["steering.guard"] = "off"
    loop.send()
    assert loop.reasoner.calls[-1]["config"] == own.override(law="additive", alpha=2.0, guard="off")
    _, values = report(loop, loop.reasoning)
    assert values["steering"] == "additive, alpha 2, gate all, schedule prompt=0, guard off"
    assert values["steering_from"] == "steering.law, steering.guard; the rest from the model's steering.json"


def test_a_law_without_the_setpoint_that_it_needs_is_refused(bench):
    loop = Loop(bench, True, perception=LABEL)
    with pytest.raises(
        ValueError, match=r"parameter steering\.setpoint: 'model', and the model has none for law share"
    ):
        loop.reasoning.parameters["steering.law"] = "share"
    loop.reasoning.parameters["steering.setpoint"] = 1.0
    with pytest.raises(ValueError, match=r"parameter steering\.setpoint: 1\.0; .*accepted"):
        loop.reasoning.parameters["steering.law"] = "target"
    assert loop.reasoning.parameters["steering.law"] == "model"
    both = [Parameter("steering.law", value="share"), Parameter("steering.setpoint", value=0.5)]
    assert loop.reasoning.set_parameters_atomically(both).successful
    assert (loop.send().law, loop.actions[-1].setpoint) == ("share", 0.5)


def test_the_schedule_is_the_parameters(bench):
    loop = Loop(bench, True, perception=LABEL)
    answer = loop.send()
    assert answer.steered_tokens == 1
    loop.reasoning.parameters["steering.schedule"] = "act=0;half_life=20"
    loop.send()
    schedules = [str(call["config"].schedule) for call in loop.reasoner.calls]
    assert schedules == ["prompt=0", "act=0;half_life=20"]
    with pytest.raises(ValueError, match=r"steering\.schedule: 'act=7'.*accepted"):
        loop.reasoning.parameters["steering.schedule"] = "act=7"


def test_a_rollback_takes_back_the_thought_and_is_counted(bench):
    loop = Loop(bench, True, perception=LABEL)
    loop.reasoner.over_steered = "repetition: 'look' 3 times in a row"
    answer = loop.send()
    assert (answer.text, answer.rollbacks, answer.alpha) == ("Pick up the red one.", 1, 4.0)
    assert list(answer.warnings) == ["rolled back to 0.5 of the strength: repetition: 'look' 3 times in a row"]
    bench.wait(lambda: len(loop.thoughts) == 4, "the thoughts")
    said = [thought.data for thought in loop.thoughts]
    assert said == ["look look look", "", "I look at ", "I look at the red one."]
    _, values = report(loop, loop.reasoning)
    assert (values["rollbacks"], values["rolled_back"]) == ("1", "1")
