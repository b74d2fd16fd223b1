"""What counts as over-steering, as a bad region, and as focus that never came."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steer_ros.reasoning.guard import find_collapse, find_loop, find_malformed, region_moved
from steer_ros.reasoning.region_checks import content, focus_warning, region_warning
from steer_ros.steering import Guard, make_law

ADDITIVE = make_law("additive", 4.0)


def decode(ids):
    """Tokens below 100 are letters, the others digits."""
    return "".join(chr(ord("a") + i) if i < 100 else str(i % 10) for i in ids)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([5, 1, 1, 1, 1, 1, 1], "'b' 6 times"),
        ([9, 9, 1, 2, 1, 2, 1, 2], "'bc' 3 times"),
        ([7, *[1, 2, 3, 4, 5] * 3], "'bcdef' 3 times"),
        ([101] * 16, "'1' 16 times"),
        ([101, 102] * 8, "'12' 8 times"),
    ],
)
def test_loops(ids, says):
    reason = find_loop(Guard(), ids, decode)
    assert reason.startswith("repetition: ") and says in reason
    assert find_loop(Guard(), ids[:-1], decode) == ""


@pytest.mark.parametrize(
    "ids", [[], [1], [1] * 5, [1, 2] * 2, [1, 2, 3, 4] * 2, [101] * 7, [1, 2, 3, 1, 2, 4, 1, 2, 5], [1] * 20 + [2]]
)
def test_no_loops(ids):
    assert find_loop(Guard(), ids, decode) == ""


@given(st.lists(st.integers(0, 3), max_size=6), st.lists(st.integers(0, 25), min_size=1, max_size=12))
def test_three_copies_of_anything_long_enough_are_a_loop(before, unit):
    copies = max(3, math.ceil(6 / len(unit)))
    assert find_loop(Guard(), before + unit * copies, decode)


def test_a_unit_longer_than_the_longest_is_none():
    unit = list(range(40))
    assert find_loop(Guard(), unit * 3, decode) == ""
    assert find_loop(Guard(max_period=40), unit * 3, decode)


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ("", "without an action"),
        (". Pick up", "begins with '.'"),
        ("Pick up the red red beaker.", "'red' twice"),
        ("There green vial green vial at the left.", "'green vial' twice"),
        ("Pick up the The beaker.", "'the' twice"),
        ("Pick up up and and the beaker.", "'and' twice"),
        ("Pick up the dish and dish and dish.", "'dish and' twice"),
        ("Pick up the red or red or red beaker.", "'red or' twice"),
        ("Put the beaker to beaker to beaker.", "'beaker to' twice"),
    ],
)
def test_malformed(action, says):
    reason = find_malformed(Guard(), "a thought", action)
    assert reason.startswith("malformed answer: ") and says in reason


@pytest.mark.parametrize(
    "action",
    ["Pick up the red beaker.", "It is 10 10 cm away.", "That that is, is.", "A very very small one.", "Yes.",
     "試験管", "The redder red beaker.", "(left) arm", "- one\n- two", "Move it step by step by step to the left.",
     "Turn it round and round and round.", "Turn it in in ten seconds.", "Give her her cup.",
     "Pick up the banana and a banana.", "Move the camera to a camera stand.", "Go on and on and on.",
     "red beaker\nred beaker"],
)  # fmt: skip
def test_well_formed(action):
    assert find_malformed(Guard(), "", action) == ""


def test_the_callers_idea_of_a_good_answer():
    guard = Guard(well_formed=lambda thought, action: action.endswith("."))
    assert find_malformed(guard, "hm", "Go.") == ""
    assert "'Go' is refused" in find_malformed(guard, "hm", "Go")
    assert "2 control tokens" in find_malformed(guard, "hm", "Go.", stray_control_tokens=2)


@pytest.mark.parametrize(
    ("before", "after", "says"), [(0.6, 0.99, "text"), (0.5, 0.04, "image"), (0.7, 0.95, ""), (0.7, 0.69, "")]
)
def test_attention_that_leaves_image_or_text(before, after, says):
    reason = find_collapse(Guard(), ADDITIVE, before, after)
    assert says in reason and reason.startswith("visual share collapsed") == bool(says)


def test_attention_that_is_not_judged():
    assert find_collapse(Guard(), ADDITIVE, None, None) == ""
    assert find_collapse(Guard(), SimpleNamespace(name="target"), 0.3, 0.99) == ""  # it is what was asked for
    assert find_collapse(Guard(collapse=0), ADDITIVE, 0.5, 1.0) == ""
    assert find_collapse(Guard(), ADDITIVE, 0.001, 0.0) == ""  # no image to speak of in the first place


@pytest.mark.parametrize(
    "settings",
    [{"retry_scales": ()}, {"retry_scales": (0.5, 1.0)}, {"retry_scales": (2.0, 1.0)}, {"retry_scales": 1.0},
     {"retry_scales": (1.0, "half")}, {"min_repeats": 1}, {"min_repeated_tokens": 2.5}, {"check_interval": 0},
     {"max_period": True}, {"collapse": 1.0}, {"collapse": math.nan},
     {"follow_moves": 1}, {"well_formed": "yes"}],
)  # fmt: skip
def test_bad_settings_are_named(settings):
    with pytest.raises(ValueError, match=rf"guard {next(iter(settings))}: .*accepted"):
        Guard(**settings)


@pytest.mark.parametrize(
    ("text", "guard"),
    [
        ("on", Guard()),
        ("off", None),
        ("retry_scales=1,0.25,0;follow_moves=false", Guard((1.0, 0.25, 0.0), follow_moves=False)),
        (" collapse=0.2 ; check_interval=4 ", Guard(collapse=0.2, check_interval=4)),
    ],
)
def test_guards_as_texts(text, guard):
    assert Guard.parse(text) == guard
    assert guard is None or Guard.parse(str(guard)) == guard


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "guard: ''"), (True, "guard: True"), ("scales=1,0", "scales is now retry_scales"), ("copies=3", "is now"),
     ("collapse=1", "guard collapse: 1.0"), ("max_period=no", "at 'max_period=no'"), ("well_formed=x", "at 'well"),
     ("follow_moves=1", "at 'follow_moves=1'"), ("max_period=3;max_period=4", "at 'max_period=4'")],
)  # fmt: skip
def test_bad_guard_texts_are_named(text, says):
    with pytest.raises(ValueError, match=says):
        Guard.parse(text)


def keys(*ones, size=10):
    weights = torch.zeros(size, dtype=torch.int8)
    weights[list(ones)] = 100
    return weights


@pytest.mark.parametrize(
    ("old", "new", "is_moved"),
    [((0, 1), (0, 1), False), ((0, 1), (1, 2), True), ((0, 1, 2), (1, 2), False), ((0, 1, 2), (1, 2, 3), False),
     ((0, 1), (5, 6), True), ((), (5, 6), False), ((5, 6), (), False), ((), (), False), ((0,), (0, 1), False)],
)  # fmt: skip
def test_moves(old, new, is_moved):
    assert region_moved(keys(*old), keys(*new)) is is_moved
    assert region_moved(keys(*new), keys(*old)) is is_moved
    assert not region_moved(-keys(*old), -keys(*new))  # what is looked away from is no region


def picture(contrast=8.0, seed=0):
    """[12, 12, 16] tokens of quiet ground, rows 2 to 4 and columns 2 to 4 a thing."""
    generator = torch.Generator().manual_seed(seed)
    tokens = 5 + torch.randn(12, 12, 16, generator=generator)
    tokens[2:5, 2:5] += contrast * torch.randn(3, 3, 16, generator=generator)
    return tokens


def inside(rows, cols):
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[rows, cols] = True
    return mask


def test_content_tells_a_thing_from_the_ground():
    tokens = picture()
    assert content(tokens, inside(slice(2, 5), slice(2, 5))) > 1
    assert content(tokens, inside(slice(7, 10), slice(7, 10))) < 0.5
    assert content(tokens, inside(3, 3)) > 1  # within it, too
    assert content(tokens, inside(8, 8)) < 0.5
    assert content(tokens, inside(0, 11)) < 0.5  # in a corner
    assert content(tokens, torch.ones(12, 12, dtype=torch.bool)) == pytest.approx(1)


def test_a_token_that_knows_its_place_is_not_content():
    """lab-vl's tokens say their row and column: a wide region on the bare bench differs much within itself."""
    generator = torch.Generator().manual_seed(1)
    rows, cols = 20 * torch.randn(12, 1, 16, generator=generator), 20 * torch.randn(1, 12, 16, generator=generator)
    tokens = picture(contrast=30.0) + rows + cols
    assert content(tokens, inside(slice(6, 12), slice(0, 12))) < 0.2
    assert content(tokens, inside(slice(2, 5), slice(2, 5))) > 2


