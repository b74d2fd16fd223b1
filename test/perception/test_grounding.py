"""Qwen2-VL's box format, written and read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer_ros.perception.grounding import NOTHING, format_answer, format_box, parse_answer

SIZE = (640, 480)
BEAKER = "<|object_ref_start|>red beaker<|object_ref_end|>"


def boxes(answer, size=SIZE, label=""):
    return [(found.label, found.box) for found in parse_answer(answer, size, label)]


def test_format():
    assert format_box((64, 48, 320, 240), SIZE) == "<|box_start|>(100,100),(500,500)<|box_end|>"
    assert format_box((0, 0, 640, 480), SIZE) == "<|box_start|>(000,000),(999,999)<|box_end|>"
    assert format_box((0, 0, 64, 48), SIZE, digits=1) == "<|box_start|>(0,0),(100,100)<|box_end|>"
    assert format_answer([], SIZE) == NOTHING


def test_several_boxes_of_one_label():
    answer = format_answer([("red beaker", (0, 0, 64, 48)), ("red beaker", (320, 0, 384, 48))], SIZE)
    assert answer.count("red beaker") == 1
    assert boxes(answer) == [("red beaker", (0, 0, 64, 48)), ("red beaker", (320, 0, 384, 48))]


def test_several_labels():
    answer = format_answer([("cube", (0, 0, 64, 48)), ("dish", (64, 48, 128, 96))], SIZE)
    assert [label for label, _ in boxes(answer)] == ["cube", "dish"]


@given(
    st.tuples(*[st.integers(1, 4000)] * 2),
    st.tuples(*[st.floats(0, 0.99)] * 2),
    st.tuples(*[st.floats(0, 1)] * 2),
)
def test_round_trip(size, corner, far):
    width, height = size
    x0, y0 = corner[0] * width, corner[1] * height
    box = (x0, y0, x0 + max(far[0], 0.005) * (width - x0), y0 + max(far[1], 0.005) * (height - y0))
    for label, back in boxes(format_answer([("cube", box)], size), size):
        assert label == "cube"
        for value, found, side in zip(box, back, (width, height, width, height), strict=True):
            assert abs(value - found) <= side / 1000 + 1e-6
            assert 0 <= found <= side


@pytest.mark.parametrize(
    "answer",
    [
        "(45,123),(210,345)",
        "<|box_start|>(045,123),(210,345)<|box_end|>",
        "<|box_start|>(45, 123), (210, 345)",
        "<|box_start|>(210,345),(45,123)<|box_end|>",
        "It is at (0045,0123),(0210,0345).",
    ],
)
def test_ways_to_write_a_box(answer):
    ((label, box),) = boxes(answer, (1000, 1000), "cube")
    assert (label, box) == ("cube", (45, 123, 210, 345))


@pytest.mark.parametrize(
    "answer",
    [
        "", "none", "none.", BEAKER, BEAKER + "<|box_start|><|box_end|>",
        "(1,2)", "(1,2),(3", "(1,2),(3,4", "(a,b),(c,d)",
        "(-1,-2),(-3,-4)", "(12345,1),(2,3)", "(5,5),(5,9)", "(5,5),(9,5)", "(7,7),(7,7)", "(1.5,2),(3,4)",
        "<|box_end|>(,),(,)<|box_start|>", "(2000,5),(3000,9)",
    ],
)  # fmt: skip
def test_no_box(answer):
    assert boxes(answer) == []


def test_clamped():
    assert boxes("(0,0),(1500,2000)", (1000, 1000)) == [("", (0, 0, 999, 999))]


def test_characters_that_spell_a_box():
    answer = BEAKER + "<|box_start|>(1,2),(3,4)<|box_end|>"
    (found,) = parse_answer(answer, SIZE)
    assert answer[found.start : found.end] == "(1,2),(3,4)"


@given(st.text(alphabet="(),0123456789 <|>_abox", max_size=60))
def test_any_text_parses(answer):
    for found in parse_answer(answer, SIZE):
        x0, y0, x1, y1 = found.box
        assert 0 <= x0 < x1 <= SIZE[0] and 0 <= y0 < y1 <= SIZE[1]
