"""The examination's own judgement: what counts as naming, and what as a hit."""

import pytest

from steer_ros.evaluation.examine import names_only_what_is_there, object_in_action
from steer_ros.lab.scenes.visible_objects import VisibleObject

OBJECTS = (
    VisibleObject("object_1", "red", "cube", (0.1, 0.1, 0.3, 0.3)),
    VisibleObject("object_2", "blue", "dish", (0.6, 0.6, 0.9, 0.8)),
)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("I look at the red cube. Pick up the red cube.", True),
        ("I look at the red dish. Pick up the red cube.", False),
        ("I look at it.", False),
        ("There is a blue dish at the bottom right.", True),
    ],
)
def test_naming_what_is_not_there_is_caught(text, right):
    assert names_only_what_is_there(text, OBJECTS) is right


@pytest.mark.parametrize(
    ("task", "action", "name"),
    [
        ("pick", "Pick up the blue dish.", "blue dish"),
        ("pick", "Pick up the blue dish. Pick up the blue dish.", None),
        ("describe", "There is a red cube at the top left.", "red cube"),
        ("describe", "There is a red cube at the top.", None),
    ],
)
def test_an_answer_is_right_when_it_is_whole_and_true(task, action, name):
    found = object_in_action(task, action, OBJECTS)
    assert (found and found.name) == name
