"""Actions that contradict a region's label, and those that only may."""

import pytest

from steer_ros.reasoning.contradiction import contradiction, moves_nothing

RED = ["red beaker"]


@pytest.mark.parametrize(
    ("action", "labels"),
    [
        ("Pick up the blue beaker.", RED),
        ("Pick up the red dish.", RED),
        ("Pick up the blue dish.", RED),
        ("Take blue beaker", RED),
        ("It is blue.", RED),
        ("It's a cube.", RED),
        ("There is a green vial at the top left.", RED),
        ("Go to the blue dish.", RED),
        ("Pick up the small blue glass beaker.", RED),
        ("Pick up the blue one.", ["red square"]),
        ("PICK UP THE BLUE DISH", ["the red beaker on the left"]),
        ("Pick up the blue dish next to it.", RED),
        ("Take the green cube.", ["red beaker", "blue dish"]),
        ("Pick up the two hammers, the blue dishes first.", RED),
        ("Do not hurry. Pick up the blue dish.", RED),
        ("Avoid collisions. Pick up the blue dish.", RED),
        ("I see it. Pick up the blue dish.", RED),
        ("Once it moves, pick up the blue dish.", RED),
        ("No, pick up the blue dish.", RED),
        ("Pick up the blue dish next to the red beaker.", RED),
        ("Pick up the dish left of the beaker.", RED),
        ("Pick up the blue dish in front of the red beaker.", RED),
        ("Pick up the dish, cube and flask.", RED),
        ("Move the gripper to the blue dish.", RED),
        ("Please move over to the blue dish.", RED),
        ("Blue.", RED),
        ("Cube.", RED),
        ("blue cube", RED),
        ("Pick up dish.", RED),
        ("Grasp cube.", RED),
        ("Pick up the knives.", RED),
        ("Pick up the lamp.", ["red beaker"]),
        ("Pick up the pencil.", ["pencil box"]),
        ("Use the fork to pick up the blue dish.", RED),
        ("Use the blue dish.", RED),
    ],
)
def test_another_object_contradicts(action, labels):
    reason = contradiction(action, labels)
    assert reason.startswith("contradiction: ") and labels[0] in reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("action", "labels"),
    [
        ("Pick up the red beaker.", RED),
        ("Pick up the beaker.", RED),
        ("Pick up the crimson beaker.", RED),
        ("Pick up the red cup.", RED),  # may be a beaker by another word
        ("Pick up the container.", RED),
        ("Pick up the gizmo.", RED),
        ("Pick up the red one.", ["red square"]),
        ("Put it on the plate.", RED),
        ("Put the red beaker on the blue dish.", RED),
        ("On the blue dish you see the red beaker.", RED),
        ("Use the fork to reach it.", ["blue fork"]),
        ("Use the fork to pick it up.", RED),
        ("Pick up the lamp.", ["table lamp"]),
        ("Pick up the box.", ["pencil box"]),
        ("Pick up the towel.", ["dish towel"]),
        ("Open the door.", ["car door"]),
        ("Pick up the green flask.", ["teal flask"]),
        ("Pick up the blue flask.", ["turquoise flask"]),
        ("Pick up the purple flask.", ["magenta flask"]),
        ("Pick up the blue dish.", ["red beaker", ""]),  # the region without a label may be a blue dish
        ("Do not touch the cube, the blue dish, or the ball.", RED),
        ("Bring the salt to the table.", RED),
        ("Move the blue dish to the red beaker.", RED),  # the region may be where it goes
        ("Take the one next to the blue dish.", RED),
        ("Take hold of the red beaker and leave the blue dish.", RED),
        ("Take care of the red beaker. The blue dish stays.", RED),
        ("It is one of the red beakers. The blue dish is not it.", RED),
        ("Do not, whatever happens, pick up the blue dish.", RED),
        ("Pick up the dish, beaker and flask.", ["flask"]),
        ("Pick up the dish, beaker and flask.", RED),
        ("Grasp it with the blue glove.", RED),
        ("It is on the blue dish.", RED),
        ("There is no blue dish.", RED),
        ("Do not touch the blue dish.", RED),
        ("Don't pick up the cube.", RED),
        ("Yes.", RED),
        ("No.", RED),
        ("It is at the top left.", RED),
        ("Stop.", RED),
        ("", RED),
        ("Pick up the blue dish.", []),
        ("Pick up the blue dish.", ["left"]),
        ("Pick up the blue dish.", ["roi"]),
        ("Pick up the blue dish.", [""]),
        ("Pick up the blue dish.", ["red beaker", "thing"]),  # the thing may be a blue dish
        ("Pick up the blue dish.", ["red beaker", "blue dish"]),
        ("Pick up the cube.", ["block on the left"]),
        ("Pick up the grey cube.", ["gray cube"]),
        ("Pick up the orange.", ["orange"]),
        ("Pick up the vials.", ["vial"]),
        ("レッド ビーカー", RED),
    ],
)
def test_what_may_be_the_same_object_does_not(action, labels):
    assert contradiction(action, labels) == ""


def test_no_lab_answer_contradicts_its_own_object():
    from steer_ros.lab.scenes.instructions import OPEN, open_action
    from steer_ros.lab.scenes.scene import COLOURS, SHAPES
    from steer_ros.lab.scenes.visible_objects import VisibleObject

    objects = [VisibleObject("o", c, s, (0.1, 0.1, 0.2, 0.2)) for c in COLOURS for s in SHAPES]
    for target in objects:
        for task in OPEN:
            assert contradiction(open_action(task, target), [target.name]) == ""
        for task in ("pick", "describe"):
            others = [o for o in objects if o.name != target.name]
            assert all(contradiction(open_action(task, other), [target.name]) for other in others)


@pytest.mark.parametrize(
    ("action", "harmless"),
    [
        ("No.", True),
        ("YES!", True),
        ("There is no green square.", True),
        ("No, there is no small green square there.", True),
        ("I don’t see a red beaker.", True),
        ("There is no green square. Pick up the blue one.", False),
        ("There are no obstacles: move the arm to the left.", False),
        ("There is no red beaker so pick up the blue dish.", False),
        ("There is no red beaker and I pick up the blue dish.", False),
        ("I do not see the red beaker - pick up the blue dish.", False),
        ("There is no dish - beaker", False),
        ("There is not much time pick up the blue dish", False),
        ("There are no obstacles pick it up", False),
        ("Pick up the blue dish. There is no red one.", False),
        ("No, pick up the blue one.", False),
    ],
)
def test_what_moves_nothing(action, harmless):
    assert moves_nothing(action) is harmless
