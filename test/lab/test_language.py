"""What is said on the bench: phrases mean one object, answers are in the models' own formats."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_ros.lab.scenes.instructions import (
    OPEN,
    draw_dialogue,
    exists_dialogue,
    named_dialogue,
    open_action,
    open_dialogue,
    open_thought,
)
from steer_ros.lab.scenes.referring_expressions import (
    NOTHING,
    grounding_answer,
    grounding_query,
    grounding_request,
    referring_phrase,
)
from steer_ros.lab.scenes.render import render
from steer_ros.lab.scenes.scene import COLOURS, SHAPES, make_scene
from steer_ros.lab.scenes.visible_objects import VisibleObject, matching, visible_objects_of
from steer_ros.perception.grounding import parse_answer

SEEDS = st.integers(0, 10**6)
quick = settings(max_examples=30, deadline=None)


def objects_for(seed, objects=None, duplicates=0.25):
    return visible_objects_of(render(make_scene(seed, objects, duplicates=duplicates), 112, 112))


def visible(number, x, y, colour="red", shape="beaker"):
    return VisibleObject(f"object_{number}", colour, shape, (x - 0.05, y - 0.05, x + 0.05, y + 0.05))


@quick
@given(SEEDS)
def test_a_referring_phrase_means_one_object(seed):
    objects = objects_for(seed, duplicates=1.0)
    phrases = {}
    for o in objects:
        try:
            phrases[o.id] = referring_phrase(o, objects)
        except ValueError as error:
            assert "no place word" in str(error) and len(matching(objects, o.colour, o.shape)) > 1
        else:
            assert phrases[o.id].startswith(o.name)
    assert len(set(phrases.values())) == len(phrases)


def test_twins_are_told_apart_by_their_place():
    left, right = visible(1, 0.2, 0.5), visible(2, 0.8, 0.5)
    assert referring_phrase(left, [left, right]) == "red beaker on the left"
    assert referring_phrase(right, [left, right]) == "red beaker on the right"
    above, below = visible(1, 0.5, 0.2), visible(2, 0.5, 0.8)
    assert referring_phrase(above, [above, below]) == "red beaker at the top"
    assert referring_phrase(below, [above, below]) == "red beaker at the bottom"
    middle = visible(3, 0.5, 0.5)
    with pytest.raises(ValueError, match="object_3"):
        referring_phrase(middle, [left, right, middle])
    assert referring_phrase(visible(4, 0.5, 0.5, "blue"), [left, right, visible(4, 0.5, 0.5, "blue")]) == "blue beaker"


@quick
@given(SEEDS)
def test_grounding_answers_parse_to_the_boxes(seed):
    rng = np.random.default_rng(seed)
    objects = objects_for(seed)
    phrase, found = grounding_query(rng, objects)
    answer = grounding_answer(phrase, found)
    assert phrase in grounding_request(rng, phrase)
    boxes = parse_answer(answer, (640, 480))
    assert len(boxes) == len(found)
    for got, true in zip(boxes, found):
        assert got.label == phrase
        true_px = np.array(true.box) * (640, 480, 640, 480)
        np.testing.assert_allclose(got.box, true_px, atol=0.65)  # a thousandth of the side
    if not found:
        assert answer == NOTHING
    xs = [(b.box[0] + b.box[2]) / 2 for b in boxes]
    assert all(a <= b + 0.7 for a, b in pairwise(xs))


@quick
@given(SEEDS)
def test_open_answers_are_about_an_object_of_the_scene(seed):
    rng = np.random.default_rng(seed)
    objects = objects_for(seed)
    dialogue = open_dialogue(rng, objects)
    assert dialogue.prompt in OPEN[dialogue.task] and dialogue.target in objects
    assert dialogue.action == open_action(dialogue.task, dialogue.target)
    assert dialogue.answer == f"{open_thought(dialogue.task, dialogue.target)}\n</think>\n\n{dialogue.action}"
    words = (*COLOURS, *SHAPES)
    assert not any(word in dialogue.prompt.lower() for word in words), "the instruction leaves the object open"


def test_every_object_is_a_right_answer():
    objects = objects_for(3, objects=4, duplicates=0.0)
    rng = np.random.default_rng(0)
    targets = [open_dialogue(rng, objects).target.id for _ in range(400)]
    shares = [targets.count(o.id) / len(targets) for o in objects]
    assert max(abs(share - 1 / len(objects)) for share in shares) < 0.08


def test_articles():
    assert open_action("describe", visible(1, 0.5, 0.5, "red")) == "There is a red beaker at the center."
    assert open_action("pick", visible(1, 0.1, 0.1)) == "Pick up the red beaker."
    assert open_action("where", visible(1, 0.9, 0.1)) == "It is at the top right."


def test_yes_and_no_come_equally_often_and_are_true():
    rng = np.random.default_rng(1)
    answers = []
    for seed in range(40):
        objects = objects_for(seed)
        for _ in range(20):
            dialogue = exists_dialogue(rng, objects)
            thing = dialogue.prompt.removesuffix("?").split(maxsplit=3)[3]
            there = any(all(word in (o.colour, o.shape, "object") for word in thing.split()) for o in objects)
            assert dialogue.action == ("Yes." if there else "No."), dialogue
            answers.append(there)
    assert 0.4 < np.mean(answers) < 0.6


@quick
@given(SEEDS)
def test_named_instructions_are_answered_about_what_they_name(seed):
    objects = objects_for(seed)
    dialogue = named_dialogue(np.random.default_rng(seed), objects)
    if dialogue.target is None:
        assert "There is no " in dialogue.action and not any(o.name in dialogue.prompt for o in objects)
    else:
        assert dialogue.target in objects and dialogue.target.name in dialogue.prompt


@quick
@given(SEEDS)
def test_every_dialogue_has_one_thought(seed):
    dialogue = draw_dialogue(np.random.default_rng(seed), objects_for(seed))
    assert dialogue.answer.count("</think>") == 1 and dialogue.thought and dialogue.action.endswith(".")