def test_a_small_grid_has_its_middle_token_for_ground():
    tokens = torch.zeros(2, 6, 4) + 1
    tokens[1, 5] = 9.0
    where = torch.zeros(2, 6, dtype=torch.bool)
    where[1, 5] = True
    assert content(tokens, where) > 2 and content(tokens, ~where) == 0


def test_an_even_frame_has_nothing_anywhere():
    assert content(torch.full((12, 12, 16), 3.0), inside(3, 3)) == 0
    assert content(torch.zeros(12, 12, 16), inside(slice(2, 5), slice(2, 5))) == 0


def test_places_that_are_no_good():
    assert region_warning(1.2, 9, 144, 0.5, 0.6) == ""  # looked at, and for a reason
    assert region_warning(None, 9, 144, 0.5, 0.6) == ""
    assert region_warning(0.2, 9, 144, 0.02, 0.6).startswith("region is empty of content: ")
    assert region_warning(0.2, 9, 144, None, None).startswith("region is empty of content: ")
    sink = region_warning(0.2, 9, 144, 0.3, 0.6)  # half of the image's attention on a sixteenth of it
    assert sink.startswith("region lies on an attention sink: 8.0 times")


@pytest.mark.parametrize(
    ("law", "strength", "focus", "visual", "says"),
    [
        (ADDITIVE, 1.0, (0.1, 0.5), (0.7, 0.8), ""),
        (ADDITIVE, 1.0, (0.10, 0.101), (0.7, 0.7), "from 0.143 to 0.144"),
        (ADDITIVE, 1.0, (0.68, 0.69), (0.7, 0.7), ""),  # all of it was there already
        (ADDITIVE, 0.0, (0.1, 0.1), (0.7, 0.7), ""),
        (make_law("conserving", 0.1), 1.0, (0.1, 0.105), (0.7, 0.7), ""),  # little was asked for
        (make_law("conserving", -4.0), 1.0, (0.1, 0.01), (0.7, 0.7), ""),
        (make_law("conserving", 0.0), 1.0, (0.1, 0.1), (0.7, 0.7), ""),
        (ADDITIVE, 1.0, None, None, ""),
        (make_law("share", 0.0, 0.9), 1.0, (0.1, 0.63), (0.7, 0.7), ""),
        (make_law("share", 0.0, 0.9), 1.0, (0.1, 0.35), (0.7, 0.7), "got 0.50 of the image's attention, 0.90"),
        (make_law("share", 0.0, 0.9), 0.5, (0.1, 0.35), (0.7, 0.7), ""),
        (make_law("target", 0.0, 0.6), 1.0, (0.1, 0.6), (0.3, 0.8), ""),
        (make_law("target", 0.0, 0.6), 1.0, (0.1, 0.3), (0.3, 0.4), "got 0.30 of the attention, 0.60"),
    ],
)
def test_focus_that_never_came(law, strength, focus, visual, says):
    warning = focus_warning(law, strength, 1.0, focus, visual)
    assert says in warning and warning.startswith("focus never reached: ") == bool(says)


def test_why_nothing_was_steered_is_why_focus_was_not_reached():
    why = "the weights are the same on all visual keys"
    assert focus_warning(ADDITIVE, 1.0, 1.0, None, None, why) == f"focus never reached: {why}"
    assert focus_warning(make_law("none"), 1.0, 1.0, None, None, why) == ""
    assert focus_warning(ADDITIVE, 1.0, 0.0, None, None, why) == ""
