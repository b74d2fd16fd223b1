"""Spatial phrases: what they parse to, which boxes they mean, and that no text breaks them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_ros.lab.scenes.referring_expressions import referring_phrase
from steer_ros.lab.scenes.render import render
from steer_ros.lab.scenes.scene import make_scene
from steer_ros.lab.scenes.visible_objects import visible_objects_of
from steer_ros.regions.areas import AREAS, RANKS, area_name
from steer_ros.regions.phrases import Phrase, area_box, parse_phrase, select

settings.register_profile("regions", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("regions")

SIZE = (400, 300)


@pytest.mark.parametrize(
    ("text", "area"),
    [
        ("left", "left"),
        ("on the left", "left"),
        ("RIGHT", "right"),
        ("the left-hand side", "left"),
        ("top-left", "top-left"),
        ("top left", "top-left"),
        ("topleft", "top-left"),
        ("Top_Left", "top-left"),
        ("upper left", "top-left"),
        ("the upper-left corner of the image", "top-left"),
        ("left top", "top-left"),
        ("lower right", "bottom-right"),
        ("at the bottom", "bottom"),
        ("center", "center"),
        ("centre", "center"),
        ("in the middle of the picture", "center"),
        ("right in the middle", "center"),
        ("top centre", "top-center"),
        ("middle left", "center-left"),
        ("left half", "left"),
        ("at the top, on the left", "top-left"),
        ("look to the left", "left"),
        ("please look at the top right!", "top-right"),
        ("everything on the left", "left"),
        ("the area at the top", "top"),
        ("the left of the camera image", "left"),
    ],
)
def test_bare_places(text, area):
    assert parse_phrase(text) == Phrase("", area)


@pytest.mark.parametrize(
    ("text", "noun", "area", "rank"),
    [
        ("red beaker", "red beaker", None, None),
        ("the red beaker on the left", "red beaker", "left", None),
        ("The Red Beaker, on the left.", "red beaker", "left", None),
        ("on the left, the red beaker", "red beaker", "left", None),
        ("On the left there is a red beaker", "red beaker", "left", None),
        ("the left beaker", "beaker", "left", None),
        ("upper right blue cube", "blue cube", "top-right", None),
        ("beaker, top left", "beaker", "top-left", None),
        ("beaker top left", "beaker", "top-left", None),
        ("red beaker left", "red beaker", "left", None),
        ("the vial that is located at the bottom right", "vial", "bottom-right", None),
        ("the flask that's in the centre", "flask", "center", None),
        ("red beaker at the top on the left", "red beaker", "top-left", None),
        ("where is the green dish on the right?", "green dish", "right", None),
        ("find me the cube in the bottom left-hand corner of the frame", "cube", "bottom-left", None),
        ("the red beaker in the image", "red beaker", None, None),
        ("leftmost cube", "cube", None, "leftmost"),
        ("the left-most cube", "cube", None, "leftmost"),
        ("the cube furthest to the right", "cube", None, "rightmost"),
        ("the far left cube", "cube", None, "leftmost"),
        ("the cube on the far right", "cube", None, "rightmost"),
        ("uppermost vial", "vial", None, "topmost"),
        ("the lowest vial", "vial", None, "bottommost"),
        ("leftmost cube at the top", "cube", "top", "leftmost"),
        ("leftmost", "", "left", "leftmost"),
        ("t-shirt on the left", "t-shirt", "left", None),
    ],
)
def test_nouns_with_places(text, noun, area, rank):
    assert parse_phrase(text) == Phrase(noun, area, rank)


@pytest.mark.parametrize(
    "noun",
    [
        "beaker to the left of the cube",
        "left of the cube",
        "cup on top of the box",
        "bottom of the bottle",
        "second cube from the left",
        "cup in the left drawer",
        "cube right next to the beaker",
        "left hand",
        "top hat",
        "bottle top",
        "laptop",
        "left right",
    ],
)
def test_places_that_are_not_of_the_frame_stay_in_the_noun(noun):
    assert parse_phrase(f"the {noun}") == Phrase(noun)


@pytest.mark.parametrize(
    ("text", "many"),
    [("all cubes on the left", True), ("the beakers", True), ("both vials", True), ("every cube", True),
     ("red beaker and blue cube", True), ("the red beaker", False), ("glass", False), ("the lens", False),
     ("the cube with stripes", False)],
)  # fmt: skip
def test_one_or_many(text, many):
    assert parse_phrase(text).many is many


def test_two_things_with_places_of_their_own_are_not_mixed_up():
    text = "red cube on the left and blue vial on the right"
    assert parse_phrase(text) == Phrase(text, many=True)


@pytest.mark.parametrize(
    "text",
    ["", " ", "\x00\n\t", "…", "😀🦾", "-", "''", "the", "please", "on the", ",,,,", "left left left left left",
     "the " * 5000, "left-" * 3000, "\ud800", "\ufdfa" * 2000, "%s {0} {noun} $(x) \\", "'; DROP TABLE", "NaN"],
)  # fmt: skip
def test_odd_texts_parse(text):
    assert isinstance(parse_phrase(text), Phrase)


def test_markup_never_reaches_the_noun():
    assert parse_phrase("<|im_end|>red {beaker}\x00 on the left").noun == "im end red beaker"
    assert parse_phrase("红色烧杯").noun == "红色烧杯"
    assert parse_phrase("हिन्दी").noun == "हिन्दी"


WORDS = (
    *("the", "a", "on", "at", "in", "to", "of", "and", "all", "is", "that", ",", "-", "'", "left", "right", "top"),
    *("bottom", "center", "most", "far", "side", "cube", "image"),
)


@given(st.text() | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_parses(text):
    phrase = parse_phrase(text)
    assert phrase.area is None or phrase.area in AREAS
    assert phrase.rank is None or phrase.rank in RANKS
    assert phrase.noun == " ".join(phrase.noun.split())
    assert not set(phrase.noun) & set('<>|{}[]\\"`\n\x00')


@pytest.mark.parametrize("text", [None, 5, b"left"])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(ValueError, match="phrase: got"):
        parse_phrase(text)


def test_areas_in_pixels():
    assert area_box("left", SIZE) == (0, 0, 200, 300)
    assert area_box("bottom-right", SIZE) == (200, 150, 400, 300)
    assert area_box("center", SIZE) == (100, 75, 300, 225)
    assert area_box("Upper Left", SIZE) == area_box("top_left", SIZE) == (0, 0, 200, 150)
    assert area_box("centre", SIZE) == area_box("center", SIZE)
    assert area_box("rightmost", SIZE) == area_box("right", SIZE)


@pytest.mark.parametrize("name", AREAS)
def test_every_area_is_its_own_name(name):
    assert area_name(name.split("-")) == name
    assert parse_phrase(name) == Phrase("", name)


@pytest.mark.parametrize("name", ["", "nowhere", "left right", "top bottom", None])
def test_unknown_areas_are_refused(name):
    with pytest.raises(ValueError, match="area: got"):
        area_box(name, SIZE)


def test_an_area_needs_a_frame():
    with pytest.raises(ValueError, match="frame_size: got 0x0"):
        area_box("left", (0, 0))


def at(*places, size=20):
    """Candidates of one size around centres in px, the first with the best score."""
    return [((x - size, y - size, x + size, y + size), 0.9 - i / 10) for i, (x, y) in enumerate(places)]


@pytest.mark.parametrize(
    ("text", "places", "chosen"),
    [
        ("beaker", [(50, 50), (350, 50)], [0, 1]),
        ("beaker on the left", [(350, 50), (50, 50)], [1]),
        ("beaker on the left", [(150, 50), (50, 50), (350, 50)], [1]),  # several there: the leftmost
        ("beakers on the left", [(150, 50), (50, 50), (350, 50)], [0, 1]),
        ("beaker on the left", [(380, 50), (250, 50)], [1]),  # none there, one clearly left of the other
        ("beaker on the left", [(250, 50), (265, 200)], []),  # none there, neither is clearly left of the other
        ("beaker on the left", [(350, 50)], []),  # the only one is elsewhere
        ("beakers on the left", [(380, 50), (250, 50)], []),
        ("beaker on the left", [], []),
        ("top-left beaker", [(190, 140), (30, 30)], [1]),
        ("top-left beaker", [(250, 60), (350, 160)], [0]),  # clearly left of and above the other
        ("top-left beaker", [(250, 160), (350, 60)], []),  # one is left, the other above
        ("beaker in the middle", [(110, 150), (210, 150), (390, 150)], [1]),
        ("beaker in the middle", [(20, 20), (80, 20), (50, 20)], [2]),  # in a row: the middle one
        ("beaker in the middle", [(20, 20), (80, 20)], []),
        ("leftmost beaker", [(390, 50), (350, 50)], [1]),
        ("bottommost beaker", [(390, 50), (350, 80)], [1]),
        ("leftmost beaker at the bottom", [(20, 50), (350, 200), (250, 220)], [2]),
        ("leftmost beaker", [], []),
    ],
)
def test_which_candidates_a_phrase_means(text, places, chosen):
    assert select(parse_phrase(text), at(*places), SIZE) == chosen


def test_the_phrases_of_the_lab_bench_mean_what_they_were_made_for():
    checked = 0
    for seed in range(40):
        objects = visible_objects_of(render(make_scene(seed, duplicates=1.0)))
        for obj in objects:
            try:
                phrase = parse_phrase(referring_phrase(obj, objects))
            except ValueError:  # duplicates too close to each other
                continue
            same = [other for other in objects if other.name == phrase.noun]
            boxes = [tuple(value * side for value, side in zip(other.box, SIZE * 2)) for other in same]
            chosen = select(phrase, [(box, 0.5) for box in boxes], SIZE)
            assert [same[i].id for i in chosen] == [obj.id]
            checked += phrase.area is not None
    assert checked > 20


def test_equal_places_go_by_score():
    box = (10, 10, 50, 50)
    assert select(Phrase("cube", "left"), [(box, float("nan")), (box, 0.2), (box, 0.7)], SIZE) == [2]


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 300)), max_size=6, unique_by=lambda p: p[0]))
def test_left_and_right_mirror_each_other(places):
    mirrored = [(400 - x, y) for x, y in places]
    for left, right in (("left", "right"), ("top-left", "top-right"), (None, None)):
        for ranks in ((None, None), ("leftmost", "rightmost")):
            chosen = select(Phrase("cube", left, ranks[0]), at(*places), SIZE)
            assert chosen == select(Phrase("cube", right, ranks[1]), at(*mirrored), SIZE)


@given(st.sampled_from(list(AREAS)), st.lists(st.tuples(st.integers(1, 399), st.integers(1, 299)), max_size=6))
def test_one_means_at_most_one_and_many_only_those_inside(area, places):
    candidates = at(*places)
    assert len(select(Phrase("cube", area), candidates, SIZE)) <= 1
    x0, y0, x1, y1 = area_box(area, SIZE)
    inside = [i for i, (x, y) in enumerate(places) if x0 <= x <= x1 and y0 <= y <= y1]
    assert select(Phrase("cubes", area, many=True), candidates, SIZE) == inside


def test_a_broken_candidate_is_named():
    with pytest.raises(ValueError, match=r"candidates\[1\]"):
        select(Phrase("cube", "left"), [((0, 0, 5, 5), 1.0), ((5, 5, 1, 1), 1.0)], SIZE)
